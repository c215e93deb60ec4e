"""Data sets of TensorFlow Datasets: any that has a feature `image`, and as a class either a feature `label` or none."""

import contextlib
import dataclasses
import difflib
import hashlib
import os
import tarfile

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from dit_tf.data import damage, digits, imagenet  # digits: registers that data set with tfds too
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.source import DatasetSpec, image_example

# Written characters mean something else in a mirror.
_CHARACTER_SETS = frozenset(
    ["binarized_mnist", "binary_alpha_digits", "cmaterdb", "digits", "emnist", "kmnist", "mnist", "mnist_corrupted"]
    + ["omniglot", "svhn_cropped"]
)
_KEYS = {"digits": "key", imagenet.NAME: "file_name"}  # features that no two records of a split share
_PLACE = "tfds_id"  # file and place in it: a key where no feature is one, which takes as long as all the rest
_MEASURED = 50  # images whose sides are looked at, from the first on
_SHUFFLE_BYTES = 256 * 2**20  # data sets up to this size, encoded, are shuffled as a whole
_SHUFFLE_RECORDS = 16384  # the buffer of larger ones, and of those of unknown size

# What builders, and the files that they were given, end in; a ValueError is a sentence already.
_FAILURES = (OSError, AssertionError, ImportError, LookupError, RuntimeError, tarfile.TarError)
_FAILURES += (tfds.download.DownloadError,)


def open_tfds(name, data_dir=None):
    """The data set of that name, prepared on disk.

    data_dir: where prepared data sets lie; None means tfds' default, ~/tensorflow_datasets or $TFDS_DATA_DIR. A data
    set that is there is used as it is. Else tfds writes to a directory of another name and renames it at the end, so an
    interrupted preparation leaves nothing that looks finished.
    """
    builder = _builder(name, data_dir)
    _check_features(builder)
    if builder.is_prepared():
        return TfdsSource(name, builder)
    if builder.data_path.exists():
        raise ValueError(f"--dataset={name}: {builder.data_dir} is no complete data set; remove it to prepare it anew.")
    if builder.name == imagenet.NAME:
        imagenet.check_archives(builder.data_dir_root / "downloads" / "manual")
    try:
        with digits.without_bars() if builder.name == digits.Digits.name else contextlib.nullcontext():
            builder.download_and_prepare()
    except _FAILURES as error:
        # Another process that prepared the same data set first has made our rename fail.
        builder = _builder(name, data_dir)
        if not builder.is_prepared():
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(
                f"--dataset={name} could not be prepared in {builder.data_dir} ({reason}): the same command tries "
                "again; where there is no network, copy a prepared data set to --data_dir."
            ) from error
    return TfdsSource(name, builder)


def _builder(name, data_dir):
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f"near names: {', '.join(near)}" if near else "no known name is near"
        raise ValueError(
            "--dataset must be digits, a TensorFlow Datasets name, folder:DIR (your images) or latents:DIR (what "
            f"dit_tf.encode wrote), got {name!r} ({hint})."
        ) from error
    except (ValueError, AssertionError) as error:  # a name that cannot be parsed, an unknown config or version
        reason = str(error).splitlines()[0].split(" Here are")[0].rstrip(".")  # names that are near, often none
        raise ValueError(f"--dataset={name} cannot be opened by TensorFlow Datasets: {reason}.") from error


def _check_features(builder):
    features = dict(builder.info.features.items())
    image, label = (features.get(key) for key in ("image", "label"))
    if not isinstance(image, tfds.features.Image) or image.np_dtype != np.uint8 or image.shape[-1] is None:
        raise ValueError(f"--dataset={builder.name} needs a uint8 feature `image`, has {_listing(features)}.")
    if "label" in features and not isinstance(label, tfds.features.ClassLabel):
        raise ValueError(f"--dataset={builder.name} needs a class feature `label` or none, has {_listing(features)}.")


