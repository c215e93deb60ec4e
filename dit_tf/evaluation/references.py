"""What samples are compared with: real images and, with ADM's published batches, the statistics of many more of them.

    arr_0                uint8 (N, H, W, C), real images
    mu, sigma            mean (2048,) float32 and covariance (2048, 2048) float64 of the pool_3 features
    mu_s, sigma_s        the same of the spatial features, 2023 of them

Where the statistics are there FID and sFID use them, as ADM's evaluator does, and arr_0 serves precision and recall
alone: it is 10,000 images there, the statistics are of the whole training set. Other programs write mu and sigma alone,
often of another network: they give FID and nothing else.
"""

from typing import NamedTuple

import numpy as np

from dit_tf.evaluation.npz_file import NpzFile, sha256_of
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.evaluation.statistics import Gaussian

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
        self.has_spatial = bool(set(_NAMES[2:]) & set(names))
        if "arr_0" not in names and not self.has_statistics:
            held = ", ".join(map(ascii, names[:8]))[:200] or "no arrays"
            raise ValueError(f"{self._file.title} must hold images (arr_0) or statistics (mu, sigma, ...), has {held}.")
        self.images = NpzImages(flag, path, channels) if "arr_0" in names else None

    def statistics(self, features=2048, spatial_features=2023):
        """`StoredStatistics` in float64, or None where there are none and arr_0 must give them. Where the file has mu
        and sigma alone there are no spatial ones.

        features, spatial_features: how many there must be; spatial_features=None: they are not asked for.
        """
        if not self.has_statistics:
            return None
        needed = _NAMES if spatial_features and self.has_spatial else _NAMES[:2]
        missing = [name for name in needed if name not in self._file.names]
        if missing:
            raise ValueError(
                f"{self._file.title} must hold {', '.join(needed)} or none of them, it lacks {', '.join(missing)}: "
                "give a file with all of them, or with images (arr_0) alone."
            )
        sizes = (features, features, spatial_features, spatial_features)
        found = [self._checked(name, size) for name, size in zip(needed, sizes)]
        return StoredStatistics(*(Gaussian(*found[i : i + 2]) for i in range(0, len(found), 2)))

    def remark(self):
        """A line about what these statistics cannot give, for people; "" where there is nothing to say."""
        if not self.has_statistics or self.has_spatial:
            return ""
        others = "sFID" if self.images is not None else "sFID, precision and recall"
        return (
            f"{self._file.title} has mu and sigma alone: FID is computed, {others} cannot be. Statistics by another "
            "network than ADM's Inception, such as pytorch-fid's, give an FID that compares with no published one."
        )

    def provenance(self):
        """JSON: which file this is, and what of it is used."""
        images = {} if self.images is None else {"images": self.images.count, "size": list(self.images.shape)}
        stored = "stored" if self.has_statistics else "of the images"
        return {"file": self.path, "sha256": sha256_of(self.path), "statistics": stored, **images}

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


def statistics_arrays(statistics):
    """`StoredStatistics` -> {name: array} as ADM's evaluator reads them, and as its published files have them."""
    gaussians = [gaussian for gaussian in statistics if gaussian is not None]
    arrays = {}
    for gaussian, mu, sigma in zip(gaussians, _NAMES[::2], _NAMES[1::2]):
        arrays |= {mu: np.asarray(gaussian.mean, np.float32), sigma: np.asarray(gaussian.covariance, np.float64)}
    return arrays
