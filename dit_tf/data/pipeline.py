"""From a data set's name to an endless stream of training batches whose order is a function of (seed, step).

    records in files -> order of epoch e -> skip to the step -> decode, crop, flip -> batches

The order within epoch e is fixed by (seed, e), and a record's mirror image by (seed, its place in the stream), so a run
that resumes at any step reads bit for bit what the unbroken run would have read.
"""

import dataclasses
import difflib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import dit_tf.data.digits  # noqa: F401  (registers the data set with tfds)
from dit_tf.data import preprocessing

# Written characters mean something else in a mirror.
_CHARACTER_SETS = frozenset(
    ["binarized_mnist", "binary_alpha_digits", "cmaterdb", "digits", "emnist", "kmnist", "mnist", "mnist_corrupted"]
    + ["omniglot", "svhn_cropped"]
)
_SHUFFLE_BYTES = 256 * 2**20  # data sets up to this size, encoded, are shuffled as a whole
_SHUFFLE_RECORDS = 16384  # the buffer of larger ones, and of those of unknown size


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What training needs to know of a split.

    image_size: side in pixels; None where images vary or are not square.
    horizontal_flip: whether a mirrored image is as good an image of its class.
    """

    num_examples: int
    image_size: int | None
    channels: int
    num_classes: int
    class_names: tuple[str, ...]
    horizontal_flip: bool


def open_dataset(name, data_dir=None):
    """The tfds builder of a data set, prepared on disk.

    data_dir: where prepared data sets lie; None means tfds' default, ~/tensorflow_datasets or $TFDS_DATA_DIR. A data
    set that is there is used as it is. Else tfds writes to a directory of another name and renames it at the end, so an
    interrupted preparation leaves nothing that looks finished.
    """
    builder = _builder(name, data_dir)
    _check_features(builder)
    if builder.is_prepared():
        return builder
    if builder.data_path.exists():
        raise ValueError(f"--dataset={name}: {builder.data_dir} is no complete data set; remove it to prepare it anew.")
    try:
        builder.download_and_prepare()
    except (OSError, AssertionError, tfds.download.DownloadError) as error:
        # Another process that prepared the same data set first has made our rename fail.
        builder = _builder(name, data_dir)
        if not builder.is_prepared():
            reason = " ".join(str(error).split())
            raise ValueError(f"--dataset={name} could not be prepared in {builder.data_dir}: {reason}") from error
    return builder


def _builder(name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"near names: {', '.join(near)}" if near else "no known name is near"
        raise ValueError(f"--dataset must be digits or a TensorFlow Datasets name, got {name!r} ({hint}).") from error
    except (ValueError, AssertionError) as error:  # a name that cannot be parsed, an unknown config or version
        reason = str(error).splitlines()[0]
        raise ValueError(f"--dataset={name} cannot be opened by TensorFlow Datasets: {reason}") from error


def _check_features(builder):
    features = dict(builder.info.features.items())
    image, label = (features.get(key) for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8 or image.shape[-1] is None:
        raise ValueError(f"--dataset={builder.name} needs a uint8 feature `image`, has {_listing(features)}.")
    if not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(f"--dataset={builder.name} needs a class feature `label`, has {_listing(features)}.")


def _listing(features):
    return ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())


def dataset_spec(builder, split="train"):
    height, width, channels = builder.info.features["image"].shape
    label = builder.info.features["label"]
    return DatasetSpec(
        num_examples=_num_examples(builder, split),
        image_size=height if height == width else None,
        channels=channels,
        num_classes=label.num_classes,
        class_names=tuple(label.names),
        horizontal_flip=builder.name not in _CHARACTER_SETS,
    )


def _num_examples(builder, split):
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"--split must be one of {known} or a part of one, got {split!r}.") from error
    if not count:
        raise ValueError(f"--split={split} of {builder.name} holds no records.")
    return count


def training_batches(builder, split, *, image_size, global_batch_size, seed, start_step, horizontal_flip):
    """An endless tf.data.Dataset of global batches: image uint8 (B, H, W, C), label int32 (B,), row int32 (B,).

    row is 0..B-1, the place in the global batch, for draws per example. Batches run on across the ends of epochs:
    batch s holds records s*B .. s*B + B-1 of the stream, and the first batch is s = start_step.
    """
    num_examples = _num_examples(builder, split)
    shape = builder.info.features["image"].shape
    first = start_step * global_batch_size
    first_epoch, skipped = divmod(first, num_examples)

    def prepare(position, record):
        image = preprocessing.decode_image(record["image"], shape)
        image = preprocessing.centre_crop(image, image_size)
        if horizontal_flip:
            image = preprocessing.horizontal_flip(image, tf.stack([tf.constant(seed, tf.int64), position]))
        return image, tf.cast(record["label"], tf.int32)

    def with_rows(image, label):
        return image, label, tf.range(global_batch_size, dtype=tf.int32)

    stream = tf.data.Dataset.counter(first_epoch).flat_map(lambda e: _epoch(builder, split, seed, e))
    # Skipping records while they are encoded costs the reading alone.
    stream = stream.skip(skipped).enumerate(start=first)
    stream = stream.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    stream = stream.batch(global_batch_size, drop_remainder=True).map(with_rows)
    options = tf.data.Options()
    options.deterministic = True
    # Under tf.distribute every worker walks the whole stream and keeps its rows: a share of files is no such share.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return stream.with_options(options).prefetch(tf.data.AUTOTUNE)


@tf.autograph.experimental.do_not_convert  # plain Python, and tfds code that AutoGraph warns about
def _epoch(builder, split, seed, epoch):
    """The encoded records of one epoch, in an order fixed by (seed, epoch); epoch: int64 scalar tensor."""
    # A shuffle draws from the pair (seed of the graph, its own seed). This sets the former, in the function that
    # tf.data traces here and nowhere else; left alone it would be the program's, and the order would follow that too.
    # TensorFlow takes seeds modulo 2^31 - 1, and fails on the pair of a 0 and a tensor: hence 1 .. 2^31 - 2.
    tf.random.set_seed(1 + seed % (2**31 - 2))
    several_files = builder.info.splits[split].num_shards > 1
    records = _encoded_records(builder, split, shuffle_files=several_files, shuffle_seed=epoch)
    return records.shuffle(_shuffle_buffer(builder, split), seed=epoch, reshuffle_each_iteration=False)


def _shuffle_buffer(builder, split):
    """In records. A share of the data set's bytes is assumed for a split: tfds knows no size of parts of splits."""
    count, total = _num_examples(builder, split), builder.info.splits.total_num_examples
    split_bytes = builder.info.dataset_size * count / total
    return count if 0 < split_bytes <= _SHUFFLE_BYTES else min(count, _SHUFFLE_RECORDS)