def _listing(features):
    return ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A Source (see source.py) over a prepared builder. Records: image (encoded bytes), label, key.

    As it is stored a record has those of the features image, label and key that the data set has.
    """

    name: str
    builder: tfds.core.DatasetBuilder

    def spec(self, split):
        if self.builder.name == imagenet.NAME:
            imagenet.check_split(split)
        height, width, channels = self.builder.info.features["image"].shape
        labelled = "label" in self.builder.info.features
        return DatasetSpec(
            num_examples=_num_examples(self.builder, split),
            image_size=height if height == width else None,
            channels=channels,
            classes=imagenet.class_table(self.builder.info.features["label"].names) if labelled else UNLABELLED,
            horizontal_flip=self.builder.name not in _CHARACTER_SETS,
        )

    def epoch(self, split, seed, epoch):
        """To be called while tf.data traces a function: it sets the seed of the graph it is in.

        A shuffle draws from the pair (seed of the graph, its own seed). Left alone the former would be the program's,
        and the order would follow that too.
        """
        # TensorFlow takes seeds modulo 2^31 - 1, and fails on the pair of a 0 and a tensor: hence 1 .. 2^31 - 2.
        tf.random.set_seed(1 + seed % (2**31 - 2))
        several_files = self.builder.info.splits[split].num_shards > 1
        records = self._records(split, shuffle_files=several_files, shuffle_seed=epoch)
        return records.shuffle(_shuffle_buffer(self.builder, split), seed=epoch, reshuffle_each_iteration=False)

    def parse(self, stored):
        label, key = stored.get("label", tf.constant(0, tf.int64)), stored[self._key_feature]
        key = key if key.dtype == tf.string else tf.as_string(key)
        return {"image": stored["image"], "label": label, "key": key}

    def in_order(self, split, first=0):
        parse = tf.autograph.experimental.do_not_convert(self.parse)
        return self._records(split).skip(first).map(parse)

    def example(self, record, image_size, crop, mirror):
        *sides, channels = self.builder.info.features["image"].shape
        fits = sides == [image_size, image_size]
        return image_example(record["image"], image_size, channels, crop, mirror, fits)

    def digest(self, split):
        """Of name, configuration, version and count: the files themselves may be laid out anew."""
        held = f"{self.builder.info.full_name} {split} {_num_examples(self.builder, split)}"
        return hashlib.sha256(held.encode()).hexdigest()

    needs_python = False

    def sides(self, split):
        height, width, _ = self.builder.info.features["image"].shape
        if None not in (height, width):
            return [(height, width)]
        images = (tf.io.decode_image(r["image"], expand_animations=False) for r in self.in_order(split).take(_MEASURED))
        return [tuple(image.shape[:2]) for image in images]

    def skipped(self, split):
        return {}

    def damaged_file(self, split):
        if self.builder.info.file_format != tfds.core.FileFormat.TFRECORD:
            return None
        return damage.first_unreadable([os.fspath(path) for path in self.builder.info.splits[split].filepaths])

    def _records(self, split, shuffle_files=False, shuffle_seed=None):
        """In one deterministic order, files in that of the seed."""
        options = tf.data.Options()
        options.deterministic = True
        config = tfds.ReadConfig(
            options=options,
            try_autocache=False,  # a cache inside an epoch's function would fill anew each epoch
            skip_prefetch=True,
            shuffle_seed=shuffle_seed,
            shuffle_reshuffle_each_iteration=False,
            enable_ordering_guard=False,  # training shuffles data sets of a meaningful order too
            add_tfds_id=self._key_feature == _PLACE,
        )
        read = {name: True for name in ("image", "label", self._key_feature) if name in self.builder.info.features}
        decoders = tfds.decode.PartialDecoding(read, decoders={"image": tfds.decode.SkipDecoding()})
        return self.builder.as_dataset(split=split, shuffle_files=shuffle_files, decoders=decoders, read_config=config)

    @property
    def _key_feature(self):
        return _KEYS.get(self.builder.name, _PLACE)


def _num_examples(builder, split):
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"--split must be one of {known} or a part of one, got {split!r}.") from error
    if not count:
        raise ValueError(f"--split={split} of {builder.name} holds no records.")
    return count


def _shuffle_buffer(builder, split):
    """In records. A share of the data set's bytes is assumed for a split: tfds knows no size of parts of splits."""
    count, total = _num_examples(builder, split), builder.info.splits.total_num_examples
    split_bytes = builder.info.dataset_size * count / total
    return count if 0 < split_bytes <= _SHUFFLE_BYTES else min(count, _SHUFFLE_RECORDS)
