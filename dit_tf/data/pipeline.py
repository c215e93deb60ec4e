"""From a data set's name to an endless stream of training batches whose order is a function of (seed, step).

    records in files -> order of epoch e -> skip to the step -> own rows -> parse, decode, crop, flip -> batches

The order within epoch e is fixed by (seed, e), and a record's mirror image by (seed, its place in the stream), so a run
that resumes after any number of examples reads bit for bit what the unbroken run would have read.
"""

import numpy as np
import tensorflow as tf

from dit_tf.data import damage, folder
from dit_tf.data.latent_records import LatentSource
from dit_tf.data.source import Unlabelled
from dit_tf.data.tfds_source import open_tfds

_LATENTS = "latents:"


def open_dataset(name, data_dir=None, unlabelled=False, folder_reading=1):
    """The Source of what follows --dataset=: digits, a TensorFlow Datasets name, folder:DIR or latents:DIR.

    data_dir: where TensorFlow Datasets keeps prepared data sets, see `open_tfds`; the others lie in their DIR.
    unlabelled: leave the classes out. folder_reading: of folder:DIR, see `folder`.
    """
    source = _open(name, data_dir, folder_reading)
    return Unlabelled(source) if unlabelled else source


def _open(name, data_dir, folder_reading):
    if name.startswith(folder.PREFIX):
        return folder.FolderSource(name, folder_reading)
    if name.startswith(_LATENTS):
        return LatentSource(name.removeprefix(_LATENTS), name)
    return open_tfds(name, data_dir)


def training_batches(
    source, split, *, image_size, global_batch_size, seed, first, horizontal_flip, crop="fast", context=None
):
    """An endless tf.data.Dataset of global batches: examples (B, ...), label int32 (B,), row int32 (B,).

    row is 0..B-1, the place in the global batch, for draws per example. Batches run on across the ends of epochs; the
    first batch holds records first .. first + B-1 of the stream.

    context: a tf.distribute.InputContext, of host h of n that have R replicas between them: rows h*B/n .. (h+1)*B/n - 1
    of every global batch, in batches of B/R, those of the host's replicas in turn. Other rows are not made examples of.
    """
    context = context or tf.distribute.InputContext()
    rows = _rows_of(context, global_batch_size)

    def row_of(position):
        return tf.cast((position - first) % global_batch_size, tf.int32)

    def is_own(position, stored):
        return (rows.start <= row_of(position)) & (row_of(position) < rows.stop)

    @tf.autograph.experimental.do_not_convert
    def prepare(position, stored):
        record = source.parse(stored)
        mirror = _mirrored(seed, position) if horizontal_flip else None
        example = source.example(record, image_size, crop, mirror)
        return example, tf.cast(record["label"], tf.int32), row_of(position)

    stream = _stream(source, split, seed, first).enumerate(start=first)
    if len(rows) < global_batch_size:
        stream = stream.filter(is_own)
    stream = stream.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    stream = stream.batch(context.get_per_replica_batch_size(global_batch_size), drop_remainder=True)
    # Of an unknown number the hosts would ask each other, at every step, whether there is another batch.
    stream = stream.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1  # records are prepared side by side already
    return stream.with_options(options).prefetch(tf.data.AUTOTUNE)


def _rows_of(context, global_batch_size):
    """The range of rows of a global batch that are read for the replicas of one host."""
    share = global_batch_size // context.num_input_pipelines
    return range(context.input_pipeline_id * share, (context.input_pipeline_id + 1) * share)


def _stream(source, split, seed, first):
    """The records of all epochs one after the other, as they are stored, from place `first` on."""
    first_epoch, skipped = divmod(first, source.spec(split).num_examples)

    @tf.autograph.experimental.do_not_convert  # plain Python, and code of others that AutoGraph warns about
    def records(epoch):
        return source.epoch(split, seed, epoch)

    # Skipping records while they are encoded costs the reading alone.
    return tf.data.Dataset.counter(first_epoch).flat_map(records).skip(skipped)


def _mirrored(seed, position):
    """Scalar bool, true for half of the places in the stream."""
    seeds = tf.stack([tf.constant(seed, tf.int64), position])
    return tf.random.stateless_uniform((), seeds, alg="philox") < 0.5


def examples_in_order(source, split, *, image_size, batch_size, crop="fast", first=0, mirror=False):
    """Yields examples (B, ...), labels int64 (B,) and keys (B,) of bytes in the order they are stored, as for training.

    first: the record to begin with. mirror: all of them mirrored. The last batch may be shorter. ValueError where a
    record cannot be read.
    """
    mirrored = tf.constant(True) if mirror else None

    def prepare(record):
        return source.example(record, image_size, crop, mirrored), record["label"], record["key"]

    records = source.in_order(split, first)
    batches = records.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    done = 0
    try:
        for batch in batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            yield batch
            done += 1
    except tf.errors.OpError as error:
        suspects = records.skip(done * batch_size).take(batch_size)
        sentence = damage.first_damaged(source, split, suspects, image_size, crop)
        if sentence is None:
            raise
        raise ValueError(sentence) from error


def first_damaged(source, split, seed, image_size, first, count, crop="fast"):
    """One sentence about the first of records first .. first + count - 1 of the training stream that cannot be read,
    or None: what to tell a user when training ends in a tf.errors.OpError."""
    suspects = _stream(source, split, seed, first).take(count).map(source.parse)
    return damage.first_damaged(source, split, suspects, image_size, crop)


def real_images(source, split):
    """A whole split for scoring, in the order it is stored: images uint8 (M, H, H, C) and labels int64 (M,)."""
    spec = source.spec(split)
    if spec.image_size is None or spec.is_latents:
        raise ValueError(f"--dataset={source.name} must have square images of one size to be scored by pixels.")
    whole = examples_in_order(source, split, image_size=spec.image_size, batch_size=spec.num_examples)
    images, labels, _ = next(whole)
    return images, labels.astype(np.int64)
