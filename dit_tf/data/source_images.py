"""A data set's split as images to be scored: what a reference, or samples, may be beside .npz and PNG files."""

import contextlib
import os
import re

from dit_tf.config import CROPS
from dit_tf.data.description import opened
from dit_tf.data.pipeline import examples_in_order, open_dataset


class SourceImages:
    """The first `limit` images of a Source's split (None: all), in stored order, none mirrored; an image set.

    count: how many. shape: (H, W, C). image_size: their side after the centre crop; None: their own if all have one,
    else `otherwise`. flag: what the data set was given as. ValueError, one sentence that begins with the flag and the
    name, for stored latents, for images of several sizes and no side to crop them to, for a split that is not there,
    and where a record cannot be read.
    """

    def __init__(self, flag, source, split, image_size=None, crop="fast", limit=None, otherwise=None):
        self._title = f"{flag}={source.name}"
        with _reworded(flag, source.name):
            self._spec = source.spec(split)
        if self._spec.is_latents:
            raise ValueError(_of_latents(self._title))
        if image_size is None:
            image_size = self._spec.image_size or otherwise
        if image_size is None:
            raise ValueError(
                f"{self._title} has images of several sizes, or not square: add --image_size=256, or another side in "
                "pixels that they are all cropped to."
            )
        if image_size < 1:
            raise ValueError(f"{self._title}: --image_size must be at least 1, got {image_size}.")
        if crop not in CROPS:
            raise ValueError(f"{self._title}: --crop must be one of {', '.join(CROPS)}, got {crop!r}.")
        available = self._spec.num_examples
        if limit is not None and not 1 <= limit <= available:
            raise ValueError(f"{self._title}: --num_examples must be from 1 to {available}, got {limit}.")
        self.count = available if limit is None else limit
        self._flag, self._source, self._split, self._crop = flag, _First(source, self.count), split, crop
        self._size = image_size
        self.shape = (self._size, self._size, self._spec.channels)

    def batches(self, batch_size, first=0):
        """Yields uint8 (B, H, W, C) from image `first` on; the last batch may be shorter."""
        for images, _ in self.examples(batch_size, first):
            yield images

    def examples(self, batch_size, first=0):
        """As `batches`, with labels int64 (B,): 0 where the data set has no classes."""
        wanted = dict(image_size=self._size, batch_size=batch_size, crop=self._crop, first=first)
        with _reworded(self._flag, self._source.name):
            for images, labels, _ in examples_in_order(self._source, self._split, **wanted):
                yield images, labels

    def provenance(self):
        """Which images these are: JSON."""
        return dict(
            dataset=self._source.name, split=self._split, image_size=self._size, crop=self._crop, images=self.count
        )


class _First:
    """The first `count` records of a Source, as far as they are read in order: what lies behind is not touched."""

    def __init__(self, source, count):
        self._source, self._count = source, count
        self.name, self.example, self.damaged_file = source.name, source.example, source.damaged_file

    def in_order(self, split, first=0):
        return self._source.in_order(split, first).take(max(0, self._count - first))


def open_images(flag, name, split, data_dir=None, image_size=None, crop="fast", limit=None, otherwise=None):
    """The `SourceImages` of what a user has typed after `flag`, where it is neither an .npz nor a folder that is there.

    data_dir: as of `open_dataset`. ValueError as there, in one sentence that begins with the flag and the name and,
    where nothing is called so, says what may be given.
    """
    if name.startswith("latents:"):  # before a user is told how to complete them
        raise ValueError(_of_latents(f"{flag}={name}"))
    with _reworded(flag, name):
        source = open_dataset(name, data_dir)
        opened(source, split)
    return SourceImages(flag, source, split, image_size, crop, limit, otherwise)


def _of_latents(title):
    return f"{title} has latents, images are needed: give the data set that they were encoded from."


@contextlib.contextmanager
def _reworded(flag, name):
    """What others say of --dataset and --split is said of `flag`."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if text.startswith("--dataset must be ") or "Parsing builder name" in text:
            text = f"{flag}={name} must be {_allowed(flag)}; {_missing(name, text)}."
        elif text.startswith("--dataset="):
            text = flag + text.removeprefix("--dataset")
        elif text.startswith("--split"):
            own = "--split" if flag == "--dataset" else f"{flag}_split"
            text = f"{flag}={name}: {text.replace('--split', own)}"
        else:
            raise
        raise ValueError(text) from error


def _allowed(flag):
    names = "digits, a TensorFlow Datasets name or folder:DIR (your images)"
    files = "an .npz or .npy file, a folder of PNG or JPEG files"
    return names if flag == "--dataset" else f"{files}, or a data set: {names}"


def _missing(name, text):
    """The end of a sentence about what is no data set; text: what was said of it, near names perhaps."""
    if os.path.isdir(name):
        return f"for the images in this folder type folder:{name}"
    if os.path.isfile(name):
        return "this file is none of them"
    near = re.search(r"near names: [^)]*", text)
    return "there is no file, folder or data set of that name" + (f", {near[0]}" if near else "")
