"""Flags of what serves a model: export, query, app."""

from dit_tf.flags.groups import Definer, define_labels, define_model, define_sampler
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


def define_query(values):
    """How images are drawn from a served model, through TensorFlow Serving's gRPC or REST. While the server is
    unavailable it is asked again; any other refusal ends the query. An interrupted query goes on."""
    define, o = Definer(values), SamplerOptions()
    define.string("server", None, "grpc://HOST:8500, or http://HOST:8501 or https://HOST:PORT with a path if need be.")
    define.string("model", "dit", "The name that --server knows the model by.")
    define.integer("model_version", None, "Its version; default: the newest when the query begins.")
    define.list("labels", None, "Classes by number, name or id, e.g. 207,daisy,n01440764; image i gets label i, round.")
    define_labels(define)
    define.integer("num_samples", None, "How many; default: one per label. Without --labels they are random.")
    define.float("cfg_scale", o.cfg_scale, "Classifier-free guidance; 1: none.")
    define.seed("Image i has the seed --seed + i: it is image 0 of sample with that --seed.")
    define.integer("batch_size", 8, "Rows of a request; where the server takes fewer, as many as it takes.")
    define.float("deadline", 120.0, "Seconds that a request may take, with all its tries.")
    define.string("output", "samples.png", "A .png grid, or an .npz as ADM's evaluator reads it.")


def define_app(values):
    """A local web page that draws images: of a checkpoint, of a .keras file or of a serving address. Without any it
    shows the newest model of launch/demo.sh."""
    define = Definer(values)
    define_model(define)
    define.string("server", None, "Instead of a model: a serving address, grpc://HOST:8500 or http://HOST:8501.")
    define.string("model", "dit", "The name that --server knows the model by.")
    define.string("host", "127.0.0.1", "The address that the page is opened on; 0.0.0.0: for other machines too.")
    define.integer("port", 7860, "Its port.")
