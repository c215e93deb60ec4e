"""The flags of every command. `python -m dit_tf.flags` prints docs/flags.md.

A command defines its flags when it runs as a program, and hands main() their parsed values, so that importing an entry
defines nothing.
"""

import functools
import logging as standard_logging
import os
import sys

from absl import app, flags, logging

from dit_tf.config import CROPS, OBJECTIVES, PRECISIONS, RunConfig
from dit_tf.data.latent_spec import MOMENTS_DTYPES
from dit_tf.models.dit import BLOCKS
from dit_tf.pretrained.published import DOWNLOADS, PUBLISHED
from dit_tf.runtime.distribution import STRATEGIES
from dit_tf.samplers.likelihood import SOLVERS as LIKELIHOOD_SOLVERS
from dit_tf.samplers.options import DEFAULT_STEPS, SAMPLERS, SOLVERS_OF, SamplerOptions
from dit_tf.samplers.sde import DIFFUSIONS, LAST_STEPS
from dit_tf.transport.paths import PATHS, PREDICTIONS
from dit_tf.transport.transport import LOSS_WEIGHTS, TIME_DISTRIBUTIONS

FLAGS = flags.FLAGS


def run(main, define, resumes=True):
    """Parse the command line and call main(options). Bad input ends in one sentence and exit code 1.

    resumes: whether the same command, after an interruption, goes on where it stopped.
    """
    define(FLAGS)
    app.run(lambda argv: _guarded(main, argv, resumes))


def _quieten_libraries():
    """Leave stderr to our own warnings and the progress bar, unless --verbosity asks for more."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)
        standard_logging.getLogger("tensorflow").setLevel("ERROR")
        standard_logging.getLogger("dit_tf").setLevel("WARNING")


def _guarded(main, argv, resumes):
    _quieten_libraries()
    command = f"dit_tf.{os.path.splitext(os.path.basename(argv[0]))[0]}"
    try:
        if argv[1:]:
            raise ValueError(f"Every argument must be a flag, --name=value, got {argv[1]!r}.")
        main(FLAGS)
    except ValueError as error:
        logging.debug("Where it was raised:", exc_info=True)  # shown with --verbosity=1
        sys.exit(f"{command}: {error}")
    except KeyboardInterrupt:
        consequence = "the same command goes on where it stopped" if resumes else "nothing was written"
        print(f"\n{command}: interrupted; {consequence}.", file=sys.stderr)
        sys.exit(130)


def resolved(options):
    """The text of a flag file that repeats this run."""
    mine = options.flags_by_module_dict().get("dit_tf.flags", [])
    return "".join(f"{flag.serialize()}\n" for flag in mine if flag.value is not None)


class _Definer:
    """absl's DEFINE_* into one set of flags."""

    def __init__(self, values):
        for kind in ("string", "integer", "float", "bool", "list"):
            setattr(self, kind, functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=values))


def define_train(values):
    """How a model is trained. The defaults are the paper's recipe (section 4) for the smallest useful model."""
    define, c = _Definer(values), RunConfig()
    define.string("workdir", None, "Where checkpoints, metrics and pictures go; default runs/DATASET-MODEL.")
    _define_data(define, c)
    define.bool("unconditional", False, "Train without classes.")
    define.string("vae", None, "Autoencoder: train on its latents. With --dataset=latents:DIR it draws the pictures.")
    define.string("init_from", None, "Begin with the weights of a .keras file or work directory (fine-tuning).")
    define.string("model", c.model, "DiT-{XL,L,B,S}/{2,4,8}, DiT-{Xs,Ti,Na,Mi}/{1,2,4} or DiT-WIDTHxDEPTHxHEADS/PATCH.")
    define.string("block", c.block, f"Block design: {', '.join(BLOCKS)}.")
    define.float("class_dropout_prob", c.class_dropout_prob, "Label dropout; 0: no null class, no guidance.")
    define.bool("learn_sigma", None, "Predict the covariance as well as the noise; default: with --objective=ddpm.")
    define.string("precision", c.precision, f"Of products: {', '.join(PRECISIONS)} (a TPU rounds both to bfloat16).")
    define.string("objective", c.objective, f"Training objective: {', '.join(OBJECTIVES)} (DiT, SiT).")
    define.string("path", c.path, f"Of flow, from noise to data: {', '.join(PATHS)}.")
    define.string("prediction", c.prediction, f"What a flow model gives: {', '.join(PREDICTIONS)}.")
    define.string("loss_weight", c.loss_weight, f"Of score and noise predictions: {', '.join(LOSS_WEIGHTS)}.")
    define.string("time_distribution", c.time_distribution, f"Of training times: {', '.join(TIME_DISTRIBUTIONS)}.")
    define.integer("global_batch_size", c.global_batch_size, "Examples per step over all replicas.")
    define.float("learning_rate", c.learning_rate, "AdamW's, constant.")
    define.float("weight_decay", c.weight_decay, "AdamW's, decoupled.")
    define.float("ema_decay", c.ema_decay, "Of the averaged weights that are sampled from.")
    define.integer("seed", c.seed, "Of weights, data order and noise.")
    define.integer("train_steps", 400_000, "The step to stop at; a resumed run counts from where it was.")
    define.integer("checkpoint_every", 1000, "Steps between checkpoints.")
    define.integer("keep_checkpoints", 3, "How many of the newest checkpoints stay.")
    define.integer("log_every", 100, "Steps between lines of metrics.jsonl.")
    define.integer("sample_every", 5000, "Steps between pictures of samples; 0: none.")
    define.integer("steps_per_execution", 50, "Steps per call of the compiled function.")
    define.bool("xla", True, "Compile the step with XLA (always on a TPU).")
    _define_devices(define)


