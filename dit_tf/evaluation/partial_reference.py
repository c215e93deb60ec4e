"""A reference in the making, on disk: what has been seen of a data set's images so far.

    PATH.partial, PATH.partial.of    the images that will be stored (see `PartialArray`)
    PATH.statistics                  an .npz of the statistics of all, a minute old at most
    PATH                             the finished reference (see `references`)
"""

import json
import os
import time

import numpy as np

from dit_tf.evaluation.npz_file import NpzFile
from dit_tf.evaluation.references import StoredStatistics, statistics_arrays
from dit_tf.evaluation.statistics import Statistics
from dit_tf.runtime.npz_writer import PartialArray, write_arrays

_SECONDS = 30.0  # between two writings of the statistics: 64 MiB for Inception's features


class PartialReference:
    """count: how many images have been seen, by this run or by one before it with the same path and key."""

    def __init__(self, path, key, selected, shape, widths):
        """selected: places, ascending, of the images that are stored. shape: (H, W, C). widths: of the features in a
        row; of the first two kinds there will be statistics."""
        self._path, self._selected, self._edges = f"{path}.statistics", selected, np.cumsum([0, *widths[:2]])
        self._key = dict(key, stored=len(selected))
        self._images = PartialArray(path, self._key, (len(selected), *shape))
        self._parts = self._written()
        if np.count_nonzero(selected < self.count) > self._images.count:  # images that were stored are gone
            self._parts = []
        self._saved_at = time.monotonic()

    @property
    def count(self):
        return self._parts[0].count if self._parts else 0

    def append(self, images, labels, features):
        """The next images (N, H, W, C), their labels (N,) and features (N, sum of widths)."""
        places = self._selected[self._images.count :]  # a run before may have stored images behind its statistics
        chosen = places[(places >= self.count) & (places < self.count + len(images))] - self.count
        if len(chosen):
            self._images.append(images[chosen], note=np.asarray(labels)[chosen].tolist())
        new = [Statistics.of(features[:, start:stop]) for start, stop in zip(self._edges, self._edges[1:])]
        self._parts = [a.merge(b) for a, b in zip(self._parts, new)] if self._parts else new
        if time.monotonic() - self._saved_at > _SECONDS:
            self.save()

    def save(self):
        """The statistics so far to the disk."""
        arrays = {"key": np.frombuffer(json.dumps(self._key).encode(), np.uint8)}
        for i, part in enumerate(self._parts):
            arrays |= {f"count_{i}": np.array([part.count]), f"mean_{i}": part.mean, f"scatter_{i}": part.scatter}
        write_arrays(self._path, arrays)
        self._saved_at = time.monotonic()

    def finish(self):
        """The reference gets its name; ValueError unless every image that is to be stored has come."""
        labels = np.array([label for note in self._images.notes for label in note], np.int64)
        statistics = StoredStatistics(*(part.gaussian() for part in self._parts))
        self._images.finish(labels, **statistics_arrays(statistics))
        if os.path.exists(self._path):
            os.remove(self._path)

    def _written(self):
        """The statistics that a run with the same key has left, or none."""
        if not os.path.exists(self._path):
            return []
        try:
            file = NpzFile("--output", self._path)
            (length,) = file.header("key").shape
            if file.read("key", (length,), "u").tobytes() != json.dumps(self._key).encode():
                return []
            sizes = np.diff(self._edges)
            return [
                Statistics(
                    int(file.read(f"count_{i}", (1,), "i")[0]),
                    file.read(f"mean_{i}", (size,), "f"), file.read(f"scatter_{i}", (size, size), "f"),
                )
                for i, size in enumerate(sizes)
            ]  # fmt: skip
        except ValueError:
            return []
