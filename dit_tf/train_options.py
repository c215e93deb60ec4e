"""The flags of a training, checked, and with what its data set leaves open: what train and preflight agree on."""

import dataclasses

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.data.class_names import UNLABELLED
from dit_tf.latent_scale import STABLE_DIFFUSION, LatentScale
from dit_tf.pretrained.fine_tuning import start_from

_EVERY = (
    "checkpoint_every", "log_every", "sample_every", "eval_every", "ema_snapshot_every", "keep_model_every",
)  # fmt: skip


def run_config(options, spec, vae):
    """Flags, data set and autoencoder -> RunConfig: what is left open by the flags comes from the data set."""
    flagged = {f.name: getattr(options, f.name) for f in dataclasses.fields(RunConfig) if hasattr(options, f.name)}
    latents = spec.is_latents
    if options.haar and (latents or vae is not None):
        raise ValueError("--haar goes with pixels: leave out --vae, and give a data set of images.")
    if vae is not None and spec.channels != 3:
        raise ValueError(f"--vae needs images of 3 channels; {options.dataset} has {spec.channels}: leave --vae out.")
    if latents and options.image_size not in (None, spec.image_size):
        raise ValueError(f"--image_size of {options.dataset} must be {spec.image_size}, got {options.image_size}.")
    flagged["horizontal_flip"] = spec.horizontal_flip if options.horizontal_flip is None else options.horizontal_flip
    flagged["learn_sigma"] = options.objective == "ddpm" if options.learn_sigma is None else options.learn_sigma
    if options.schedule != "constant" and not options.schedule_steps:
        flagged["schedule_steps"] = options.train_steps
    if spec.classes == UNLABELLED:
        flagged["class_dropout_prob"] = 0.0  # there is no label to drop
    scale = scale_of(options, spec, vae)
    return RunConfig(
        **flagged
        | dict(
            image_size=options.image_size or spec.image_size or 256,
            channels=spec.channels,
            num_classes=spec.num_classes,
            codec="vae" if latents or vae is not None else "haar" if options.haar else "pixels",
            vae_sha256=spec.vae_sha256 if latents or vae is None else vae.encoder_sha256(),
            init_from="",
            **scale.fields,
        )
    )


def scale_of(options, spec, vae):
    """How latents are scaled: as those that are stored, or as the autoencoder's file or --scaling_factor says."""
    if not spec.is_latents and vae is None:
        if options.scaling_factor is not None:
            raise ValueError(f"--scaling_factor goes with --vae, got {options.scaling_factor} without it.")
        return LatentScale()
    said = vae.latent_scale if vae is not None else None
    scale = spec.latent_scale or said or LatentScale(options.scaling_factor or STABLE_DIFFUSION)
    if spec.latent_scale and options.scaling_factor not in (None, scale.scaling_factor):
        raise ValueError(f"--scaling_factor must be that of {options.dataset}, {scale}, got {options.scaling_factor}.")
    return scale


def initialise(config, model, classes, path):
    """Begin with the weights of `path` -> the configuration that says so."""
    source = build.load_model(path)
    sentence = start_from(model, source, classes.shared_with(build.load_classes(path)))
    print(f"Beginning with the weights of {path}: {sentence}")
    return dataclasses.replace(config, init_from=build.weights_digest(build.weights_of(source)))


def default_workdir(options):
    name = options.model.replace("DiT", "SiT") if options.objective == "flow" else options.model
    data = options.dataset.rstrip("/").split("/")[-1].split(":")[-1]
    return f"runs/{data}-{name.replace('/', '-')}"


def check_intervals(options):
    """ValueError unless every periodic event falls on the end of an execution."""
    for name in ("steps_per_execution", "train_steps", "checkpoint_every", "log_every", "max_bad_steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if options.ema_snapshot_every < 0:
        raise ValueError(f"--ema_snapshot_every must be at least 1, or 0 for none, got {options.ema_snapshot_every}.")
    if options.keep_model_every < 0:
        raise ValueError(f"--keep_model_every must be at least 1, or 0 for none, got {options.keep_model_every}.")
    for name in _EVERY:
        if getattr(options, name) % options.steps_per_execution:
            raise ValueError(
                f"--{name} must be a multiple of --steps_per_execution ({options.steps_per_execution}), got "
                f"{getattr(options, name)}."
            )


def check_parts(options, replicas):
    """ValueError unless a replica's share of the batch can be computed in --accumulation_steps equal parts."""
    share = options.global_batch_size // replicas
    if options.accumulation_steps < 1 or share % options.accumulation_steps:
        raise ValueError(
            f"--accumulation_steps must divide the examples of a replica ({share} of --global_batch_size="
            f"{options.global_batch_size}), got {options.accumulation_steps}."
        )