def define_sample(values):
    """How images are drawn from a trained model."""
    define, o = _Definer(values), SamplerOptions()
    define.string("workdir", None, "Work directory of a training; its newest averaged weights are used.")
    define.string("weights", None, "A .keras file instead of a work directory.")
    define.string("vae", None, "Autoencoder, for a model of latents: what convert wrote, a published file or name.")
    define.list("labels", None, "Classes by number, name or id, e.g. 207,daisy,n01440764; image i gets label i, round.")
    define.integer("num_samples", None, "How many; default: one per label. Without --labels they are random.")
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
    define.float("atol", o.atol, "Absolute tolerance of --solver=dopri5, per image.")
    define.float("rtol", o.rtol, "Relative tolerance of --solver=dopri5.")
    define.float("cfg_scale", o.cfg_scale, "Classifier-free guidance; 1: none.")
    define.integer("guided_channels", None, "Guide the first so many channels; default: 3 of latents, else all.")
    define.list("guidance_interval", "0,1", "Guide between these places only; noise is 0, data 1.")
    define.integer("seed", 0, "Image i depends on (seed, i) and its label alone.")
    define.integer("batch_size", 100, "Images per call of the compiled sampler; changes no image.")
    define.string("output", "samples.png", "A .png grid, or an .npz as ADM's evaluator reads it.")
    _define_devices(define)


def define_evaluate(values):
    """How good a trained model is. --likelihood: bits per dimension of real images given their labels, as a bound over
    all timesteps (DDPM) or through the probability flow (flow matching). An interrupted evaluation goes on."""
    define = _Definer(values)
    define.string("workdir", None, "Work directory of a training; its newest averaged weights are used.")
    define.string("weights", None, "A .keras file instead of a work directory.")
    define.bool("likelihood", False, "Evaluate the likelihood; for now it must be given.")
    define.string("data_dir", None, "Where prepared data sets lie; default: TensorFlow Datasets' own.")
    define.string("dataset", None, "Another data set than the training's, with the same classes.")
    define.string("split", "test", "Split of the data set.")
    define.string("vae", None, "Autoencoder, where the model works on latents and the data set has images.")
    define.integer("num_examples", None, "Only the first so many images; default: the whole split.")
    define.string("solver", None, f"Of the probability flow: {', '.join(LIKELIHOOD_SOLVERS)}; default: the first.")
    define.integer("num_steps", None, "Steps of heun and euler (default: 125), or timesteps of a DDPM (default: all).")
    define.float("atol", 1e-5, "Absolute tolerance of dopri5.")
    define.float("rtol", 1e-5, "Relative tolerance of dopri5.")
    define.integer("seed", 0, "Of the noise inside the estimates.")
    define.integer("batch_size", 100, "Images per call of the compiled program.")
    define.string("output", "metrics.json", "Where the numbers go.")
    _define_devices(define)


