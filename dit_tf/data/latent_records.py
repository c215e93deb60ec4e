"""Latents on disk: what `dit_tf.encode` writes, and --dataset=latents:DIR reads.

    DIR/spec.json                           what the records are, see `LatentSpec`
    DIR/latents-00012-of-00130.tfrecord     records 12 E .. 13 E - 1 of the images, for E examples per shard

A record is a tf.train.Example. moments: the bytes of an (h, w, 8) array, little-endian, the posterior's mean and then
its log variance, not scaled. mirrored: those of the mirror image, so that flips can be drawn afresh in every epoch.
label, key: as the image had them. A file has its name only when it is whole.
"""

import contextlib
import functools
import os
import re
import struct

import tensorflow as tf

from dit_tf.data import latent_spec
from dit_tf.data.damage import reason_of
from dit_tf.data.latent_spec import UNFINISHED, writing
from dit_tf.data.source import DatasetSpec

_SHARD = re.compile(r"latents-(\d{5,})-of-(\d{5,})\.tfrecord")
_OPEN_FILES = 128  # at a time: neighbours in a folder are of one class, so a batch must come from many files
_BLOCK = 8  # records from each in turn
_SHUFFLE_BYTES = 256 * 2**20  # of what is shuffled in memory


def shards_of_host(host, hosts, num_shards):
    """The shards that host 0 <= h < n writes: h, h + n, h + 2 n, ..."""
    return range(host, num_shards, hosts)


def finished_shards(directory, spec):
    """The numbers of the shards whose files are there, as a set."""
    matches = (_SHARD.fullmatch(name) for name in tf.io.gfile.listdir(directory))
    numbers = ((int(match[1]), int(match[2])) for match in matches if match)
    return {shard for shard, count in numbers if shard < count == spec.num_shards}


def remove_leftovers(directory, spec, shards):
    """Delete what a killed run has left of these shards."""
    names = {os.path.basename(spec.path(directory, shard)) for shard in shards}
    for name in tf.io.gfile.listdir(directory):
        if name.startswith(UNFINISHED) and name.split("-", 2)[-1] in names:
            tf.io.gfile.remove(os.path.join(directory, name))


class ShardWriter:
    """Writes the file of one shard, inside a `with`. It gets its name at the end, and only if nothing was raised."""

    def __init__(self, directory, spec, shard):
        self._spec, self._path = spec, spec.path(directory, shard)
        # The process's number, so that of two that write the same directory one fails and the file stays whole.
        self._unfinished = os.path.join(directory, f"{UNFINISHED}{os.getpid()}-{os.path.basename(self._path)}")

    def __enter__(self):
        with writing(self._path):
            self._writer = tf.io.TFRecordWriter(self._unfinished)
        return self

    def write(self, key, label, moments, mirrored=None):
        """key: bytes; moments, mirrored: arrays of the specification's shape and type."""
        values = {"moments": _little_endian(moments), "key": key}
        if self._spec.mirrored:
            values["mirrored"] = _little_endian(mirrored)
        features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for name, v in values.items()}
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
        example = tf.train.Example(features=tf.train.Features(feature=features))
        with writing(self._path):
            # Otherwise the order of the features differs from process to process.
            self._writer.write(example.SerializeToString(deterministic=True))

    def __exit__(self, kind, error, traceback):
        with writing(self._path) if kind is None else contextlib.suppress(tf.errors.OpError):
            self._writer.close()
            if kind is None:
                tf.io.gfile.rename(self._unfinished, self._path)
            else:
                tf.io.gfile.remove(self._unfinished)


