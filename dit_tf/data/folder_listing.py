"""Which images lie under a folder, and which class and split each is of.

Reading 1 is that of version 0.1.0. Reading 2 takes more kinds of files, passes over what machines leave between
photographs, and knows train/ and val/ for splits.
"""

import collections
import dataclasses
import os
import re

import numpy as np
import tqdm

from dit_tf.runtime.progress import BAR_DELAY

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")  # what every supported TensorFlow decodes; in any case
PIL_ENDINGS = (".webp", ".tif", ".tiff", ".avif")  # what PIL alone does
SPLITS = ("train", "val", "valid", "validation", "test")
_LEFTOVERS = ("@eaDir", "__MACOSX")  # of a NAS and of zip files


@dataclasses.dataclass
class Listing:
    """keys: relative paths as bytes; labels int64 (M,); sizes int64 (M,) of the files, in bytes; classes: names of the
    class folders, none where it is flat; skipped: {why: how many files}."""

    keys: list
    labels: np.ndarray
    sizes: np.ndarray
    classes: tuple
    skipped: collections.Counter


def listings(directory, reading):
    """{split: `Listing`} of a folder; ValueError: the end of a sentence about --dataset."""
    look = _Look(directory, reading)
    images, folders = look.entries("")
    if reading > 1 and not images and len(folders) > 1 and set(folders) <= set(SPLITS):
        inside = {name: sorted(look.entries(name)[1]) for name in folders}
        if all(inside.values()):
            return _splits(look, inside)
    return {"train": look.listing("")}


def _splits(look, inside):
    (first, names), *others = sorted(inside.items())
    for split, found in others:
        if found != names:
            odd = sorted(set(found) ^ set(names))[0]
            raise ValueError(
                f"its folders {first} and {split} are splits, and must hold the same classes: {odd} is in one alone; "
                "give every class a folder in each, or name one of them in --dataset."
            )
    return {split: look.listing(split) for split in inside}


class _Look:
    def __init__(self, directory, reading):
        self.directory, self.reading = directory, reading
        self.endings = ENDINGS if reading == 1 else ENDINGS + PIL_ENDINGS
        self.skipped = collections.Counter()

    def listing(self, base):
        """All images of a folder and of the class folders in it; base: its path below the directory, "" for itself."""
        self.skipped = collections.Counter()
        images, folders = self.entries(base)
        if images and folders:
            raise ValueError(
                f"it holds both images ({images[0][0]}) and folders ({folders[0]}); put every image into a class "
                "folder, or the folders elsewhere."
            )
        if not images and not folders:
            raise ValueError(f"it holds no images; a file counts when it ends in {', '.join(self.endings)}.")
        if images:
            return self._of([sorted(images)], ())
        folders.sort(key=_natural)
        found = []
        for folder in tqdm.tqdm(folders, unit="folder", desc="listing images", delay=BAR_DELAY, leave=False):
            below = sorted(self._below(os.path.join(base, folder), {os.path.realpath(self.directory)}))
            if not below:
                raise ValueError(f"the class folder {folder} holds no images; remove it, or put its images there.")
            found.append(below)
        return self._of(found, tuple(folders))

    def _of(self, found, classes):
        """found: [(path, size), ...] of each class."""
        labels = np.repeat(np.arange(len(found)), [len(images) for images in found])
        paths, sizes = zip(*(image for images in found for image in images))
        return Listing(list(map(os.fsencode, paths)), labels, np.array(sizes, np.int64), classes, self.skipped)

    def _below(self, folder, above):
        """The images anywhere below a folder; above: real paths of what holds it."""
        here = os.path.realpath(os.path.join(self.directory, folder))
        if here in above:
            raise ValueError(f"{folder} is a link to a folder that holds it; remove it.")
        images, folders = self.entries(folder)
        yield from images
        for name in folders:
            yield from self._below(f"{folder}/{name}", above | {here})

    def entries(self, folder):
        """([(path below the directory, bytes)] of the images, names of the folders) that lie directly in a folder, in
        no order."""
        images, folders = [], []
        with os.scandir(os.path.join(self.directory, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    self.skipped["hidden"] += 1
                elif self.reading > 1 and entry.name in _LEFTOVERS:
                    self.skipped[entry.name] += 1
                elif entry.is_dir():
                    folders.append(entry.name)
                elif not entry.name.lower().endswith(self.endings):
                    self.skipped["no image"] += 1
                elif entry.is_file():
                    size = entry.stat().st_size
                    if size or self.reading == 1:
                        images.append((f"{folder}/{entry.name}" if folder else entry.name, size))
                    else:
                        self.skipped["empty"] += 1
                elif entry.is_symlink():
                    raise ValueError(f"{entry.path} is a link to a file that is not there; remove it.")
        return images, folders


def _natural(name):
    """Sorts digits by their value; names that differ in leading zeros alone by what is left."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))], name