def define_encode(values):
    """How images become latents on disk, which train reads as --dataset=latents:DIR. An interrupted run goes on."""
    define, c = _Definer(values), RunConfig()
    define.string("vae", None, "Autoencoder: what convert wrote, a published file, or a published name.")
    define.string("output", None, "Directory that the latents go to.")
    _define_data(define, c)
    define.string("precision", c.precision, f"Of products: {', '.join(PRECISIONS)} (a TPU rounds both to bfloat16).")
    define.string("moments_dtype", "bfloat16", f"What is stored: {', '.join(MOMENTS_DTYPES)}.")
    define.integer("examples_per_shard", 1024, "Images per file; what a killed run loses at most.")
    define.integer("batch_size", 32, "Images per call of the compiled encoder, over all replicas.")
    _define_devices(define)


def define_convert(values):
    """Published weights of DiT, SiT and Stable Diffusion's autoencoder as .keras files, and models as DiT's .pt. What
    the weights' shapes do not tell is asked for by name."""
    define = _Definer(values)
    define.string("source", None, f"A file, a directory (diffusers; work directory), or {', '.join(PUBLISHED)}.")
    define.string("output", None, "A .keras file; of a model of dit_tf's own, a .pt file. It is replaced.")
    define.integer("num_heads", None, "Attention heads, where the width is not that of a published size.")
    define.integer("num_classes", None, "Classes, without the null class; where the label table leaves it open.")
    define.integer("input_size", None, "Side of the input, in latents or pixels, where the file has no position table.")
    define.string(
        "objective", None, f"{' or '.join(OBJECTIVES)}, what it was trained for; default: a published name's, or ddpm."
    )
    define.string("path", None, f"Of --objective=flow: {', '.join(PATHS)}; default: the first.")
    define.string("prediction", None, f"Of --objective=flow: {', '.join(PREDICTIONS)}; default: the first.")
    define.bool("ema", True, "Of a training checkpoint, the averaged weights rather than the raw ones.")
    define.string("sha256", None, "What the source's SHA-256 must be.")
    define.string("download_dir", DOWNLOADS, "Where published files are downloaded to.")


def define_score_digits(values):
    """How close samples of digits are to real ones."""
    define = _Definer(values)
    define.string("samples", None, "npz of guided samples: arr_0 uint8 NHWC, arr_1 labels.")
    define.string("unguided_samples", None, "npz of samples drawn without guidance.")
    define.string("data_dir", None, "Where prepared data sets lie; default: TensorFlow Datasets' own.")
    define.float("train_seconds", None, "How long training took; passed on.")
    define.float("start_time", None, "Unix seconds that total_seconds counts from.")


def _define_data(define, c):
    define.string("dataset", c.dataset, "digits, a TensorFlow Datasets name, folder:DIR, or latents:DIR (of encode).")
    define.string("data_dir", None, "Where prepared data sets lie; default: TensorFlow Datasets' own.")
    define.string("split", c.split, "Split to read.")
    define.integer("image_size", None, "Side in pixels; default: the data set's own, or 256.")
    define.string("crop", c.crop, f"ADM's centre crop: {', '.join(CROPS)} (to the bit PIL's, and slower).")
    define.bool("horizontal_flip", None, "Mirror half of the images; default: not for written characters.")


def _define_devices(define):
    define.string("strategy", "auto", f"One of {', '.join(STRATEGIES)}.")
    define.string("tpu", None, "Name of a TPU, or local on a TPU VM.")
    define.integer("logical_cpus", 0, "Split the CPU into so many devices, to try replicas without hardware.")


COMMANDS = {
    "train": define_train,
    "sample": define_sample,
    "evaluate": define_evaluate,
    "encode": define_encode,
    "convert": define_convert,
    "score_digits": define_score_digits,
}


def documentation():
    """Markdown: a table of flags per command."""
    parts = [
        "# Flags\n\nMade by `python -m dit_tf.flags > docs/flags.md`. `--flagfile=FILE` reads flags from a file.\n"
    ]
    for command, define in COMMANDS.items():
        values = flags.FlagValues()
        define(values)
        parts.append(
            f"\n## python -m dit_tf.{command}\n\n{define.__doc__}\n\n| flag | default | meaning |\n|---|---|---|\n"
        )
        own = values.flags_by_module_dict()[__name__ if __name__ in values.flags_by_module_dict() else sys.argv[0]]
        parts += [f"| `--{flag.name}` | {_shown(flag.default)} | {flag.help} |\n" for flag in own]
    return "".join(parts)


def _shown(default):
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    print(documentation(), end="")