class LatentSource:
    """A Source (see source.py) of the latents in a directory. Records: moments, mirrored if stored, label, key.

    Its split is called train, whatever the images' was, and by the name of that too.
    """

    def __init__(self, directory, name=None):
        """name: as typed after --dataset=. ValueError where the directory is not whole."""
        self.name = name or f"latents:{directory}"
        self.directory = os.path.expanduser(directory)
        self.latents = latent_spec.read(self.directory)
        if self.latents is None:
            raise ValueError(
                f"--dataset={self.name} has no {latent_spec.NAME}: `python -m dit_tf.encode --output={directory}` "
                "writes latents."
            )
        missing = self.latents.num_shards - len(finished_shards(self.directory, self.latents))
        if missing:
            raise ValueError(
                f"--dataset={self.name}: {missing} of {self.latents.num_shards} shards are missing; run the same "
                "encode command again."
            )

    def spec(self, split):
        latents = self.latents
        if split not in ("train", latents.split):
            raise ValueError(f"--split must be train, the one split of --dataset={self.name}, got {split!r}.")
        return DatasetSpec(
            num_examples=latents.num_examples,
            image_size=latents.image_size,
            channels=3,
            classes=latents.classes,
            horizontal_flip=latents.mirrored,
            vae_sha256=latents.vae_sha256,
            latent_scale=latents.latent_scale,
        )

    def epoch(self, split, seed, epoch):
        """Files in an order of the epoch's own, some of them read in turn, and their records shuffled in memory.

        To be called while tf.data traces a function: it sets the seed of the graph it is in (see `TfdsSource.epoch`).
        """
        tf.random.set_seed(1 + seed % (2**31 - 2))
        shuffled = dict(seed=epoch, reshuffle_each_iteration=False)
        files, count = self._files(split), self.latents.num_shards
        records = files.shuffle(count, **shuffled).interleave(
            _records_of,
            cycle_length=min(count, _OPEN_FILES),
            block_length=_BLOCK,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        record_bytes = self.latents.moments_bytes * (1 + self.latents.mirrored)
        buffer = max(1, min(self.latents.num_examples, _SHUFFLE_BYTES // record_bytes))
        return records.shuffle(buffer, **shuffled)

    def parse(self, stored):
        return _parse(stored, self.latents)

    def in_order(self, split, first=0):
        shard, skipped = divmod(first, self.latents.examples_per_shard)
        return _parsed(self._files(split).skip(shard).flat_map(_records_of).skip(skipped), self.latents)

    def example(self, record, image_size, crop, mirror):
        """(h, w, 8) of the stored type. Images were cropped before they were encoded, so `crop` changes nothing."""
        latents = self.latents
        if image_size != latents.image_size:
            raise ValueError(f"--image_size must be {latents.image_size}, that of {self.name}, got {image_size}.")
        encoded = record["moments"]
        if mirror is not None:
            if not latents.mirrored:
                raise ValueError(f"--horizontal_flip must be false: {self.name} was stored without mirror images.")
            encoded = tf.where(mirror, record["mirrored"], encoded)
        return tf.reshape(tf.io.decode_raw(encoded, latents.moments_dtype), latents.moments_shape)

    def digest(self, split):
        self.spec(split)
        return self.latents.digest()

    needs_python = False

    def sides(self, split):
        return [(self.latents.image_size,) * 2]

    def skipped(self, split):
        return {}

    def damaged_file(self, split):
        for shard in range(self.latents.num_shards):
            try:
                check_shard(self.directory, self.latents, shard)
            except ValueError:
                return self.latents.path(self.directory, shard)
        return None

    def _files(self, split):
        self.spec(split)
        shards = range(self.latents.num_shards)
        paths = [self.latents.path(self.directory, shard) for shard in shards]
        counts = [self.latents.examples_in(shard) for shard in shards]
        return tf.data.Dataset.from_tensor_slices((paths, tf.constant(counts, tf.int64)))


def check_shard(directory, spec, shard):
    """Read one shard to its end. ValueError, a sentence with the file's name, unless all is as it was written: lengths,
    checksums, the number of records, the size of their arrays, labels. Needs no more memory than the file has bytes."""
    path = spec.path(directory, shard)
    try:
        _check_lengths(path)
        with tf.device("CPU:0"):
            for record in _parsed(_records_of(path, spec.examples_in(shard)), spec).as_numpy_iterator():
                _check_record(record, spec)
    except (tf.errors.OpError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({reason_of(error)}): remove it and run the same encode command again."
        ) from error


def _check_lengths(path):
    """ValueError unless the lengths that a TFRecord file gives add up to its own. TensorFlow takes memory by them."""
    with tf.io.gfile.GFile(path, "rb") as file:
        size, end = file.size(), 0
        while end < size:
            file.seek(end)
            head = file.read(8)
            if len(head) == 8:
                end += 16 + struct.unpack("<Q", head)[0]  # length, its checksum, the bytes, their checksum
            if len(head) < 8 or end > size:
                raise ValueError("its last record is cut off, or a length in it is wrong")


def _check_record(record, spec):
    for name in _byte_features(spec):
        if name != "key" and len(record[name]) != spec.moments_bytes:
            raise ValueError(f"{name} has {len(record[name])} bytes, {spec.moments_bytes} are right")
    if not 0 <= record["label"] < len(spec.classes):
        raise ValueError(f"a label is {record['label']}, there are {len(spec.classes)} classes")


def _records_of(path, count):
    """The records of a file. A file that was cut between two of them is an error too."""
    return tf.data.TFRecordDataset(path).apply(tf.data.experimental.assert_cardinality(count))


def _parsed(records, spec):
    return records.map(functools.partial(_parse, spec=spec), tf.data.AUTOTUNE, deterministic=True)


def _parse(stored, spec):
    features = {name: tf.io.FixedLenFeature((), tf.string) for name in _byte_features(spec)}
    return tf.io.parse_single_example(stored, features | {"label": tf.io.FixedLenFeature((), tf.int64)})


def _byte_features(spec):
    return ("moments", "mirrored", "key") if spec.mirrored else ("moments", "key")


def _little_endian(moments):
    """Bytes of an array of 2 or 4 bytes an element; NumPy turns no bfloat16 around."""
    size = moments.dtype.itemsize
    return moments.view(f"u{size}").astype(f"<u{size}").tobytes()
