"""The Frechet distance between two Gaussians (Dowson and Landau 1982), the FID of Heusel et al. 2017, equation 6.

    d^2 = |mu1 - mu2|^2 + Tr(S1) + Tr(S2) - 2 Tr((S1^1/2 S2 S1^1/2)^1/2)

All in float64. With any factors S = F F^T, the last trace is the sum of the singular values of M = F1^T F2, whose
squares are the eigenvalues of S1 S2: no imaginary parts arise. Where those are all well above rounding, F is Cholesky's
and the roots are taken of the eigenvalues of M M^T. Else the singular values are taken of M itself, which takes no root
of a rounding error at the end: where the ranks are low (few examples) F is Cholesky's with pivots, as narrow as the rank;
where they are not (features that are always zero) F is V diag(l)^1/2, of the eigenvectors V and eigenvalues l, which is
the slowest.

ADM's evaluator keeps the means in float32, and takes the root of S1 S2 itself: on its recorded results the difference
is 6e-7 of the distance at most.
"""

from typing import NamedTuple

import numpy as np
import scipy.linalg

_EPS = np.finfo(np.float64).eps
_LAPACK = 8.0  # spacings of float64 at the norm, which errors of factors and eigenvalues stay within in practice
_CERTAIN = 1e-8  # of the traces: an error that nobody sees
_NEGATIVE = 1e-3  # of the largest eigenvalue: what a covariance that was stored in float32 is far from


class Frechet(NamedTuple):
    """The squared distance, which is what FID reports, and how far rounding may have moved it.

    The error is that of the arithmetic alone, to first order: what it would be if every eigenvalue were off by the
    rounding at the largest one (or by the most negative one, where that is more). Those near zero have the largest part
    in it. That few examples make the distance itself too large is not in it.
    """

    distance: float
    error: float


def frechet(reference, samples, allow_few_samples=False):
    """Two `Gaussian`s -> `Frechet`.

    ValueError where the numbers of features differ, and, unless allow_few_samples, where one side has fewer examples
    than features: its covariance is singular, and the distance says more of the count than of the images.
    """
    sizes = len(reference.mean), len(samples.mean)
    if sizes[0] != sizes[1]:
        raise ValueError(f"The reference has {sizes[0]} features and the samples have {sizes[1]}: use one network.")
    for name, side in (("The reference", reference), ("The samples", samples)):
        if side.count is not None:
            check_count(name, side.count, sizes[0], allow_few_samples)
    return frechet_with_error(reference.mean, reference.covariance, samples.mean, samples.covariance)


def check_count(name, count, features, allow_few_samples):
    """ValueError where there are fewer examples than features, unless that is allowed, or too few for a covariance."""
    if not allow_few_samples and count < features:
        raise ValueError(
            f"{name} must be at least as many images as there are features, got {count:,} of {features:,}: take more, "
            "or add --allow_few_samples for a distance that cannot be compared with others."
        )
    if count < 2:
        raise ValueError(f"{name} must be at least 2 images, got {count}.")


def frechet_with_error(mu1, sigma1, mu2, sigma2):
    """As `frechet`, of mu (D,) and sigma (D, D). ValueError for other shapes, NaN and what is no covariance."""
    mu1, sigma1, mu2, sigma2 = (np.asarray(value, np.float64) for value in (mu1, sigma1, mu2, sigma2))
    shapes = [value.shape for value in (mu1, sigma1, mu2, sigma2)]
    if mu1.ndim != 1 or shapes != [mu1.shape, mu1.shape * 2] * 2:
        raise ValueError(f"means must be (D,) and covariances (D, D) of one D, got shapes {shapes}.")
    if not all(np.isfinite(value).all() for value in (mu1, sigma1, mu2, sigma2)):
        raise ValueError("means and covariances must be finite, got NaN or infinity.")
    difference = mu1 - mu2
    positive = difference @ difference + np.trace(sigma1) + np.trace(sigma2)
    ways = _trace_by_cholesky, _trace_of_low_ranks, _trace_by_eigenvalues
    trace, error = next(filter(None, (way(sigma1, sigma2) for way in ways)))
    error = 2.0 * error + len(mu1) * _EPS * positive
    return Frechet(max(float(positive - 2.0 * trace), 0.0), float(error))  # equal ones may round to below 0


