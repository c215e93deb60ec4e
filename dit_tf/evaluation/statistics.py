"""Mean and covariance of features, batch by batch: what FID needs of a set of images, however large.

The scatter is the sum of (x - mean)(x - mean)^T. Two parts a and b join exactly (Chan, Golub and LeVeque 1979):

    n = n_a + n_b,   d = mean_b - mean_a
    mean = mean_a + d n_b / n,   scatter = scatter_a + scatter_b + d d^T n_a n_b / n

Every part is centred on its own mean before anything is squared, and all of it is in float64. The shorter form, the sum
of x x^T less n mean mean^T, subtracts two large numbers where the mean is far from zero, and loses the digits that they
share; here nothing is subtracted after squaring. The product of a part with itself goes through BLAS.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

_ROWS = 8192  # of a part: 128 MiB in float64 at 2048 features


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
        statistics = cls._of_part(features[:_ROWS])
        for start in range(_ROWS, len(features), _ROWS):
            statistics = statistics.merge(cls._of_part(features[start : start + _ROWS]))
        return statistics

    @classmethod
    def _of_part(cls, features):
        features = features.astype(np.float64)
        mean = features.mean(axis=0)
        if not np.isfinite(mean).all():
            rows = np.flatnonzero(~np.isfinite(features).all(axis=1))
            raise ValueError(f"Features must be finite: NaN or infinity in {len(rows)} of {len(features)} images.")
        features -= mean
        return cls(len(features), mean, features.T @ features)

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
