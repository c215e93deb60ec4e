"""The flags of every command. `python -m dit_tf.flags` prints docs/flags.md.

A command defines its flags when it runs as a program, and hands main() their parsed values, so that importing an entry
defines nothing.
"""

import os
import sys

from absl import app, flags, logging

from dit_tf.config import OBJECTIVES, PRECISIONS, RunConfig
from dit_tf.models.dit import BLOCKS
from dit_tf.runtime.distribution import STRATEGIES
from dit_tf.samplers.generate import SAMPLERS, SamplerOptions

FLAGS = flags.FLAGS


def run(main, define):
    """Parse the command line and call main(options). Bad input ends in one sentence and exit code 1."""
    define(FLAGS)
    app.run(lambda argv: _guarded(main, argv))


def _guarded(main, argv):
    command = f"dit_tf.{os.path.splitext(os.path.basename(argv[0]))[0]}"
    try:
        if argv[1:]:
            raise ValueError(f"Every argument must be a flag, --name=value, got {argv[1]!r}.")
        main(FLAGS)
    except ValueError as error:
        logging.debug("Where it was raised:", exc_info=True)  # shown with --verbosity=1
        sys.exit(f"{command}: {error}")
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted; the same command goes on where it stopped.", file=sys.stderr)
        sys.exit(130)


def resolved(options):
    """The text of a flag file that repeats this run."""
    mine = options.flags_by_module_dict().get("dit_tf.flags", [])
    return "".join(f"{flag.serialize()}\n" for flag in mine if flag.value is not None)


def define_train(values):
    """How a model is trained. The defaults are the paper's recipe (section 4) for the smallest useful model."""
    c = RunConfig()
    flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and pictures go; default runs/DATASET-MODEL.", flag_values=values)
    _define_data(values, c)
    flags.DEFINE_string("model", c.model, "DiT-{XL,L,B,S}/{2,4,8}, or DiT-{Xs,Ti,Na,Mi}/{1,2,4} for small images.", flag_values=values)
    flags.DEFINE_string("block", c.block, f"Block design: {', '.join(BLOCKS)}.", flag_values=values)
    flags.DEFINE_float("class_dropout_prob", c.class_dropout_prob, "Label dropout; 0: no null class, no guidance.", flag_values=values)
    flags.DEFINE_bool("learn_sigma", c.learn_sigma, "Predict the covariance as well as the noise.", flag_values=values)
    flags.DEFINE_string("precision", c.precision, f"Of the products: {', '.join(PRECISIONS)}.", flag_values=values)
    flags.DEFINE_string("objective", c.objective, f"Training objective: {', '.join(OBJECTIVES)}.", flag_values=values)
    flags.DEFINE_integer("global_batch_size", c.global_batch_size, "Examples per step over all replicas.", flag_values=values)
    flags.DEFINE_float("learning_rate", c.learning_rate, "AdamW's, constant.", flag_values=values)
    flags.DEFINE_float("weight_decay", c.weight_decay, "AdamW's, decoupled.", flag_values=values)
    flags.DEFINE_float("ema_decay", c.ema_decay, "Of the averaged weights that are sampled from.", flag_values=values)
    flags.DEFINE_integer("seed", c.seed, "Of weights, data order and noise.", flag_values=values)
    flags.DEFINE_integer("train_steps", 400_000, "The step to stop at; a resumed run counts from where it was.", flag_values=values)
    flags.DEFINE_integer("checkpoint_every", 1000, "Steps between checkpoints.", flag_values=values)
    flags.DEFINE_integer("keep_checkpoints", 3, "How many of the newest checkpoints stay.", flag_values=values)
    flags.DEFINE_integer("log_every", 100, "Steps between lines of metrics.jsonl.", flag_values=values)
    flags.DEFINE_integer("sample_every", 5000, "Steps between pictures of samples; 0: none.", flag_values=values)
    flags.DEFINE_integer("steps_per_execution", 50, "Steps per call of the compiled function.", flag_values=values)
    flags.DEFINE_bool("xla", True, "Compile the step with XLA (always on a TPU).", flag_values=values)
    _define_devices(values)


def define_sample(values):
    """How images are drawn from a trained model."""
    o = SamplerOptions()
    flags.DEFINE_string("workdir", None, "Work directory of a training; its newest averaged weights are used.", flag_values=values)
    flags.DEFINE_string("weights", None, "A .keras file instead of a work directory.", flag_values=values)
    flags.DEFINE_list("labels", None, "Classes, e.g. 3,1,4; image i gets label i, round and round.", flag_values=values)
    flags.DEFINE_integer("num_samples", None, "How many; default: one per label. Without --labels they are random.", flag_values=values)
    flags.DEFINE_string("sampler", o.sampler, f"One of {', '.join(SAMPLERS)}.", flag_values=values)
    flags.DEFINE_integer("num_steps", o.num_steps, "Steps of the sampler.", flag_values=values)
    flags.DEFINE_float("eta", o.eta, "DDIM's noise, 0 to 1.", flag_values=values)
    flags.DEFINE_float("cfg_scale", o.cfg_scale, "Classifier-free guidance; 1: none.", flag_values=values)
    flags.DEFINE_integer("guided_channels", None, "Guide the first so many channels; default: what the codec says.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Image i depends on (seed, i) and its label alone.", flag_values=values)
    flags.DEFINE_integer("batch_size", 100, "Images per call of the compiled sampler; changes no image.", flag_values=values)
    flags.DEFINE_string("output", "samples.png", "A .png grid, or an .npz as ADM's evaluator reads it.", flag_values=values)
    _define_devices(values)


def _define_data(values, c):
    flags.DEFINE_string("dataset", c.dataset, "digits, or a TensorFlow Datasets name.", flag_values=values)
    flags.DEFINE_string("data_dir", None, "Where prepared data sets lie; default: TensorFlow Datasets' own.", flag_values=values)
    flags.DEFINE_string("split", c.split, "Split to train on.", flag_values=values)
    flags.DEFINE_integer("image_size", None, "Side in pixels; default: the data set's own, or 256.", flag_values=values)
    flags.DEFINE_bool("horizontal_flip", None, "Mirror half of the images; default: not for written characters.", flag_values=values)


def _define_devices(values):
    flags.DEFINE_string("strategy", "auto", f"One of {', '.join(STRATEGIES)}.", flag_values=values)
    flags.DEFINE_string("tpu", None, "Name of a TPU, or local on a TPU VM.", flag_values=values)
    flags.DEFINE_integer("logical_cpus", 0, "Split the CPU into so many devices, to try replicas without hardware.", flag_values=values)


COMMANDS = {"train": define_train, "sample": define_sample}


def documentation():
    """Markdown: a table of flags per command."""
    parts = ["# Flags\n\nMade by `python -m dit_tf.flags > docs/flags.md`. `--flagfile=FILE` reads flags from a file.\n"]
    for command, define in COMMANDS.items():
        values = flags.FlagValues()
        define(values)
        parts.append(f"\n## python -m dit_tf.{command}\n\n{define.__doc__}\n\n| flag | default | meaning |\n|---|---|---|\n")
        own = values.flags_by_module_dict()[__name__ if __name__ in values.flags_by_module_dict() else sys.argv[0]]
        parts += [f"| `--{flag.name}` | {_shown(flag.default)} | {flag.help} |\n" for flag in own]
    return "".join(parts)


def _shown(default):
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    print(documentation(), end="")
