"""Mean and covariance of features, batch by batch: what FID needs of a set of images, however large.

The scatter is the sum of (x - mean)(x - mean)^T. Two parts a and b join exactly (Chan, Golub and LeVeque 1979):

    n = n_a + n_b,   d = mean_b - mean_a
    mean = mean_a + d n_b / n,   scatter = scatter_a + scatter_b + d d^T n_a n_b / n

All of it is in float64. Within one array the squares are of differences c from the mean of its first rows, which BLAS
adds up block by block in the upper triangle; at the end their own mean is taken out: scatter = sum c c^T - n d d^T with
d = sum c / n. The first rows are among the others, so n d d^T is no more than n / rows times the scatter, and the
subtraction may cost a digit. The shorter form, the sum of x x^T less n mean mean^T, loses all the digits that the two
terms share, where the mean is far from zero.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.linalg.blas

_TILE = 256  # on a side of what is mirrored at once
_ROWS = 1024  # of a block: 16 MiB in float64 at 2048 features


class Gaussian(NamedTuple):
    """What the Frechet distance compares."""

    mean: np.ndarray  # (D,)
    covariance: np.ndarray  # (D, D)
    count: int | None = None  # of the examples behind it; None where a reference file does not say


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of `count` examples with D features."""

    count: int
    mean: np.ndarray  # (D,) float64
    scatter: np.ndarray  # (D, D) float64

    @classmethod
    def of(cls, features):
        """(M, D) of any numeric type, M at least 1. ValueError for another shape, no examples, NaN and infinity."""
        features = np.asarray(features)
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"Features must be (images, numbers), with at least one of each, got {features.shape}.")
        width = features.shape[1]
        centre = features[:_ROWS].mean(axis=0, dtype=np.float64)
        total, squares = np.zeros(width), np.zeros((width, width), order="F")
        block = np.empty((min(_ROWS, len(features)), width))
        for start in range(0, len(features), _ROWS):
            part = features[start : start + _ROWS]
            with np.errstate(invalid="ignore"):  # infinity less infinity; see below
                rows = np.subtract(part, centre, out=block[: len(part)])
            total += rows.sum(axis=0)
            squares = scipy.linalg.blas.dsyrk(1.0, rows.T, beta=1.0, c=squares, overwrite_c=True)
        if not np.isfinite(total).all():
            broken = sum(
                np.count_nonzero(~np.isfinite(features[start : start + _ROWS]).all(axis=1))
                for start in range(0, len(features), _ROWS)
            )
            raise ValueError(f"Features must be finite: NaN or infinity in {broken} of {len(features)} images.")
        difference = total / len(features)
        squares = scipy.linalg.blas.dsyr(-float(len(features)), difference, a=squares, overwrite_a=True)
        return cls(len(features), centre + difference, _mirrored(squares))

    def merge(self, other):
        """Statistics of both sets together; either may come first. ValueError where D differs."""
        if self.mean.shape != other.mean.shape:
            sizes = f"{len(self.mean)} and {len(other.mean)}"
            raise ValueError(f"Statistics of {sizes} features cannot be merged: take both from one network.")
        count = self.count + other.count
        difference = other.mean - self.mean
        scatter = np.outer(difference, difference * (self.count * other.count / count))
        scatter += self.scatter
        scatter += other.scatter
        return Statistics(count, self.mean + difference * (other.count / count), scatter)

    def covariance(self):
        """The unbiased one, as np.cov(rowvar=False) gives it, (D, D); ValueError for a single example."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 examples, got {self.count}.")
        return self.scatter / (self.count - 1)

    def gaussian(self):
        return Gaussian(self.mean, self.covariance(), self.count)


def _mirrored(upper):
    """The symmetric matrix of an upper triangle, in place."""
    for start in range(0, len(upper), _TILE):
        rows = slice(start, start + _TILE)
        corner = upper[rows, rows]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
        upper[start + _TILE :, rows] = upper[rows, start + _TILE :].T
    return upper
