"""A directory of latents while it is written: begun, or gone on with where it is the same, shard by shard."""

import dataclasses
import os

import tensorflow as tf
import tqdm

from dit_tf.config import kind_of
from dit_tf.data import latent_spec
from dit_tf.data.latent_records import ShardWriter, finished_shards, remove_leftovers, shards_of_host


def begin(directory, there, spec, allow_new_data):
    """Write spec.json, or make sure that the one that is `there` is the same, but for where the images lie -> the
    specification that the directory has now; that of version 0.1.0 has no digest. ValueError where it is another."""
    if there is None:
        if tf.io.gfile.glob(os.path.join(directory, "latents-*.tfrecord")):
            raise ValueError(f"--output={directory} holds latents but no {latent_spec.NAME}; give another directory.")
        latent_spec.write(directory, spec)
        return spec
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
    return found


def write_missing(directory, spec, rows_of, doing):
    """Write the shards that are not there, with a progress bar that says what it is `doing` -> their bytes in all.

    rows_of(shards) yields (shard, its rows) in the order of these shards; a row is what `ShardWriter.write` takes.
    """
    shards = shards_of_host(0, 1, spec.num_shards)
    finished = finished_shards(directory, spec)
    remove_leftovers(directory, spec, shards)
    done = sum(spec.examples_in(shard) for shard in shards if shard in finished)
    with tqdm.tqdm(total=spec.num_examples, initial=done, unit="image", desc=doing, dynamic_ncols=True) as bar:
        for shard, rows in rows_of([shard for shard in shards if shard not in finished]):
            with ShardWriter(directory, spec, shard) as writer:
                for row in rows:
                    writer.write(*row)
                    bar.update()
    return sum(tf.io.gfile.stat(spec.path(directory, shard)).length for shard in shards)


def summary(spec, size, output):
    """What is there now, and what to do with it, in two lines; size: in bytes."""
    mirrors = ", each with its mirror image" if spec.mirrored else ""
    return (
        f"{spec.num_examples} images{mirrors}: {tqdm.tqdm.format_sizeof(size, 'B')} in {output}\n"
        f"Next: python -m dit_tf.train --dataset=latents:{output}"
    )
