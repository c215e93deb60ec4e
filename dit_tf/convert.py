"""Published weights to a file that sample, evaluate and train take, and back:

    python -m dit_tf.convert --source=dit-xl-2-256 --output=dit.keras
    python -m dit_tf.convert --source=sd-vae-ft-ema --output=vae.keras
    python -m dit_tf.convert --source=dit.keras --output=DiT-XL-2-256x256.pt

A source is a published name, a file or a directory; an output that is there is replaced at the end.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import dataclasses
import os

import tqdm

import dit_tf
from dit_tf import autoencoder_file, build, flags
from dit_tf.config import OBJECTIVES, RunConfig
from dit_tf.data.class_names import UNLABELLED, imagenet, numbered
from dit_tf.latent_scale import LatentScale
from dit_tf.models.autoencoder_kl import DOWNSCALING, LATENT_CHANNELS
from dit_tf.models.costs import count_parameters
from dit_tf.models.dit import mlp_ratio_of, name_of
from dit_tf.models.embeddings import sinusoid_frequencies
from dit_tf.pretrained import dit_config, dit_map, source_clock, vae_map
from dit_tf.pretrained.published import PUBLISHED, fetch_published
from dit_tf.pretrained.torch_pickle import write_torch
from dit_tf.pretrained.weight_files import digest, naming, read_weight_file
from dit_tf.runtime import model_file

SHAPE_FLAGS = ("num_heads", "num_classes", "input_size")  # what shapes may leave open


def main(options):
    check_options(options)
    if options.output.endswith(".pt"):
        return to_torch(options)
    path = fetch(options)
    weights = read_weight_file(path, ema=options.ema)
    provenance = provenance_of(options, weights)
    if weights.kind == "vae":
        convert_autoencoder(options, weights, provenance)
    else:
        convert_model(options, weights, provenance)


def check_options(options):
    if not options.source or not options.output:
        raise ValueError("--source and --output must be given.")
    if not options.output.endswith((".keras", ".pt")):
        raise ValueError(f"--output must end in .keras, or in .pt for the public layout, got {options.output!r}.")
    if os.path.isdir(options.output):
        raise ValueError(f"--output must be a file, {options.output} is a directory.")
    if os.path.exists(options.output) and os.path.exists(options.source):
        if os.path.samefile(options.source, options.output):
            raise ValueError(f"--output must be another file than --source, got {options.output!r} for both.")
    if is_ours(options.source) != options.output.endswith(".pt"):
        ours = "a model of dit_tf's own is written as .pt, published weights as .keras"
        raise ValueError(f"--output={options.output} does not go with --source={options.source}: {ours}.")
    for name, value in given(options, SHAPE_FLAGS).items():
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}.")


def is_ours(path):
    """Whether a source is a work directory or a .keras file, whatever its state."""
    if os.path.isdir(path):
        return os.path.isdir(os.path.join(path, "checkpoints"))
    return path.endswith(".keras")


def fetch(options):
    """The path of the source, which is downloaded if it is named."""
    if os.path.exists(options.source):
        return options.source
    if options.source not in PUBLISHED:
        raise ValueError(
            f"--source must be a file, a directory or one of {', '.join(PUBLISHED)}, got {options.source!r}."
        )
    published = published_as(options.source)
    if options.objective not in (None, published.objective):
        trained = f"was trained with {published.objective}" if published.objective else "is an autoencoder"
        raise ValueError(f"--objective={options.objective} does not go with {options.source}, which {trained}.")
    return fetch_published(options.source, options.download_dir, options.sha256)


def published_as(source):
    """The record of a published name, or None for a file or directory, also one that is called so."""
    return None if os.path.exists(source) else PUBLISHED.get(source)


def provenance_of(options, weights):
    """Where the weights come from. ValueError where they are not those of --sha256."""
    sha256 = digest(weights.files)
    if options.sha256 and options.sha256.lower() != sha256:
        raise ValueError(f"--sha256={options.sha256} is not that of {weights.path}, which is {sha256}.")
    provenance = dict(
        dit_tf=dit_tf.__version__, source=options.source, sha256=sha256,
        bytes=sum(map(os.path.getsize, weights.files)), layout=weights.layout, part=weights.part.part,
        prefix=weights.part.prefix, averaged=weights.part.averaged,
    )  # fmt: skip
    if options.source_clock:
        provenance["source_clock"] = options.source_clock
    published = published_as(options.source)
    return provenance if published is None else provenance | dict(address=published.address, licence=published.licence)


def convert_model(options, weights, provenance):
    with naming(weights.path):
        arguments = dit_config.infer(weights.state, **told(options, weights))
        latents = works_on_latents(options, weights, arguments["in_channels"])
        config = run_config(options, arguments, latents)
        model = build.make_model(config)
        total = 4 * count_parameters(model)[0]
        with tqdm.tqdm(total=total, unit="B", unit_scale=True, desc="weights", dynamic_ncols=True) as bar:
            dit_map.load_weights(model, by_our_clock(options, config, weights.state), bar.update)
    classes = classes_of(config.num_classes)
    print(f"Writing {options.output}", flush=True)
    model_file.save(options.output, model, build.model_texts(config, classes, provenance))
    summarise(options, config, model, weights)


def told(options, weights):
    """The arguments of `dit_config.infer`: those of config.json, and over them those of flags."""
    return weights.arguments | given(options, SHAPE_FLAGS)


def by_our_clock(options, config, state):
    """The weights of a network whose time is 0 at noise."""
    if options.source_clock in (None, source_clock.CLOCKS[0]):
        return state
    return source_clock.turned(state, config.prediction, sinusoid_frequencies())


def given(options, names):
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def run_config(options, arguments, latents):
    """What train would have written for a model of these arguments. ValueError for what RunConfig has no field for."""
    side, channels = arguments["input_size"], arguments["in_channels"]
    published = published_as(options.source)
    objective = options.objective or (published.objective if published else OBJECTIVES[0])
    check_clock(options, objective)
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
        **given(options, ("path", "prediction", "scaling_factor")),
    )


def check_clock(options, objective):
    clock = options.source_clock
    if clock not in (None, *source_clock.CLOCKS):
        raise ValueError(f"--source_clock must be {' or '.join(source_clock.CLOCKS)}, got {clock!r}")
    if clock and objective != "flow":
        raise ValueError(f"--source_clock goes with --objective=flow, got --source_clock={clock}")


def works_on_latents(options, weights, channels):
    """Whether the network diffuses latents. ValueError where it has 4 channels and nobody says what they are: neither
    --codec, nor the name of a published file, nor diffusers' layout, whose pipeline has an autoencoder."""
    if options.codec not in (None, "pixels", "vae"):
        raise ValueError(f"--codec must be pixels or vae, got {options.codec!r}")
    if options.codec == "vae" and channels != LATENT_CHANNELS:
        raise ValueError(f"--codec=vae goes with networks of {LATENT_CHANNELS} channels, this one has {channels}")
    published = published_as(options.source) or os.path.basename(options.source) in {p.file for p in PUBLISHED.values()}
    known = published or weights.layout == "diffusers"
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


