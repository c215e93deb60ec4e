"""Latents that other programs extracted: what is found in a directory, and its images one by one.

    fast-DiT       imagenet256_features/7.npy   (1, 4, h, h): a draw from the posterior times 0.18215, perhaps mirrored
                   imagenet256_labels/7.npy     (1,)
    LightningDiT   latents_rank00_shard003.safetensors: latents and latents_flip (N, 4, h, h), of the images and their
                   mirror images, not scaled; labels (N,)
"""

import hashlib
import os
import re
from typing import NamedTuple

import numpy as np
import tqdm

from dit_tf.data.class_names import UNLABELLED, imagenet, numbered
from dit_tf.data.foreign_arrays import as_labels, as_latents, check_latents, naming, open_safetensors, read_npy

_AT_ONCE = 64  # images of a safetensors file that are in memory
_SHARD = re.compile(r"latents_rank(\d{2,})_shard(\d{3,})\.safetensors")


class Row(NamedTuple):
    """Of one image. latents: float32 (4, h, h), not scaled, of the image and, where there are any, its mirror image."""

    key: str
    label: int
    latents: tuple[np.ndarray, ...]


class FastDit:
    """fast-DiT's folders: a file of latents and one of the label for each image, numbered from 0."""

    title, mirrored = "fast-DiT", False

    def __init__(self, features, labels, factor):
        """The two folders, and what the latents there were multiplied by."""
        self._features, self._labels, self._factor, self.side = features, labels, factor, None
        self.count, labelled = _count(features), _count(labels)
        if self.count != labelled:
            raise ValueError(
                f"--from_latents: each image must have its latents and its label, {features} has {self.count} files "
                f"and {labels} {labelled}."
            )
        (first,) = self.rows(0, 1)
        self.side = first.latents[0].shape[-1]

    def rows(self, first, count):
        """Yields the `Row`s of images first .. first + count - 1. ValueError names the file that cannot be used."""
        for name in (f"{i}.npy" for i in range(first, first + count)):
            path = os.path.join(self._features, name)
            with naming(path):
                array = read_npy(path, "f", lambda shape: check_latents(shape, self.side, count=1))
                (latents,) = as_latents(array, self._factor)
            path = os.path.join(self._labels, name)
            with naming(path):
                (label,) = as_labels(read_npy(path, "iu", _check_one))
            yield Row(name, label, (latents,))


class LightningDit:
    """LightningDiT's files, in the order of their ranks and shards."""

    title = "LightningDiT"

    def __init__(self, directory, names):
        self._files, self.count, self.side, self.mirrored = [], 0, None, None  # files: (path, first image, how many)
        for path in (os.path.join(directory, name) for name in _in_order(directory, names)):
            with naming(path):
                slices = open_safetensors(path, self.side)
                if self.mirrored not in (None, "latents_flip" in slices):
                    raise ValueError("of it and the files before, one has latents_flip and another has not")
                count, _, _, self.side = slices["latents"].get_shape()
            self.mirrored = "latents_flip" in slices
            self._files.append((path, self.count, count))
            self.count += count

    def rows(self, first, count):
        """As of `FastDit`."""
        for path, before, images in self._files:
            begin, end = max(first - before, 0), min(first + count - before, images)
            for start in range(begin, end, _AT_ONCE):
                labels, latents = self._read(path, start, min(start + _AT_ONCE, end))
                for k, (label, *arrays) in enumerate(zip(labels, *latents, strict=True), start):
                    yield Row(f"{os.path.basename(path)}/{k}", label, tuple(arrays))

    def _read(self, path, start, stop):
        with naming(path):
            slices = open_safetensors(path, self.side)
            names = ("latents", "latents_flip")[: 1 + self.mirrored]
            labels = as_labels(slices["labels"][start:stop])
            if len(labels) < stop - start:
                raise ValueError("it has become shorter while it was read")
            return labels, [as_latents(slices[name][start:stop], 1.0) for name in names]


def open_foreign(directory, factor):
    """The latents in a directory: a `FastDit` or a `LightningDit`. factor: that fast-DiT's were multiplied by.

    ValueError where there is neither, or both, and where files are missing or do not fit together.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise ValueError(f"--from_latents={directory} must be a directory that is there: {error.strerror}.") from error
    features = [name for name in names if re.fullmatch("(.*_)?features", name)]
    shards = [name for name in names if name.endswith(".safetensors")]
    if len(features) + bool(shards) != 1:
        found = ", ".join([*features, *shards[:1]]) or "neither"
        raise ValueError(
            f"--from_latents={directory} must hold one set of latents, folders *_features and *_labels of numbered "
            f".npy files (fast-DiT) or files {_name_of(0, 0)}, ... (LightningDiT), got {found}."
        )
    if shards:
        return LightningDit(directory, shards)
    folder = os.path.join(directory, features[0])
    return FastDit(folder, folder.removesuffix("features") + "labels", factor)


def survey(source):
    """Read all latents once -> (ClassTable, SHA-256 of keys, labels and latents). ValueError as of `rows`."""
    digest, most = hashlib.sha256(), 0
    bar = dict(total=source.count, unit="image", desc="checking", dynamic_ncols=True)
    with tqdm.tqdm(source.rows(0, source.count), **bar) as rows:
        for key, label, latents in rows:
            digest.update(f"{key} {label}\n".encode())
            for array in latents:
                digest.update(array.astype("<f4").tobytes())
            most = max(most, label)
    classes = {1: UNLABELLED, 1000: imagenet()}.get(most + 1) or numbered(most + 1)
    return classes, digest.hexdigest()


def _count(folder):
    """How many files 0.npy, 1.npy, ... there are. ValueError where one is missing or called otherwise."""
    with naming(folder):
        names = {name for name in os.listdir(folder) if name.endswith(".npy") and not name.startswith(".")}
        missing = [name for name in (f"{i}.npy" for i in range(len(names))) if name not in names]
        if missing:
            raise ValueError(f"it has {len(names)} .npy files, but no {missing[0]}: they count from 0, without gaps")
        if not names:
            raise ValueError("it holds no file 0.npy")
        return len(names)


def _check_one(shape):
    if shape != (1,):
        raise ValueError(f"its label has the shape {shape}, (1,) is needed")


def _in_order(directory, names):
    """Names of shards by (rank, shard). ValueError where one is missing or called otherwise."""
    with naming(directory):
        shards = {}
        for name in names:
            match = _SHARD.fullmatch(name)
            if not match or name != _name_of(*map(int, match.groups())):
                raise ValueError(f"{name} is not called as {_name_of(0, 0)}, so that its place is not known")
            rank, shard = map(int, match.groups())
            shards.setdefault(rank, set()).add(shard)
        for rank in range(len(shards)):
            for shard in range(len(shards.get(rank, {0}))):
                if shard not in shards.get(rank, ()):
                    raise ValueError(f"{_name_of(rank, shard)} is missing: ranks and shards count from 0, without gaps")
        return [_name_of(rank, shard) for rank in range(len(shards)) for shard in range(len(shards[rank]))]


def _name_of(rank, shard):
    return f"latents_rank{rank:02d}_shard{shard:03d}.safetensors"
