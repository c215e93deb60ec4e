"""Claims of the Frechet distance, in order: closed forms, invariances, SciPy's matrix root, ADM's evaluator."""

import pathlib

import numpy as np
import pytest
import scipy.linalg

from dit_tf.evaluation.frechet import frechet_distance, mean_and_covariance

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "adm"


def gaussian(seed, dimension=6):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dimension, dimension))
    return rng.normal(size=dimension), factor @ factor.T


def rotation(seed, dimension=6):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


def test_one_dimension():
    # (mu1 - mu2)^2 + (s1 - s2)^2 for standard deviations s.
    assert frechet_distance([1.0], [[4.0]], [4.0], [[25.0]]) == pytest.approx(9.0 + 9.0, rel=1e-14)


def test_diagonal_covariances_add_up_over_dimensions():
    rng = np.random.default_rng(0)
    mu1, mu2, s1, s2 = rng.uniform(size=(4, 6))
    expected = np.sum((mu1 - mu2) ** 2) + np.sum((s1 - s2) ** 2)
    # float64 rounding through one eigendecomposition
    assert frechet_distance(mu1, np.diag(s1**2), mu2, np.diag(s2**2)) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances_compare_their_roots():
    # |mu1 - mu2|^2 + |S1^1/2 - S2^1/2|_F^2 where S1 and S2 share eigenvectors.
    axes, (s1, s2) = rotation(1), np.random.default_rng(2).uniform(size=(2, 6))
    distance = frechet_distance(np.zeros(6), axes * s1**2 @ axes.T, np.ones(6), axes * s2**2 @ axes.T)
    assert distance == pytest.approx(6.0 + np.sum((s1 - s2) ** 2), rel=1e-12)


def test_singular_covariances_have_their_closed_form():
    # All mass on one line each, at a right angle: Tr(S1) + Tr(S2) with no common part.
    first, second = np.diag([4.0, 0.0, 0.0]), np.diag([0.0, 9.0, 0.0])
    assert frechet_distance(np.zeros(3), first, np.zeros(3), second) == pytest.approx(13.0, rel=1e-14)


def test_a_gaussian_is_at_distance_zero_from_itself():
    mu, sigma = gaussian(3)
    distance = frechet_distance(mu, sigma, mu, sigma)
    assert 0.0 <= distance < 1e-12 * np.trace(sigma)


def test_the_distance_is_symmetric_and_does_not_depend_on_the_axes():
    first, second, axes = gaussian(4), gaussian(5), rotation(6)
    turned = [(axes @ mu, axes @ sigma @ axes.T) for mu, sigma in (first, second)]
    distance = frechet_distance(*first, *second)
    assert distance > 1.0
    assert frechet_distance(*second, *first) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(*turned[0], *turned[1]) == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_root_of_the_product_by_scipy(seed):
    (mu1, sigma1), (mu2, sigma2) = gaussian(seed), gaussian(seed + 10)
    root = scipy.linalg.sqrtm(sigma1 @ sigma2)
    expected = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2.0 * root.real)
    # Both are float64; the Schur form of a product that is not symmetric loses some digits.
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-9)


def test_agrees_with_adms_evaluator():
    golden = np.load(GOLDENS / "fid_numeric.npz")
    reference, sample = (mean_and_covariance(golden[f"d64_n200/acts_{name}"]) for name in ("ref", "sample"))
    for name, (mu, sigma) in (("ref", reference), ("sample", sample)):
        # The evaluator's mean is in float32.
        np.testing.assert_allclose(mu, golden[f"d64_n200/mu_{name}"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(sigma, golden[f"d64_n200/sigma_{name}"], rtol=1e-12, atol=1e-14)
    # Its means, and their squared distance, are in float32: that term is taken from it, the traces are ours.
    mu_ref, mu_sample = (golden[f"d64_n200/mu_{name}"] for name in ("ref", "sample"))
    difference = reference[0] - sample[0]
    means_in_float32 = float((mu_ref - mu_sample) @ (mu_ref - mu_sample)) - difference @ difference
    expected = golden["d64_n200/frechet_distance"]
    # What is left is the rounding of sqrtm in float64 and of one float32 sum of 64 terms around 0.005.
    assert frechet_distance(*reference, *sample) + means_in_float32 == pytest.approx(expected, rel=1e-7)


def test_statistics_are_the_unbiased_ones():
    mean, covariance = mean_and_covariance(np.array([[0, 0], [2, 4]], np.uint8))
    np.testing.assert_array_equal(mean, [1.0, 2.0])
    np.testing.assert_array_equal(covariance, [[2.0, 4.0], [4.0, 8.0]])


def test_one_feature_has_a_covariance_too():
    mean, covariance = mean_and_covariance(np.array([[1.0], [3.0]]))
    assert (mean.shape, covariance.shape) == ((1,), (1, 1))


@pytest.mark.parametrize("shape", [(1, 4), (8,), (2, 2, 2)])
def test_too_few_or_unshaped_features_are_refused(shape):
    with pytest.raises(ValueError, match="M at least 2"):
        mean_and_covariance(np.zeros(shape))


def test_statistics_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="of one D"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
