"""The network of published weights, with the RunConfig that train would have written for it."""

import dataclasses
import os

import tqdm

from dit_tf import build
from dit_tf.config import OBJECTIVES, RunConfig
from dit_tf.data.class_names import UNLABELLED, imagenet, numbered
from dit_tf.models.autoencoder_kl import DOWNSCALING, LATENT_CHANNELS
from dit_tf.models.costs import count_parameters
from dit_tf.models.dit import mlp_ratio_of, name_of
from dit_tf.models.embeddings import sinusoid_frequencies
from dit_tf.pretrained import dit_config, dit_map, source_clock
from dit_tf.pretrained.published import PUBLISHED

SHAPES = ("num_heads", "num_classes", "input_size")  # what shapes of weights may leave open


@dataclasses.dataclass(frozen=True)
class Told:
    """What no file says, by the names of the flags of convert; None: as published, or the usual."""

    num_heads: int | None = None
    num_classes: int | None = None
    input_size: int | None = None
    objective: str | None = None
    codec: str | None = None
    path: str | None = None
    prediction: str | None = None
    source_clock: str | None = None
    scaling_factor: float | None = None


def network_of(weights, told, published=None):
    """A `WeightFile` of a DiT or SiT -> (RunConfig, the network with these weights). told: `Told`, or flags of these
    names. published: the row of `PUBLISHED`, where it is one. ValueError where something is left open, or does not fit.
    """
    arguments = dit_config.infer(weights.state, **weights.arguments | _given(told, SHAPES))
    latents = _works_on_latents(told, published, weights, arguments["in_channels"])
    config = _run_config(told, published, arguments, latents)
    model, state = build.make_model(config), weights.state
    if told.source_clock not in (None, source_clock.CLOCKS[0]):
        state = source_clock.turned(state, config.prediction, sinusoid_frequencies())
    total = 4 * count_parameters(model)[0]
    with tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="weights", dynamic_ncols=True) as bar:
        dit_map.load_weights(model, state, bar.update)
    return config, model


def _given(options, names):
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _run_config(options, published, arguments, latents):
    """What train would have written for a model of these arguments. ValueError for what RunConfig has no field for."""
    side, channels = arguments["input_size"], arguments["in_channels"]
    objective = options.objective or (published.objective if published else OBJECTIVES[0])
    _check_clock(options, objective)
    if options.scaling_factor is not None and not latents:
        raise ValueError("--scaling_factor goes with --codec=vae: this network works on pixels")
    ratio = mlp_ratio_of(round(arguments["mlp_ratio"] * arguments["width"]), arguments["width"])
    size = [arguments[key] for key in ("width", "depth", "num_heads", "patch_size")]
    return RunConfig(
        dataset="imagenet2012" if arguments["num_classes"] == dit_config.IMAGENET_CLASSES else "unknown",
        image_size=DOWNSCALING * side if latents else side,
        channels=3 if latents else channels,
        codec="vae" if latents else "pixels",
        crop="pil",  # what the public programs train with
        num_classes=arguments["num_classes"],
        horizontal_flip=True,
        model=name_of(*size, ratio, family="SiT" if objective == "flow" else "DiT"),
        class_dropout_prob=arguments["class_dropout_prob"],
        learn_sigma=arguments["learn_sigma"],
        objective=objective,
        **_given(options, ("path", "prediction", "scaling_factor")),
    )


def _check_clock(options, objective):
    clock = options.source_clock
    if clock not in (None, *source_clock.CLOCKS):
        raise ValueError(f"--source_clock must be {' or '.join(source_clock.CLOCKS)}, got {clock!r}")
    if clock and objective != "flow":
        raise ValueError(f"--source_clock goes with --objective=flow, got --source_clock={clock}")


def _works_on_latents(options, published, weights, channels):
    """Whether the network diffuses latents. ValueError where it has 4 channels and nobody says what they are: neither
    --codec, nor the name of a published file, nor diffusers' layout, whose pipeline has an autoencoder."""
    if options.codec not in (None, "pixels", "vae"):
        raise ValueError(f"--codec must be pixels or vae, got {options.codec!r}")
    if options.codec == "vae" and channels != LATENT_CHANNELS:
        raise ValueError(f"--codec=vae goes with networks of {LATENT_CHANNELS} channels, this one has {channels}")
    called_so = os.path.basename(weights.path) in {row.file for row in PUBLISHED.values()}
    known = published or called_so or weights.layout == "diffusers"
    if channels == LATENT_CHANNELS and options.codec is None and not known:
        raise ValueError(
            "a network of 4 channels may work on latents of the autoencoder, as the published ones do, or on pixels of "
            "4 channels: add --codec=vae or --codec=pixels"
        )
    return channels == LATENT_CHANNELS and options.codec != "pixels"


def classes_of(count):
    if count == 1:
        return UNLABELLED
    return imagenet() if count == dit_config.IMAGENET_CLASSES else numbered(count)
