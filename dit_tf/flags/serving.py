"""Flags of what serves a model: export, query, app."""

from dit_tf.flags.groups import Definer, define_model, define_sampler
from dit_tf.samplers.options import SamplerOptions
from dit_tf.serving.stored_weights import DTYPES


def define_export(values):
    """A trained model as a SavedModel that TensorFlow Serving serves: one request of classes, seeds and guidance scales
    gives images. Sampler and steps are fixed by the flags; another set of them is another version or another name."""
    define, o = Definer(values), SamplerOptions()
    define_model(define)
    define_sampler(define)
    values.set_default("cfg_scale", 1.5)
    values["cfg_scale"].help = "Guidance of the warm-up requests; each request brings its own."
    define.float("atol", o.atol, "Absolute tolerance of --solver=dopri5, per image.")
    define.float("rtol", o.rtol, "Relative tolerance of --solver=dopri5.")
    define.string("weights_dtype", DTYPES[0], f"What the weights are stored as: {', '.join(DTYPES)}.")
    define.bool("xla", False, "A second signature, serving_xla, that is compiled for each number of rows.")
    define.list("batch_sizes", "1,2,4,8", "Rows of a batch that the server makes; the last is the most of a request.")
    define.string("output", "models/dit/1", "The directory to write, which ends in a version number: NAME/1, NAME/2.")
