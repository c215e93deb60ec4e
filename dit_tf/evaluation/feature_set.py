"""The features of a set of images, on disk until they are scored, so that no image is looked at twice after a kill.

An image is 20 KB of features (Inception: pool_3, spatial, probabilities), whatever its size: 1 GB for 50,000.
"""

import hashlib

import numpy as np
import tqdm

from dit_tf.runtime.npz_writer import PartialArray
from dit_tf.runtime.output_files import writing

_ROWS = 1024  # that are hashed at a time


class FeatureSet:
    """Features (N, ...) of N images, memory-mapped: pool (N, D), and where there are such spatial and probabilities."""

    def __init__(self, rows, widths, partial):
        self.count, self._rows, self._partial = len(rows), rows, partial
        edges = np.cumsum([0, *widths])
        parts = [rows[:, start:stop] for start, stop in zip(edges, edges[1:])]
        self.pool, self.spatial, self.probabilities = (*parts, None, None)[:3]

    def sha256(self):
        """Of all features: the same images by the same network on the same kind of device have the same."""
        digest = hashlib.sha256()
        for start in range(0, self.count, _ROWS):
            digest.update(np.ascontiguousarray(self._rows[start : start + _ROWS]))
        return digest.hexdigest()

    def remove(self):
        """From the disk."""
        self._partial.remove()


def extract_features(extractor, images, path, description):
    """The `FeatureSet` of an image set (count, batches, provenance), kept at PATH.partial.

    Where another run has begun the same it goes on behind its images. ValueError where the disk has no room.
    """
    key = dict(images.provenance(), **extractor.facts)
    with writing(path):
        rows = PartialArray(path, key, (images.count, sum(extractor.widths)), np.float32)
    bar = tqdm.tqdm(total=images.count, initial=rows.count, unit="image", desc=description, dynamic_ncols=True)
    with bar:
        if rows.count < images.count:
            for batch in images.batches(extractor.batch_size, first=rows.count):
                features = extractor(batch)
                with writing(path):
                    rows.append(features)
                bar.update(len(batch))
    return FeatureSet(rows.finished(), extractor.widths, rows)