def _encoded_records(builder, split, shuffle_files=False, shuffle_seed=None):
    """Records {"image": encoded bytes, "label": int64} in one deterministic order, files in that of the seed."""
    options = tf.data.Options()
    options.deterministic = True
    config = tfds.ReadConfig(
        options=options,
        try_autocache=False,  # a cache inside an epoch's function would fill anew each epoch
        skip_prefetch=True,
        shuffle_seed=shuffle_seed,
        shuffle_reshuffle_each_iteration=False,
        enable_ordering_guard=False,  # training shuffles data sets of a meaningful order too
    )
    decoders = tfds.decode.PartialDecoding(
        {"image": True, "label": True}, decoders={"image": tfds.decode.SkipDecoding()}
    )
    return builder.as_dataset(split=split, shuffle_files=shuffle_files, decoders=decoders, read_config=config)


def images_in_order(builder, split, *, image_size, batch_size):
    """Yields images uint8 (B, H, W, C) and labels int64 (B,) of a whole split in the order it is stored, cropped as for
    training; the last batch may be shorter."""
    shape = builder.info.features["image"].shape

    def prepare(record):
        image = preprocessing.decode_image(record["image"], shape)
        return preprocessing.centre_crop(image, image_size), record["label"]

    records = _encoded_records(builder, split).map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    yield from records.batch(batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def real_images(builder, split):
    """A whole split for scoring, in the order it is stored: images uint8 (M, H, W, C) and labels int64 (M,)."""
    shape = builder.info.features["image"].shape
    if None in shape:
        raise ValueError(f"--dataset={builder.name} must have images of one size to be scored by pixels.")
    num_examples = _num_examples(builder, split)
    records = _encoded_records(builder, split).map(
        lambda record: (preprocessing.decode_image(record["image"], shape), record["label"])
    )
    images, labels = next(iter(records.batch(num_examples).as_numpy_iterator()))
    return images, labels.astype(np.int64)
