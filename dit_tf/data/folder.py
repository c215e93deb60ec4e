"""A folder of images: class subfolders, or one flat folder without classes."""

import os
import re

import numpy as np
import tensorflow as tf
import tqdm

from dit_tf.data import imagenet
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.source import DatasetSpec, image_example
from dit_tf.runtime.progress import BAR_DELAY

PREFIX = "folder:"
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")  # what every supported TensorFlow decodes; in any case


class FolderSource:
    """A Source (see source.py) of the images under DIR. Records: label, key (the path relative to DIR).

    Where DIR has subfolders each is a class, in natural order ("class2" before "class10"), and its images lie anywhere
    below it. Else the images in DIR have no classes. Files of other kinds, and what has a name that begins with a dot,
    are passed over; links are followed. Images are read when `example` is called, so skipping records costs nothing.
    ValueError for a folder that is no such thing.
    """

    def __init__(self, name):
        self.name = name
        directory = os.path.expanduser(name.removeprefix(PREFIX))
        if "://" in directory:
            raise ValueError(f"--dataset={name} must name a directory of this machine: copy or mount the images.")
        if not os.path.isdir(directory):
            raise ValueError(f"--dataset={name} must name a directory with images: there is no such directory.")
        try:
            keys, labels, folders = _listing(directory)
        except OSError as error:
            raise ValueError(f"--dataset={name} cannot be read: {error.filename}: {error.strerror}.") from error
        except ValueError as error:
            raise ValueError(f"--dataset={name}: {error}") from error
        self._prefix = os.fsencode(os.path.join(directory, ""))
        self._classes = imagenet.class_table(folders) if folders else UNLABELLED
        with tf.device("CPU:0"):
            self._keys, self._labels = tf.constant(keys), tf.constant(labels)

    def spec(self, split):
        if split != "train":
            raise ValueError(f"--split must be train, the one split of {self.name}, got {split!r}.")
        return DatasetSpec(
            num_examples=len(self._keys), image_size=None, channels=3, classes=self._classes, horizontal_flip=True
        )

    def epoch(self, split, seed, epoch):
        self.spec(split)
        # Mirrors are drawn from (seed, place in the stream), 0 and above: permutations take what is below 0.
        draws = tf.random.stateless_uniform(
            (len(self._keys),), tf.stack([tf.constant(seed, tf.int64), -1 - epoch]), None, None, tf.int64, "philox"
        )
        order = tf.argsort(draws, direction="DESCENDING", stable=True)
        return self._records(tf.gather(self._keys, order), tf.gather(self._labels, order))

    def parse(self, stored):
        return stored

    def in_order(self, split, first=0):
        self.spec(split)
        return self._records(self._keys[first:], self._labels[first:])

    def example(self, record, image_size, crop, mirror):
        encoded = tf.io.read_file(tf.strings.join([self._prefix, record["key"]]))
        return image_example(encoded, image_size, 3, crop, mirror)

    def damaged_file(self, split):
        return None

    @staticmethod
    def _records(keys, labels):
        return tf.data.Dataset.from_tensor_slices({"key": keys, "label": labels})


def _listing(directory):
    """Relative paths (list of bytes), labels int64 (M,) and the names of the class folders, none where it is flat.

    ValueError: the end of a sentence about --dataset.
    """
    images, folders = _entries(directory)
    if images and folders:
        raise ValueError(
            f"it holds both images ({images[0]}) and folders ({folders[0]}); put every image into a class folder, or "
            "the folders elsewhere."
        )
    if not images and not folders:
        raise ValueError(f"it holds no images; a file counts when it ends in {', '.join(ENDINGS)}.")
    if images:
        return [os.fsencode(name) for name in sorted(images)], np.zeros(len(images), np.int64), ()
    folders.sort(key=_natural)
    paths, counts = [], []
    for folder in tqdm.tqdm(folders, unit="folder", desc="listing images", delay=BAR_DELAY, leave=False):
        found = sorted(_below(directory, folder, {os.path.realpath(directory)}))
        if not found:
            raise ValueError(f"the class folder {folder} holds no images; remove it, or put its images there.")
        paths += map(os.fsencode, found)
        counts.append(len(found))
    return paths, np.repeat(np.arange(len(folders)), counts), tuple(folders)


def _below(directory, folder, above):
    """The images anywhere below directory/folder, relative to `directory`; above: real paths of what holds it."""
    path = os.path.join(directory, folder)
    here = os.path.realpath(path)
    if here in above:
        raise ValueError(f"{folder} is a link to a folder that holds it; remove it.")
    images, folders = _entries(path)
    yield from (f"{folder}/{name}" for name in images)
    for name in folders:
        yield from _below(directory, f"{folder}/{name}", above | {here})


def _entries(path):
    """Names of the images and of the folders that lie directly in a folder, in no order."""
    images, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(ENDINGS):
                if entry.is_file():
                    images.append(entry.name)
                elif entry.is_symlink():
                    raise ValueError(f"{entry.path} is a link to a file that is not there; remove it.")
    return images, folders


def _natural(name):
    """Sorts digits by their value; names that differ in leading zeros alone by what is left."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))], name
