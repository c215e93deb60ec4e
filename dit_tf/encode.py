"""Turn images into latents on disk, so that training reads them instead of running the autoencoder:

    python -m dit_tf.encode --dataset=folder:photos --vae=vae.keras --image_size=256 --output=latents
    python -m dit_tf.encode --from_latents=features --output=latents
    python -m dit_tf.train  --dataset=latents:latents --model=DiT-B/2

The same command again goes on with the first file that is missing; the files are to the bit those of an unbroken run.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import dataclasses
import itertools
import os

import numpy as np
import tensorflow as tf

from dit_tf import autoencoder_file, flags
from dit_tf.build import encoder_of
from dit_tf.config import CROPS, FOLDER_READINGS, PRECISIONS
from dit_tf.data import latent_spec
from dit_tf.data.description import opened
from dit_tf.data.latent_output import begin, summary, write_missing
from dit_tf.data.latent_spec import MOMENTS_DTYPES, LatentSpec
from dit_tf.data.pipeline import examples_in_order, open_dataset
from dit_tf.encode_latents import copy_latents
from dit_tf.models.autoencoder_kl import DOWNSCALING
from dit_tf.models.codec import VaeCodec
from dit_tf.runtime.distribution import check_batch, compiled_on


def main(options):
    check_flags(options)
    directory = os.path.expanduser(options.output)
    strategy = flags.strategy_of(options)
    if options.from_latents:
        spec, size = copy_latents(options, directory)
    else:
        spec, size = encode_images(options, directory, strategy)
    print(summary(spec, size, options.output))


def encode_images(options, directory, strategy):
    """-> (the `LatentSpec` of what is in the directory then, its size in bytes)."""
    check_batch("--batch_size", options.batch_size, strategy)
    there = latent_spec.read(directory)
    reading = there.folder_reading if there else FOLDER_READINGS[-1]
    source = open_dataset(options.dataset, options.data_dir, folder_reading=reading)
    images = opened(source, options.split)
    image_size = image_size_of(options, images)
    vae = load_vae(options)
    codec = VaeCodec(image_size, vae)
    spec = latent_spec_of(options, images, codec)
    spec = dataclasses.replace(spec, data_digest=source.digest(options.split), folder_reading=reading)
    spec = begin(directory, there, spec, options.allow_new_data)

    encode = make_encoder(codec, spec, strategy)
    shared = encoder_of(vae)

    def rows_of(shards):
        for shard, batches in batches_of_shards(source, spec, shards, options.batch_size):
            rows = (
                zip(keys, labels, *encode_batch(encode, shared, examples, options.batch_size))
                for examples, labels, keys in batches
            )
            yield shard, itertools.chain.from_iterable(rows)

    return spec, write_missing(directory, spec, rows_of, "encoding")


def check_flags(options):
    if not options.vae and not options.from_latents:
        raise ValueError(
            "--vae must be given: `python -m dit_tf.convert --source=sd-vae-ft-ema --output=vae.keras` gets one."
        )
    if not options.output:
        raise ValueError("--output must be given: the directory that the latents go to.")
    for name, allowed in (("crop", CROPS), ("precision", PRECISIONS), ("moments_dtype", MOMENTS_DTYPES)):
        if getattr(options, name) not in (None, *allowed):
            raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(options, name)!r}.")
    if options.scaling_factor is not None and options.scaling_factor <= 0:
        raise ValueError(f"--scaling_factor must be positive, got {options.scaling_factor}.")
    if options.examples_per_shard < 1:
        raise ValueError(f"--examples_per_shard must be at least 1, got {options.examples_per_shard}.")


def image_size_of(options, images):
    """In pixels, by the rule of train; ValueError where the autoencoder cannot take the images."""
    if images.is_latents:
        raise ValueError(f"--dataset must have images to encode; {options.dataset} has latents already.")
    if images.channels != 3:
        raise ValueError(
            f"--dataset must have images of 3 channels, which the autoencoder takes; {options.dataset} has "
            f"{images.channels}: save them as a folder of colour images, and give folder:DIR."
        )
    size = images.image_size or 256 if options.image_size is None else options.image_size
    if size < 1:
        raise ValueError(f"--image_size must be at least 1, got {size}.")
    VaeCodec(size)  # refuses what is not divisible by 8, before weights are read
    return size


def load_vae(options):
    vae = autoencoder_file.load(options.vae, options.precision, scaling_factor=options.scaling_factor)
    autoencoder_file.scale_or_assumed(vae, options.vae)
    return vae


def latent_spec_of(options, images, codec):
    return LatentSpec(
        dataset=options.dataset,
        split=options.split,
        num_examples=images.num_examples,
        classes=images.classes,
        image_size=codec.input_size[0] * DOWNSCALING,
        crop=options.crop,
        vae_sha256=codec.vae.encoder_sha256(),
        precision=options.precision,
        moments_shape=(*codec.input_size, 2 * codec.channels),
        moments_dtype=options.moments_dtype or MOMENTS_DTYPES[0],
        mirrored=images.horizontal_flip if options.horizontal_flip is None else options.horizontal_flip,
        examples_per_shard=options.examples_per_shard,
        **dataclasses.asdict(codec.vae.latent_scale),
    )


def make_encoder(codec, spec, strategy=None):
    """(the encoder's weights, images (N, H, W, 3) uint8) -> [moments of the images, moments of their mirror images if
    they are stored], (N, h, w, 8) each, of the stored type."""

    def encode(weights, images):
        # The latents of a mirror image are not the mirrored latents of the image.
        both = tf.concat([images, tf.reverse(images, axis=[2])], axis=0) if spec.mirrored else images
        moments = tf.cast(codec.moments(weights, both), spec.moments_dtype)
        return tf.split(moments, 1 + spec.mirrored)

    return compiled_on(encode, strategy)


def encode_batch(encode, weights, images, batch_size):
    """NumPy arrays of at most `batch_size` rows, from a call with exactly so many, filled up with the first ones."""
    fill = np.arange(batch_size) % len(images)
    return [moments.numpy()[: len(images)] for moments in encode(weights, tf.constant(images[fill]))]


def batches_of_shards(source, spec, shards, batch_size):
    """Yields (shard, its batches of images, labels and keys). Batches end with their shard, so that what is encoded
    together does not depend on where a run began."""
    for _, group in itertools.groupby(enumerate(shards), lambda pair: pair[1] - pair[0]):
        neighbours = [shard for _, shard in group]  # they are read in one go
        batches = examples_in_order(
            source,
            spec.split,
            image_size=spec.image_size,
            batch_size=batch_size,
            crop=spec.crop,
            first=neighbours[0] * spec.examples_per_shard,
        )
        records = itertools.chain.from_iterable(zip(*batch) for batch in batches)
        for shard in neighbours:
            yield shard, batches_of(records, spec.examples_in(shard), batch_size)


def batches_of(records, count, batch_size):
    """The next `count` records in batches, the last of which may be shorter. ValueError where they end before."""
    for first in range(0, count, batch_size):
        wanted = min(batch_size, count - first)
        batch = list(itertools.islice(records, wanted))
        if len(batch) < wanted:
            raise ValueError("--dataset has fewer images than it says; prepare it anew.")
        examples, labels, keys = zip(*batch)
        yield np.stack(examples), labels, keys


if __name__ == "__main__":
    flags.run(main, flags.define_encode)
