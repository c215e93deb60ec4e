"""Turn images into latents on disk, so that training reads them instead of running the autoencoder:

    python -m dit_tf.encode --dataset=folder:photos --vae=vae.keras --image_size=256 --output=latents
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
import tqdm

from dit_tf import autoencoder_file, flags
from dit_tf.build import encoder_of
from dit_tf.config import CROPS, FOLDER_READINGS, PRECISIONS, kind_of
from dit_tf.data import latent_spec
from dit_tf.data.description import opened
from dit_tf.data.latent_records import ShardWriter, finished_shards, remove_leftovers, shards_of_host
from dit_tf.data.latent_spec import MOMENTS_DTYPES, LatentSpec
from dit_tf.data.pipeline import examples_in_order, open_dataset
from dit_tf.models.autoencoder_kl import DOWNSCALING
from dit_tf.models.codec import VaeCodec
from dit_tf.runtime.distribution import check_batch, compiled_on


def main(options):
    check_flags(options)
    directory = os.path.expanduser(options.output)
    strategy = flags.strategy_of(options)
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
    prepare(directory, there, spec, options.allow_new_data)
    spec = latent_spec.read(directory)  # that of version 0.1.0 has no digest

    shards = shards_of_host(0, 1, spec.num_shards)
    finished = finished_shards(directory, spec)
    remove_leftovers(directory, spec, shards)
    encode = make_encoder(codec, spec, strategy)
    shared = encoder_of(vae)
    done = sum(spec.examples_in(shard) for shard in shards if shard in finished)
    total = sum(map(spec.examples_in, shards))
    with tqdm.tqdm(total=total, initial=done, unit="image", desc="encoding", dynamic_ncols=True) as bar:
        for shard, batches in missing_shards(source, spec, shards, finished, options.batch_size):
            with ShardWriter(directory, spec, shard) as writer:
                for examples, labels, keys in batches:
                    moments = encode_batch(encode, shared, examples, options.batch_size)
                    for row in zip(keys, labels, *moments):
                        writer.write(*row)
                    bar.update(len(examples))
    size = tqdm.tqdm.format_sizeof(sum(tf.io.gfile.stat(spec.path(directory, shard)).length for shard in shards), "B")
    mirrors = ", each with its mirror image" if spec.mirrored else ""
    print(f"{total} images{mirrors}: {size} in {options.output}")
    print(f"Next: python -m dit_tf.train --dataset=latents:{options.output}")


def check_flags(options):
    if not options.vae:
        raise ValueError(
            "--vae must be given: `python -m dit_tf.convert --source=sd-vae-ft-ema --output=vae.keras` gets one."
        )
    if not options.output:
        raise ValueError("--output must be given: the directory that the latents go to.")
    for name, allowed in (("crop", CROPS), ("precision", PRECISIONS), ("moments_dtype", MOMENTS_DTYPES)):
        if getattr(options, name) not in allowed:
            raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(options, name)!r}.")
    if options.examples_per_shard < 1:
        raise ValueError(f"--examples_per_shard must be at least 1, got {options.examples_per_shard}.")


def image_size_of(options, images):
    """In pixels, by the rule of train; ValueError where the autoencoder cannot take the images."""
    if images.vae_sha256:
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
        moments_dtype=options.moments_dtype,
        mirrored=images.horizontal_flip if options.horizontal_flip is None else options.horizontal_flip,
        examples_per_shard=options.examples_per_shard,
        **dataclasses.asdict(codec.vae.latent_scale),
    )


def prepare(directory, there, spec, allow_new_data):
    """Write spec.json, or make sure that the one that is `there` is the same, but for where the images lie."""
    if there is None:
        if tf.io.gfile.glob(os.path.join(directory, "latents-*.tfrecord")):
            raise ValueError(f"--output={directory} holds latents but no {latent_spec.NAME}; give another directory.")
        latent_spec.write(directory, spec)
        return
    moved = there.data_digest and kind_of(there.dataset) == kind_of(spec.dataset)
    found = dataclasses.replace(
        spec, dataset=there.dataset if moved else spec.dataset, data_digest=there.data_digest and spec.data_digest
    )
    if allow_new_data and dataclasses.replace(there, data_digest=found.data_digest) == found:
        latent_spec.write(directory, found)
    elif found != there:
        hint = "" if found.data_digest == there.data_digest else "; --allow_new_data where an image was mended"
        raise ValueError(
            f"--output={directory} holds other latents ({'; '.join(found.differences(there))}): repeat the command "
            f"that wrote them, or give another directory{hint}."
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


def missing_shards(source, spec, shards, finished, batch_size):
    """Yields (shard, its batches of images, labels and keys) for the shards that are not finished. Batches end with
    their shard, so that what is encoded together does not depend on where a run began."""
    missing = [shard for shard in shards if shard not in finished]
    for _, group in itertools.groupby(enumerate(missing), lambda pair: pair[1] - pair[0]):
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
