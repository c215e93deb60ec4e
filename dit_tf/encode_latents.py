"""Latents that other programs extracted, as `encode` stores them: what `encode --from_latents=DIR` does.

Such latents are draws from the posterior, or its mean: they have no variance. They are stored as the mean beside the
least log variance, with the scale that their program trains with, so that training's x is that program's.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from dit_tf import autoencoder_file
from dit_tf.data import latent_spec
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.foreign_arrays import naming
from dit_tf.data.foreign_latents import FastDit, open_foreign, survey
from dit_tf.data.latent_output import begin, write_missing
from dit_tf.data.latent_spec import LatentSpec
from dit_tf.latent_scale import CHANNELS, LatentScale
from dit_tf.models.autoencoder_kl import DOWNSCALING, LOGVAR_RANGE
from dit_tf.pretrained.torch_pickle import read_torch

_STATISTICS = "latents_stats.pt"  # beside LightningDiT's files: mean and std (1, 4, 1, 1) of the latents
_OF_IMAGES = ("dataset", "data_dir", "crop")  # flags


def copy_latents(options, directory):
    """-> (the `LatentSpec` of what is in the directory then, its size in bytes). ValueError for flags that do not go
    together, and for latents that cannot be used, before anything is written."""
    for name in _OF_IMAGES:
        if options[name].present:
            raise ValueError(f"--{name} does not go with --from_latents, whose images another program read.")
    assumed = LatentScale() if options.scaling_factor is None else LatentScale(options.scaling_factor)
    found = os.path.expanduser(options.from_latents)
    source = open_foreign(found, assumed.scaling_factor)
    there = latent_spec.read(directory)
    vae = options.vae and autoencoder_file.load(options.vae, options.precision, scaling_factor=options.scaling_factor)
    scale = scale_of(options, source, vae, assumed, os.path.join(found, _STATISTICS))
    spec = spec_of(options, source, scale, vae.encoder_sha256() if vae else "")
    facts = f"latents of {source.count:,} images{', each with its mirror image' if source.mirrored else ''}, {scale}"
    unknown = "" if vae else "; without --vae it is not known of which autoencoder"
    print(f"{options.from_latents}, {source.title}: {facts}{unknown}", flush=True)
    if there:  # other flags are told before all is read
        begin(directory, there, dataclasses.replace(spec, classes=there.classes, data_digest=there.data_digest), False)
    classes, digest = survey(source)
    spec = dataclasses.replace(spec, classes=classes, data_digest=digest)
    spec = begin(directory, there, spec, options.allow_new_data)

    def rows_of(shards):
        for shard in shards:
            rows = source.rows(shard * spec.examples_per_shard, spec.examples_in(shard))
            yield shard, (record(row, spec) for row in rows)

    return spec, write_missing(directory, spec, rows_of, "writing")


def scale_of(options, source, vae, assumed, statistics):
    """The `LatentScale` that their program trains with; a line says what is assumed. ValueError where the autoencoder's
    file or the statistics say what cannot be."""
    if isinstance(source, FastDit):
        if vae:
            autoencoder_file.check_scale(vae, options.vae, assumed, "these")
        return assumed
    if os.path.exists(statistics):
        if options.scaling_factor is None:
            assumed = LatentScale(1.0)
            print(f"{statistics} normalises them; no latent_multiplier is assumed, --scaling_factor=S says one.")
        return normalised(assumed, statistics)
    if vae and vae.latent_scale:
        return vae.latent_scale
    if options.scaling_factor is None:
        what = f"{assumed}, Stable Diffusion's, is assumed"
        print(f"{options.from_latents} has no {_STATISTICS}: {what}; --scaling_factor=S says another.")
    return assumed


def normalised(scale, path):
    """The scale with the mean and deviation that LightningDiT's file has."""
    fields = read_torch(path)
    with naming(path):
        if not isinstance(fields, dict) or not {"mean", "std"} <= fields.keys():
            raise ValueError("it must hold a dictionary of mean and std")
        for name in ("mean", "std"):
            if np.shape(fields[name]) != (1, CHANNELS, 1, 1):
                raise ValueError(f"{name} must have the shape {(1, CHANNELS, 1, 1)}, got {np.shape(fields[name])}")
        mean, std = (np.asarray(fields[name], np.float64).ravel().tolist() for name in ("mean", "std"))
        return dataclasses.replace(scale, latents_mean=mean, latents_std=std)


def spec_of(options, source, scale, vae_sha256):
    """The `LatentSpec`, but for the classes and the digest, which are known when all is read."""
    size = DOWNSCALING * source.side
    if options.image_size not in (None, size):
        raise ValueError(f"--image_size of {options.from_latents} must be {size}, got {options.image_size}.")
    if options.horizontal_flip and not source.mirrored:
        raise ValueError(f"--horizontal_flip must be false: {options.from_latents} has no latents of mirror images.")
    return LatentSpec(
        dataset=f"latents of {source.title}",
        split=options.split,
        num_examples=source.count,
        classes=UNLABELLED,
        image_size=size,
        crop="pil",  # as both programs read images
        vae_sha256=vae_sha256,
        precision="",
        moments_shape=(source.side, source.side, 2 * CHANNELS),
        moments_dtype=options.moments_dtype or "float32",
        mirrored=source.mirrored if options.horizontal_flip is None else options.horizontal_flip,
        examples_per_shard=options.examples_per_shard,
        **dataclasses.asdict(scale),
    )


def record(row, spec):
    """A foreign `Row` -> the key, label and moments that `ShardWriter.write` takes."""
    return row.key.encode(), row.label, *(moments(z, spec) for z in row.latents[: 1 + spec.mirrored])


def moments(latents, spec):
    """(4, h, h) -> (h, h, 8) of the stored type: the latents as mean, and a deviation of 3e-7 or nearly none."""
    both = np.full(spec.moments_shape, LOGVAR_RANGE[0], np.float32)
    both[..., :CHANNELS] = latents.transpose(1, 2, 0)
    return both.astype(tf.as_dtype(spec.moments_dtype).as_numpy_dtype)
