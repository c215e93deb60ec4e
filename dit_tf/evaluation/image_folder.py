"""A folder of PNG and JPEG files as the images that are scored."""

import hashlib
import os
import re

import numpy as np
import tqdm
from PIL import Image, ImageOps

from dit_tf.runtime.progress import BAR_DELAY

_LARGEST_IMAGE = 2048  # pixels a side
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
_ENDINGS = (".png", ".jpg", ".jpeg")
_GREY = ("1", "L")  # of Pillow, like the following: 8 bits and less, nothing transparent
_MODES = (*_GREY, "P", "RGB")


class ImageFolder:
    """The PNG and JPEG files that lie directly in `path`, which was given as `flag`, in natural order ("2.png" before
    "10.png"). JPEGs are turned as their EXIF says.

    count: how many. shape: (H, W, C), that of the first; the others are held against it when they are read. C is 1
    where all are grey, else 3: grey images and palettes become RGB then as Pillow's convert does it. Other files, and
    names that begin with a dot, are passed over. ValueError, one sentence that begins with the flag and the folder, for
    a folder without images, and with the file's name for one that is damaged, transparent, of 16 bits or of another
    size.
    """

    def __init__(self, flag, path):
        self.path, self._title = path, f"{flag}={path}"
        try:
            names = [entry.name for entry in os.scandir(path) if entry.is_file()]
        except OSError as error:
            raise ValueError(f"{self._title} cannot be read as a folder of images: {error.strerror}.") from error
        self._names = sorted((n for n in names if n.lower().endswith(_ENDINGS) and not n.startswith(".")), key=_natural)
        if not self._names:
            raise ValueError(f"{self._title} must be a folder with PNG or JPEG files directly in it, it holds none.")
        self.shape, self._mode = None, "RGB"
        self.count, first = len(self._names), self._read(self._names[0])
        if all(self._is_grey(name) for name in self._names):  # which the first of coloured ones answers
            self._mode, first = "L", first[..., :1]
        self.shape = first.shape

    def batches(self, batch_size, first=0):
        """Yields uint8 (B, H, W, C) from image `first` on; the last batch may be shorter."""
        for begin in range(first, self.count, batch_size):
            yield np.stack([self._read(name) for name in self._names[begin : begin + batch_size]])

    def provenance(self):
        """Which images these are: JSON."""
        return dict(folder=self.path, sha256=self.sha256(), images=self.count, size=list(self.shape))

    def sha256(self):
        """Of names and contents: that of the lines which `sha256sum` prints for the files in the order of the bytes of
        their names."""
        lines = hashlib.sha256()
        names = sorted(map(os.fsencode, self._names))
        for name in tqdm.tqdm(names, unit="file", desc="sha256", delay=BAR_DELAY, leave=False, dynamic_ncols=True):
            try:
                with open(os.path.join(os.fsencode(self.path), name), "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise ValueError(f"{self._title}: {os.fsdecode(name)} cannot be read: {error.strerror}.") from error
            lines.update(digest.encode() + b"  " + name + b"\n")
        return lines.hexdigest()

    def _read(self, name):
        """uint8 (H, W, C). What an image claims to be is looked at before it is decoded."""
        title = f"{self._title}: {name}"
        try:
            with Image.open(os.path.join(self.path, name), formats=["PNG", "JPEG"]) as image:
                mode, (width, height) = image.mode, _turned_size(image)
                if mode in _MODES and self._wanted(height, width):
                    pixels = np.array(ImageOps.exif_transpose(image).convert(self._mode))
                    return pixels.reshape(height, width, -1)
        except Exception as error:  # Pillow's: SyntaxError, OSError, ValueError, zlib.error, DecompressionBombError
            reason = " ".join(str(getattr(error, "strerror", None) or error).split()).rstrip(".")
            reason = reason or type(error).__name__
            raise ValueError(f"{title} cannot be read as a PNG or JPEG image: {reason}.") from error
        if mode not in _MODES:
            raise ValueError(f"{title} must be grey or RGB of 8 bits, got Pillow's mode {mode}: convert it.")
        if self.shape is None:
            raise ValueError(f"{title} must have 1 to {_LARGEST_IMAGE} pixels a side, got {height}x{width}.")
        size = f"{self.shape[0]}x{self.shape[1]}"
        raise ValueError(f"{title} must have the size of {self._names[0]}, {size} (H x W), got {height}x{width}.")

    def _is_grey(self, name):
        try:
            with Image.open(os.path.join(self.path, name), formats=["PNG", "JPEG"]) as image:
                return image.mode in _GREY
        except Exception:  # noqa: BLE001  it is named when it is read
            return True

    def _wanted(self, height, width):
        if self.shape is None:
            return max(height, width) <= _LARGEST_IMAGE
        return (height, width) == self.shape[:2]


def _turned_size(image):
    """(width, height) as its EXIF says that it is shown."""
    turned = image.format == "JPEG" and image.getexif().get(_ORIENTATION, 1) in _ON_ITS_SIDE
    return image.size[::-1] if turned else image.size


def _natural(name):
    """Sorts digits by their value; names that differ in leading zeros alone by what is left."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))], name
