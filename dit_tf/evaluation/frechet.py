"""The Frechet distance between two Gaussians (Dowson and Landau 1982), the FID of Heusel et al. 2017, equation 6.

    d^2 = |mu1 - mu2|^2 + Tr(S1) + Tr(S2) - 2 Tr((S1^1/2 S2 S1^1/2)^1/2)

All in float64. With symmetric roots R1 = S1^1/2 and R2 = S2^1/2 the last trace is the sum of the singular values of
R1 R2, whose squares are the eigenvalues of R1 S2 R1, that is of S1 S2. No imaginary parts arise, singular covariances
(fewer examples than features) are no special case, and no root is taken of a rounding error at the end.
"""

import numpy as np


def mean_and_covariance(features):
    """(M, D) of M examples -> mean (D,) and unbiased covariance (D, D), float64."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (M, D) with M at least 2, got shape {features.shape}.")
    return features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False))


def frechet_distance(mu1, sigma1, mu2, sigma2):
    """The squared distance d^2 of the equation above, which is what FID reports; mu (D,), sigma (D, D)."""
    mu1, sigma1, mu2, sigma2 = (np.asarray(value, np.float64) for value in (mu1, sigma1, mu2, sigma2))
    shapes = [value.shape for value in (mu1, sigma1, mu2, sigma2)]
    if mu1.ndim != 1 or shapes != [mu1.shape, mu1.shape * 2] * 2:
        raise ValueError(f"means must be (D,) and covariances (D, D) of one D, got shapes {shapes}.")
    trace_of_root = np.linalg.svd(_square_root(sigma1) @ _square_root(sigma2), compute_uv=False).sum()
    difference = mu1 - mu2
    distance = difference @ difference + np.trace(sigma1) + np.trace(sigma2) - 2.0 * trace_of_root
    return max(float(distance), 0.0)  # equal Gaussians may round to just below


def _square_root(sigma):
    """The symmetric root of a positive semidefinite (D, D)."""
    eigenvalues, vectors = np.linalg.eigh((sigma + sigma.T) / 2.0)
    # Rounding puts eigenvalues that are zero slightly to either side of it.
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ vectors.T
