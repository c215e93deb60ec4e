"""What samples are compared with: real images and, with ADM's published batches, the statistics of many more of them.

    arr_0                uint8 (N, H, W, C), real images
    mu, sigma            mean (2048,) float32 and covariance (2048, 2048) float64 of the pool_3 features
    mu_s, sigma_s        the same of the spatial features, 2023 of them

Where the statistics are there FID and sFID use them, as ADM's evaluator does, and arr_0 serves precision and recall
alone: it is 10,000 images there, the statistics are of the whole training set.
"""

import itertools
from typing import NamedTuple

import numpy as np

from dit_tf.evaluation.npz_file import NpzFile, NpzImages, sha256_of
from dit_tf.evaluation.statistics import Gaussian
from dit_tf.runtime.npz_writer import Rows, write_arrays

# Sums in another order differ in the last digits, and a covariance that was stored as float32 by 6e-8 of each entry.
_ASYMMETRY = 1e-6  # of the largest entry
_NAMES = ("mu", "sigma", "mu_s", "sigma_s")


class StoredStatistics(NamedTuple):
    """`Gaussian`s of two kinds of features; spatial is None where there are none, as for pixels."""

    pool: Gaussian
    spatial: Gaussian | None = None


class Reference:
    """The .npz that was given as `flag`. images: `NpzImages`, or None where it holds statistics alone.

    ValueError, one sentence that begins with the flag and the file, where it is neither, and as in `npz_file`.
    """

    def __init__(self, flag, path, channels=(3,)):
        self._file = NpzFile(flag, path)
        self.path, names = path, self._file.names
        self.has_statistics = bool(set(_NAMES) & set(names))
        if "arr_0" not in names and not self.has_statistics:
            held = ", ".join(map(ascii, names[:8]))[:200] or "no arrays"
            raise ValueError(f"{self._file.title} must hold images (arr_0) or statistics (mu, sigma, ...), has {held}.")
        self.images = NpzImages(flag, path, channels) if "arr_0" in names else None

    def statistics(self, features=2048, spatial_features=2023):
        """`StoredStatistics` in float64, or None where there are none and arr_0 must give them.

        features, spatial_features: how many there must be; spatial_features=None: they are not asked for.
        """
        if not self.has_statistics:
            return None
        needed = _NAMES if spatial_features else _NAMES[:2]
        missing = [name for name in needed if name not in self._file.names]
        if missing:
            raise ValueError(
                f"{self._file.title} must hold {', '.join(needed)} or none of them, it lacks {', '.join(missing)}: "
                "give a file with all of them, or with images (arr_0) alone."
            )
        sizes = (features, features, spatial_features, spatial_features)
        found = [self._checked(name, size) for name, size in zip(needed, sizes)]
        return StoredStatistics(*(Gaussian(*found[i : i + 2]) for i in range(0, len(found), 2)))

    def sha256(self):
        return sha256_of(self.path)

    def _checked(self, name, size):
        title = f"{self._file.title}: its {name}"
        value = self._file.read(name, (size,) if name.startswith("mu") else (size, size), "f").astype(np.float64)
        if not np.isfinite(value).all():
            raise ValueError(f"{title} must be finite, {(~np.isfinite(value)).sum():,} of its entries are not.")
        if value.ndim == 2:
            difference, largest = np.abs(value - value.T).max(), np.abs(value).max()
            if difference > _ASYMMETRY * largest:
                raise ValueError(
                    f"{title} must be symmetric to {_ASYMMETRY} of its largest entry, {largest:.3g}; entries that "
                    f"should be equal differ by {difference:.3g}."
                )
        return value


def write_reference(path, count, batches, statistics=None, labels=None):
    """A reference in ADM's format, which its evaluator reads: `count` images in uint8 batches (B, H, W, C).

    statistics: `StoredStatistics`; None leaves them to whoever reads the file. labels: (count,), written as arr_1. One
    batch is in memory. ValueError where there are not `count` images, all of one size.
    """
    batches = iter(batches)
    start = list(itertools.islice(batches, 1))
    if not start:
        raise ValueError(f"{path}: a reference needs at least one image, got none.")
    shape = (count, *np.shape(start[0])[1:])
    arrays = {"arr_0": Rows(shape, np.uint8, itertools.chain(start, batches))}
    if labels is not None:
        if len(labels) != count:
            raise ValueError(f"{path}: {count} images need as many labels, got {len(labels)}.")
        arrays["arr_1"] = np.asarray(labels, np.int64)
    gaussians = [gaussian for gaussian in statistics or () if gaussian is not None]
    for gaussian, mu, sigma in zip(gaussians, _NAMES[::2], _NAMES[1::2]):
        arrays |= {mu: np.asarray(gaussian.mean, np.float32), sigma: np.asarray(gaussian.covariance, np.float64)}
    write_arrays(path, arrays)