def _trace_by_cholesky(sigma1, sigma2):
    """The trace of the root and its error, or None where that is not certain to be small."""
    try:
        lower1, lower2 = (scipy.linalg.cholesky(sigma, lower=True, check_finite=False) for sigma in (sigma1, sigma2))
    except np.linalg.LinAlgError:  # not positive definite
        return None
    upper = scipy.linalg.blas.dsyrk(1.0, lower1.T @ lower2)  # half of M M^T, which is all that is looked at
    eigenvalues = scipy.linalg.eigvalsh(upper, lower=False, overwrite_a=True, check_finite=False)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    # An error E in S1 moves the eigenvalues of S2^1/2 S1 S2^1/2, and so these, by |E| |S2| at most (Weyl 1912).
    unknown = _LAPACK * _EPS * np.linalg.norm(sigma1) * np.linalg.norm(sigma2)
    roots = np.sqrt(eigenvalues)
    error = np.sum(np.sqrt(eigenvalues + unknown) - roots)
    if not error <= _CERTAIN * (np.trace(sigma1) + np.trace(sigma2)):
        return None
    return roots.sum(), error


def _trace_of_low_ranks(sigma1, sigma2):
    """The trace of the root and its error, or None where half of the eigenvalues or more are not zero."""
    (factor1, rest1), (factor2, rest2) = _narrow_factor(sigma1), _narrow_factor(sigma2)
    if factor1 is None or factor2 is None:
        return None
    trace = np.linalg.svd(factor1.T @ factor2, compute_uv=False).sum()
    # With what is left of each as further columns, E: |E1^T F2|_* <= |E1|_F |F2|_F, of which the squares are traces.
    return trace, np.sqrt(rest1 * np.trace(sigma2)) + np.sqrt(rest2 * np.trace(sigma1))


def _narrow_factor(sigma):
    """F (D, r) with F F^T = sigma to rounding, and the trace of what is left; F is None where r is not below D / 2."""
    size = len(sigma)
    lower, pivots, rank, info = scipy.linalg.lapack.dpstrf(sigma, lower=1)
    if info < 0 or not 0 < rank < size / 2:
        return None, 0.0
    factor = np.zeros((size, rank))
    factor[pivots - 1] = np.tril(lower)[:, :rank]
    rest = sigma - scipy.linalg.blas.dgemm(1.0, factor, factor, trans_b=True)
    if np.linalg.norm(rest) > size * _EPS * np.linalg.norm(sigma):  # it is not positive semidefinite
        return None, 0.0
    return factor, np.abs(np.diag(rest)).sum() + size * _EPS * np.diag(sigma).max()


def _trace_by_eigenvalues(sigma1, sigma2):
    """The trace of the root and its error, for any covariances."""
    (roots1, doubt1, vectors1), (roots2, doubt2, vectors2) = _spectrum(sigma1), _spectrum(sigma2)
    overlap = vectors1.T @ vectors2
    # Rows and columns of zero eigenvalues add no singular value.
    kept = (roots1[:, None] * overlap * roots2)[np.ix_(roots1 > 0.0, roots2 > 0.0)]
    trace = np.linalg.svd(kept, compute_uv=False).sum() if kept.size else 0.0
    # The sum of singular values changes by no more than the lengths of the rows and columns that are added.
    rows = doubt1 @ np.linalg.norm(overlap * (roots2 + doubt2), axis=1)
    columns = doubt2 @ np.linalg.norm(roots1[:, None] * overlap, axis=0)
    return trace, rows + columns


def _spectrum(sigma):
    """The roots (D,) of the eigenvalues of a positive semidefinite (D, D), by how much each may be too small, and the
    eigenvectors in columns."""
    eigenvalues, vectors = np.linalg.eigh((sigma + sigma.T) / 2.0)
    smallest, largest = eigenvalues[0], max(eigenvalues[-1], 0.0)
    if smallest < -_NEGATIVE * largest:
        raise ValueError(f"sigma is no covariance: its eigenvalues run from {smallest:.3g} to {largest:.3g}.")
    # Rounding puts eigenvalues that are zero to either side of it; none of either is known better than this.
    unknown = max(len(sigma) * _EPS * largest, -smallest)
    roots = np.sqrt(np.where(eigenvalues > unknown, eigenvalues, 0.0))
    return roots, np.sqrt(np.maximum(eigenvalues, 0.0) + unknown) - roots, vectors
