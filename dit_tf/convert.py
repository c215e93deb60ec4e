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

import dit_tf
from dit_tf import autoencoder_file, build, flags
from dit_tf.inference.public_networks import SHAPES, classes_of, network_of
from dit_tf.latent_scale import LatentScale
from dit_tf.models.costs import count_parameters
from dit_tf.pretrained import dit_config, dit_map, vae_map
from dit_tf.pretrained.published import PUBLISHED, fetch_published
from dit_tf.pretrained.torch_pickle import write_torch
from dit_tf.pretrained.weight_files import digest, naming, read_weight_file
from dit_tf.runtime import model_file


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
    for name, value in given(options, SHAPES).items():
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
        config, model = network_of(weights, options, published_as(options.source))
    classes = classes_of(config.num_classes)
    print(f"Writing {options.output}", flush=True)
    model_file.save(options.output, model, build.model_texts(config, classes, provenance))
    summarise(options, config, model, weights)


def given(options, names):
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


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
    for name, value in given(options, (*SHAPES, "objective", "path", "prediction", "source_clock")).items():
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
