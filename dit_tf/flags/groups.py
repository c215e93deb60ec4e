"""Flags that several commands have."""

import functools
import math

from absl import flags

from dit_tf.config import CROPS, MOST_SEED
from dit_tf.evaluation.extractor import FEATURES
from dit_tf.evaluation.precision_recall import DTYPES
from dit_tf.runtime.distribution import STRATEGIES, make_strategy
from dit_tf.runtime.versions import check_path, installed, line, table
from dit_tf.samplers.labels import LABEL_POLICIES
from dit_tf.samplers.options import DEFAULT_STEPS, SAMPLERS, SOLVERS_OF, SamplerOptions
from dit_tf.samplers.sde import DIFFUSIONS, LAST_STEPS

_PATHS = ("workdir", "dataset", "from_latents", "init_from", "weights", "vae", "samples", "reference", "output")
IMAGES = "an .npz or .npy, a folder of PNG or JPEG files, or a data set: digits, a TensorFlow Datasets name, folder:DIR"


class Definer:
    """absl's DEFINE_* into one set of flags. No float may be nan or infinite."""

    def __init__(self, values):
        self._values = values
        for kind in ("string", "integer", "bool", "list"):
            setattr(self, kind, functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=values))

    def float(self, name, default, help):
        flags.DEFINE(_Finite(), name, default, help, self._values, flags.ArgumentSerializer())

    def seed(self, help):
        self.integer("seed", 0, help, lower_bound=0, upper_bound=MOST_SEED)


class _Finite(flags.FloatParser):
    syntactic_help = "a finite number"

    def convert(self, argument):
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError(f"must be {self.syntactic_help}")
        return value


def define_data(define, c):
    define.string("dataset", c.dataset, "digits, a TensorFlow Datasets name, folder:DIR, or latents:DIR (of encode).")
    define_data_dir(define)
    define.string("split", c.split, "Split to read.")
    define.integer("image_size", None, "Side in pixels; default: the data set's own, or 256.")
    define_crop(define, c)
    define.bool("horizontal_flip", None, "Mirror half of the images; default: not for written characters.")


def define_data_dir(define):
    define.string("data_dir", None, "Where prepared data sets lie; default: TensorFlow Datasets' own.")


def define_crop(define, c):
    define.string("crop", c.crop, f"ADM's centre crop: {', '.join(CROPS)} (to the bit PIL's, and slower).")


def define_model(define):
    define.string("workdir", None, "Work directory of a training; its newest averaged weights are used.")
    define.string("weights", None, "A .keras file instead of a work directory.")
    define.string("vae", None, "Autoencoder, for a model of latents: what convert wrote, a published file or name.")


def define_scaling_factor(define):
    define.float("scaling_factor", None, "Of an autoencoder's latents; default: its config.json's, a published name's.")


def define_sampler(define):
    o = SamplerOptions()
    define.string("sampler", None, f"One of {', '.join(SAMPLERS)}; default: ddpm, of a flow model ode.")
    steps = ", ".join(f"{name} {count}" for name, count in DEFAULT_STEPS.items())
    define.integer("num_steps", None, f"Steps of the sampler; default: {steps}.")
    solvers = "; ".join(f"{name}: {', '.join(solvers)}" for name, solvers in SOLVERS_OF.items())
    define.string("solver", None, f"Of ode and sde, the first is the default. {solvers}.")
    define.float("eta", o.eta, "DDIM's noise, 0 to 1.")
    define.string("diffusion", o.diffusion, f"Coefficient w(t) of sde: {', '.join(DIFFUSIONS)}.")
    define.float("diffusion_norm", o.diffusion_norm, "Scale of w(t).")
    define.float("diffusion_eta", o.diffusion_eta, "What kl_eta pays for w(t), in units of the model's loss.")
    define.string("last_step", o.last_step, f"Of sde, without noise: {', '.join(LAST_STEPS)}.")
    define.float("last_step_size", o.last_step_size, "Its length; the whole way is 1.")
    define.float("timestep_shift", o.timestep_shift, "Above 1: more of the steps near noise.")
    define.float("cfg_scale", o.cfg_scale, "Classifier-free guidance; 1: none.")
    define.integer("guided_channels", None, "Guide the first so many channels; default: 3 of latents, else all.")
    define.list("guidance_interval", "0,1", "Guide between these places only; noise is 0, data 1.")


def define_labels(define):
    default, other = LABEL_POLICIES
    define.string("label_policy", default, f"Labels that are not given: {default}, {other} (every class as often).")


def define_reference(define, otherwise):
    """What images are compared with, and how."""
    define.string("reference", None, f"What samples are compared with: {IMAGES}.{otherwise}")
    define.string("reference_split", "train", "Where --reference is a data set.")
    define.string("features", FEATURES[0], f"What images are compared by: {', '.join(FEATURES)} (small images).")
    define.string("inception", None, "classify_image_graph_def.pb; default: the published one, fetched once.")
    define.integer("num_reference_images", None, "For precision and recall, evenly spaced; default: all.")
    define.string("precision_recall_dtype", DTYPES[0], f"Of their distances: {', '.join(DTYPES)} (ADM's is the first).")
    define.bool("allow_few_samples", False, "Score fewer images than there are features (2048) all the same.")


def define_devices(define):
    define.string("strategy", "auto", f"One of {', '.join(STRATEGIES)}.")
    define.string("tpu", None, "local on a TPU VM, grpc://IP:8470 of its hosts, or the name of a TPU.")
    define.string("tpu_zone", None, "Of --tpu=NAME; default: this machine's.")
    define.string("tpu_project", None, "Of --tpu=NAME; default: this machine's.")
    define.integer("logical_cpus", 0, "Split the CPU into so many devices, to try replicas without hardware.")


def strategy_of(options, several_hosts=False):
    """What `define_devices` asks for, see `make_strategy`. Call it before TensorFlow touches a device."""
    have = installed()
    for name in _PATHS:
        if name in options:
            check_path(have, name, options[name].value)
    if options.tpu:
        print(line(have), table(have), sep="\n", flush=True)  # before it is sought, which may take long
    return make_strategy(
        options.strategy,
        options.tpu,
        options.logical_cpus,
        tpu_zone=options.tpu_zone,
        tpu_project=options.tpu_project,
        several_hosts=several_hosts,
    )