def convert_autoencoder(options, weights, provenance):
    refuse(options)
    with naming(weights.path):
        vae = autoencoder_file.make(vae_map.convert(weights.state))
        vae.latent_scale = autoencoder_file.scale_said(weights, options.source)
    if options.scaling_factor is not None:
        changed = dict(scaling_factor=options.scaling_factor)
        vae.latent_scale = dataclasses.replace(vae.latent_scale or LatentScale(), **changed)
    scale = autoencoder_file.scale_or_assumed(vae, weights.path)
    autoencoder_file.save(options.output, vae, provenance)
    encoder = f"encoder {vae.encoder_sha256()[:16]}..."
    print(f"{options.output}: autoencoder, {encoder}, latents of {scale}, from {origin(options, weights)}")
    print(f"Next: python -m dit_tf.sample --weights=dit.keras --vae={options.output} --labels=207,daisy --cfg_scale=4")


def to_torch(options):
    """Our weights, the averaged ones of a work directory, as bare weights in the layout of the public DiT."""
    refuse(options)
    if options.sha256 or not options.ema:
        raise ValueError("--sha256 and --ema=false go with published weights and training checkpoints of PyTorch.")
    config = build.load_config(options.source)
    if config.block != "adaln_zero":
        raise ValueError(f"--output={options.output}: the public layout is of --block=adaln_zero, not {config.block}.")
    if config.qk_norm:
        raise ValueError(
            f"--output={options.output}: the public layout has no place for the scales of --qk_norm, with which "
            f"{options.source} was trained: use it as it is, or train without."
        )
    model = build.load_model(options.source)
    table, patch_size = model.patch_embedder.position_table, model.patch_size
    state = dict(dit_map.to_official(dit_map.weights_by_path(model), table, patch_size))
    print(f"Writing {options.output}", flush=True)
    write_torch(options.output, state)
    print(f"{options.output}: {kind_of(config, model)}, {len(state)} arrays as DiT's programs read them")


def refuse(options):
    """ValueError where a flag is given that says something of a public DiT or SiT."""
    for name, value in given(options, (*SHAPE_FLAGS, "objective", "path", "prediction", "source_clock")).items():
        raise ValueError(f"--{name} goes with published DiT and SiT weights, got --{name}={value}.")


def summarise(options, config, model, weights):
    print(f"{options.output}: {kind_of(config, model)}, from {origin(options, weights)}")
    vae = " --vae=vae.keras" if config.codec == "vae" else ""
    labels = " --labels=207,daisy" if config.num_classes == dit_config.IMAGENET_CLASSES else " --num_samples=4"
    guidance = " --cfg_scale=4" if model.null_label is not None else ""
    print(f"Next: python -m dit_tf.sample --weights={options.output}{vae}{labels}{guidance}")


def kind_of(config, model):
    side, channels = model.get_config()["input_size"][0], model.get_config()["in_channels"]
    pixels = f"pixels of {channels} channel{'s' * (channels != 1)}"
    codec = f"latents {side}x{side}x{channels}" if config.codec == "vae" else pixels
    parameters = count_parameters(model)[0] / 1e6
    null = "and a null class" if model.null_label is not None else "without a null class"
    images = f"{config.image_size}x{config.image_size} images ({codec})"
    classes = f"{config.num_classes} classes {null}"
    return f"{config.model}, {images}, {classes}, {config.objective}, {parameters:.1f} M parameters"


def origin(options, weights):
    return f"{weights.path} ({weights.layout} layout; {weights.part.described(options.ema)})"


if __name__ == "__main__":
    flags.run(main, flags.define_convert)
