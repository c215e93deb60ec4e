"""Every figure of a report, in its order, and what a study must hold for each."""

import matplotlib

from dit_tf.report import (
    figures_flow,
    figures_models,
    figures_samples,
    figures_sampling,
    figures_training,
)
from dit_tf.report.drawing import STYLE, picture

FIGURES = (  # function, title, what it needs
    (figures_models.macs, "Quality against model compute", "three sizes or patches"),
    (figures_training.training, "Sizes and patches over training", "two models scored at two steps"),
    (figures_models.size_and_patch, "Sizes and patches at the last step", "two sizes or patches"),
    (figures_samples.samples, "Samples from the same noise", "images of two models"),
    (figures_models.training_compute, "Quality against training compute", "two models scored at two steps"),
    (
        figures_sampling.sampling_compute,
        "Quality against sampling compute",
        "models scored at two numbers of sampling steps",
    ),
    (figures_training.designs, "Block designs", "one model in two block designs"),
    (figures_training.loss, "Training loss", "losses of two models"),
    (figures_models.other_metrics, "Other metrics", "three models and a second score"),
    (figures_sampling.guidance, "Guidance", "a model scored at two guidance scales"),
    (
        figures_sampling.guided_channels,
        "Guidance of some channels",
        "a model guided on some of its channels and on all",
    ),
    (figures_flow.flow_choices, "SiT: what is trained", "flow matching with two predictions or paths"),
    (figures_flow.flow_samplers, "SiT: how it is sampled", "a flow-matching model drawn by ODE and SDE"),
    (
        figures_samples.other_samples,
        "Samples of the other trainings",
        "images of trainings beside the sizes and patches",
    ),
)


def draw(data):
    """`StudyData` -> [`Picture`], [(title, what it needs)] of those that cannot be drawn."""
    pictures, left_out = [], []
    with matplotlib.rc_context(STYLE):
        for function, title, needs in FIGURES:
            drawing = function(data)
            if drawing is None:
                left_out.append((title, needs))
            else:
                pictures.append(picture(function.__name__, title, drawing))
    return pictures, left_out
