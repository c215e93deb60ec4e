"""What a data set is to the rest of the program: a specification, and encoded records in two orders."""

import dataclasses
import typing

import tensorflow as tf

from dit_tf.data.class_names import UNLABELLED, ClassTable
from dit_tf.data.preprocessing import decode_and_crop
from dit_tf.latent_scale import LatentScale


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What training needs to know of a split.

    image_size: side in pixels; None where images vary or are not square.
    classes: what the labels 0..K-1 mean.
    horizontal_flip: whether a mirrored image is as good an image of its class.
    vae_sha256: of latents, the encoder that made them; empty where it is not known, and where the examples are images.
    latent_scale: of latents, how a draw from their posterior is scaled; None where the examples are images.
    """

    num_examples: int
    image_size: int | None
    channels: int
    classes: ClassTable
    horizontal_flip: bool
    vae_sha256: str = ""
    latent_scale: LatentScale | None = None

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def is_latents(self):
        return self.latent_scale is not None


class Source(typing.Protocol):
    """A data set on disk.

    A record is a dict of scalars: label (int64), key (string, unique in the split) and whatever else `example` needs to
    make an example of it: the bytes of an image, the path of one, or stored latents. So records can be skipped and
    shuffled before anything is decoded, and as they are stored before they are taken apart.
    """

    name: str  # as typed after --dataset=
    needs_python: bool  # whether its files are read by a function of this process, so not by another host

    def spec(self, split) -> DatasetSpec:
        """ValueError where there is no such split."""

    def epoch(self, split, seed, epoch) -> tf.data.Dataset:
        """Every record of the split once, as it is stored, in an order fixed by (seed, epoch); epoch: int64 scalar."""

    def parse(self, stored) -> dict:
        """An element of `epoch` -> the record."""

    def in_order(self, split, first=0) -> tf.data.Dataset:
        """The records in the order they are stored, from record `first` on."""

    def example(self, record, image_size, crop, mirror):
        """A record -> what a batch holds: uint8 (image_size, image_size, C), or the moments of latents.

        crop: one of config.CROPS. mirror: scalar bool tensor, or None for never.
        """

    def digest(self, split) -> str:
        """The SHA-256 of what the split holds, in hexadecimal: the same wherever it lies."""

    def sides(self, split) -> list:
        """(height, width) in pixels of images as they are stored, of some where they are many."""

    def skipped(self, split) -> dict:
        """{why: how many files} that lie with the images and are none of the data set's."""

    def damaged_file(self, split) -> str | None:
        """The path of the first file of records that cannot be read to its end; None where there is no such file."""


class Unlabelled:
    """A Source without its classes: every label is 0, the one of `UNLABELLED`."""

    def __init__(self, source):
        self._source = source
        self.name, self.epoch = source.name, source.epoch
        self.example, self.damaged_file, self.digest = source.example, source.damaged_file, source.digest
        self.sides, self.skipped, self.needs_python = source.sides, source.skipped, source.needs_python

    def spec(self, split):
        return dataclasses.replace(self._source.spec(split), classes=UNLABELLED)

    def parse(self, stored):
        return _without_label(self._source.parse(stored))

    def in_order(self, split, first=0):
        return self._source.in_order(split, first).map(_without_label)


def _without_label(record):
    return dict(record, label=tf.constant(0, tf.int64))


def image_example(encoded, image_size, channels, crop, mirror, fits=False):
    """Encoded bytes (scalar string) -> uint8 (image_size, image_size, channels), mirrored left to right or not.

    fits: whether every image is known to have that size.
    """
    return mirrored(decode_and_crop(encoded, image_size, channels, crop, fits), mirror)


def mirrored(image, mirror):
    """(H, W, C) left to right where `mirror`, a scalar bool tensor or None for never."""
    if mirror is None:
        return image
    # A tf.where would take a millisecond for 256 x 256 pixels, a hundred times as long.
    return tf.cond(mirror, lambda: tf.reverse(image, axis=[1]), lambda: tf.identity(image))
