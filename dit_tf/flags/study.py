"""What a study takes, and what a scoring of its plan does."""

from dit_tf.config import RunConfig
from dit_tf.flags.groups import (
    Definer,
    define_crop,
    define_data_dir,
    define_devices,
    define_labels,
    define_reference,
    define_sampler,
)


def define_study(values):
    """A grid of trainings, the scores of their models, a table and a report: what a plan says, such as those in
    launch/plans. An interrupted study goes on, and so does one whose plan has grown."""
    define = Definer(values)
    define.string("plan", None, "The plan: headings and flags, see launch/plans/digits-quick.")
    define.string("workdir", None, "Where trainings, table and report go.")
    define.bool("list", False, "Show what would run, with its cost, and stop.")
    define.bool("report", False, "Write table and report of what is there, and stop.")
    define.integer(
        "processes", 1, "Trainings at a time, each in a process of its own: small ones leave cores of CPUs idle."
    )
    define.string(
        "topology", None, "Of --list: the TPU slice whose time is estimated, e.g. v4:2x2x4; default: this machine."
    )
    define_devices(define)


def define_scoring(values):
    """What stands under a heading [score NAME of TRAINING ...] of a plan."""
    define = Definer(values)
    define.string(
        "steps", "last", "Which models: last, every one that --keep_model_every left, or steps, e.g. 200,400."
    )
    define.integer("num_samples", 10_000, "Images drawn from each model.")
    define_labels(define)
    define_sampler(define)
    define.float("atol", None, "Absolute tolerance of dopri5; default: 1e-6.")
    define.float("rtol", None, "Relative tolerance of dopri5; default: 1e-3.")
    define.seed("Image i depends on (seed, i) and its label: all models begin with the same noise.")
    define.integer("batch_size", 100, "Images per call of the compiled programs, over all replicas.")
    define.string("vae", None, "Autoencoder, for models of latents.")
    define_reference(define, " Default: what the model was trained on.")
    define_data_dir(define)
    define.integer("image_size", None, "Side in pixels of a reference that is a data set; default: its own.")
    define_crop(define, RunConfig())
