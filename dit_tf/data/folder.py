"""A folder of images: class subfolders, or one flat folder without classes.

How it is read belongs to what a run is (`RunConfig.folder_reading`), because it decides which images there are and what
their pixels are: reading 1 is that of version 0.1.0, and of --samples and --reference; reading 2, of new runs, turns
images by their Exif orientation, puts transparent ones on white, and finds more (`folder_listing`).
"""

import hashlib
import os

import numpy as np
import tensorflow as tf

from dit_tf.data import decoding, imagenet
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.folder_listing import PIL_ENDINGS, listings
from dit_tf.data.source import DatasetSpec, image_example

PREFIX = "folder:"
_MEASURED = 200  # images whose sides are looked at


class FolderSource:
    """A Source (see source.py) of the images under DIR. Records: label, key (the path relative to DIR).

    Where DIR has subfolders each is a class, in natural order ("class2" before "class10"), and its images lie anywhere
    below it; subfolders train and val (test, ...) of the same classes are splits. Else the images in DIR have no
    classes. Files of other kinds, and what has a name that begins with a dot, are passed over; links are followed.
    Images are read when `example` is called, so skipping records costs nothing. ValueError for a folder that is no such
    thing.
    """

    def __init__(self, name, reading=1):
        self.name, self._reading = name, reading
        directory = os.path.expanduser(name.removeprefix(PREFIX))
        if "://" in directory:
            raise ValueError(f"--dataset={name} must name a directory of this machine: copy or mount the images.")
        if not os.path.isdir(directory):
            raise ValueError(f"--dataset={name} must name a directory with images: there is no such directory.")
        try:
            self._listings = listings(directory, reading)
        except OSError as error:
            raise ValueError(f"--dataset={name} cannot be read: {error.filename}: {error.strerror}.") from error
        except ValueError as error:
            raise ValueError(f"--dataset={name}: {error}") from error
        self._prefix = os.fsencode(os.path.join(directory, ""))
        self._tensors = {}
        endings, found = tuple(ending.encode() for ending in PIL_ENDINGS), self._listings.values()
        self.needs_python = any(key.lower().endswith(endings) for listing in found for key in listing.keys)

    def spec(self, split):
        found = self._listing(split)
        classes = imagenet.class_table(found.classes) if found.classes else UNLABELLED
        return DatasetSpec(len(found.keys), None, 3, classes, horizontal_flip=True)

    def epoch(self, split, seed, epoch):
        keys, labels = self._records_of(split)
        # Mirrors are drawn from (seed, place in the stream), 0 and above: permutations take what is below 0.
        draws = tf.random.stateless_uniform(
            (len(keys),), tf.stack([tf.constant(seed, tf.int64), -1 - epoch]), None, None, tf.int64, "philox"
        )
        order = tf.argsort(draws, direction="DESCENDING", stable=True)
        return self._records(tf.gather(keys, order), tf.gather(labels, order))

    def parse(self, stored):
        return stored

    def in_order(self, split, first=0):
        keys, labels = self._records_of(split)
        return self._records(keys[first:], labels[first:])

    def example(self, record, image_size, crop, mirror):
        encoded = tf.io.read_file(tf.strings.join([self._prefix, record["key"]]))
        if self._reading > 1:
            return decoding.example(encoded, image_size, crop, mirror, self.needs_python)
        return image_example(encoded, image_size, 3, crop, mirror)

    def digest(self, split):
        """Of the sorted relative paths and the sizes of the files."""
        found = self._listing(split)
        lines = sorted(b"%s\0%d\n" % (key, size) for key, size in zip(found.keys, found.sizes.tolist()))
        return hashlib.sha256(b"".join(lines)).hexdigest()

    def sides(self, split):
        """(height, width) of some images, evenly spaced, as they are stored; what cannot be read is left out."""
        keys = self._listing(split).keys
        paths = (self._prefix + keys[place] for place in range(0, len(keys), -(-len(keys) // _MEASURED)))
        return decoding.sides(map(os.fsdecode, paths))

    def skipped(self, split):
        """{why: how many files} were passed over."""
        return self._listing(split).skipped

    def damaged_file(self, split):
        return None

    def _listing(self, split):
        if split not in self._listings:
            *others, last = self._listings
            known = f"one of {', '.join(others)}, {last}" if others else f"{last}, the one split"
            raise ValueError(f"--split must be {known} of {self.name}, got {split!r}.")
        return self._listings[split]

    def _records_of(self, split):
        """(keys, labels) as tensors: of a million images once."""
        if split not in self._tensors:
            found = self._listing(split)
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensors[split] = tf.constant(found.keys), tf.constant(np.int64(found.labels))
        return self._tensors[split]

    @staticmethod
    def _records(keys, labels):
        return tf.data.Dataset.from_tensor_slices({"key": keys, "label": labels})
