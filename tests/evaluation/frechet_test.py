"""Claims of the Frechet distance, in order: closed forms, invariances, SciPy's matrix root, ADM's evaluator."""

import json
import pathlib

import numpy as np
import pytest
import scipy.linalg

from dit_tf.evaluation import frechet as module
from dit_tf.evaluation.frechet import frechet, frechet_with_error
from dit_tf.evaluation.statistics import Gaussian, Statistics

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "adm"


def gaussian(seed, dimension=6):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(dimension, dimension))
    return rng.normal(size=dimension), factor @ factor.T


def rotation(seed, dimension=6):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, dimension)))[0]


def frechet_distance(*gaussians):
    return frechet_with_error(*gaussians).distance


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


def test_features_that_are_moved_are_as_far_as_they_went(rng):
    features, step = rng.normal(size=(300, 6)), rng.normal(size=6)
    first, second = Statistics.of(features).gaussian(), Statistics.of(features + step).gaussian()
    assert frechet(first, second).distance == pytest.approx(step @ step, rel=1e-12)
    assert frechet(first, first).distance < 1e-12


def test_merged_halves_have_the_distance_of_the_whole(rng):
    features, other = rng.normal(size=(2, 300, 6))
    halves = [Statistics.of(part) for part in np.split(features, 2)]
    merged, whole = halves[1].merge(halves[0]).gaussian(), Statistics.of(features).gaussian()
    reference = Statistics.of(other).gaussian()
    assert frechet(reference, merged).distance == pytest.approx(frechet(reference, whole).distance, rel=1e-10)


def test_both_ways_to_the_trace_agree():
    (_, sigma1), (_, sigma2) = gaussian(7, 40), gaussian(8, 40)
    quick, general = (way(sigma1, sigma2) for way in (module._trace_by_cholesky, module._trace_by_eigenvalues))
    assert abs(quick[0] - general[0]) <= quick[1] + general[1]
    assert quick[0] == pytest.approx(general[0], rel=1e-10)


def test_a_nearly_singular_covariance_takes_the_way_by_eigenvalues():
    sigma, mu = np.diag([1.0, 1e-15, 1e-15, 1e-15]), np.zeros(4)
    np.linalg.cholesky(sigma)  # it has a factor, but not one to rely on
    assert module._trace_by_cholesky(sigma, np.eye(4)) is None
    assert module._trace_by_cholesky(np.eye(4), sigma) is None
    # Three times (1 - 1e-15^1/2)^2; 1e-15 is just above the rounding at 1 and known to a part of itself.
    assert frechet_distance(mu, sigma, mu, np.eye(4)) == pytest.approx(3.0, abs=1e-6)


def test_the_error_covers_what_rounding_does_where_examples_are_few(rng):
    # 9 examples with 30 features: rank 8. The exact value comes from 9 x 9 matrices of inner products, in which
    # nothing is zero but one eigenvalue: with centred rows X and Y, the trace is the sum of the singular values of
    # X Y^T / 8.
    x, y = rng.normal(size=(2, 9, 30))
    statistics = [Statistics.of(features).gaussian() for features in (x, y)]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    trace = np.linalg.svd(x @ y.T / 8, compute_uv=False).sum()
    difference = statistics[0].mean - statistics[1].mean
    exact = difference @ difference + (np.sum(x**2) + np.sum(y**2)) / 8 - 2 * trace
    found = frechet(*statistics, allow_few_samples=True)
    assert abs(found.distance - exact) <= found.error < 1e-4 * exact
    # An eigenvalue of the size of rounding that is taken for a real one moves the result by no more than the error.
    moved = statistics[0]._replace(covariance=statistics[0].covariance + 1e-15 * np.eye(30))
    change = abs(frechet(moved, statistics[1], allow_few_samples=True).distance - found.distance)
    assert change <= found.error
    # With many examples there are no such eigenvalues, and next to no error.
    many = [Statistics.of(rng.normal(size=(300, 30))).gaussian() for _ in range(2)]
    assert frechet(*many).error < 1e-9 * frechet(*many).distance


def test_the_error_covers_an_eigenvalue_that_is_lost_on_either_side():
    # Below the spacing of float64 at 1, times 3 dimensions: taken for zero. In truth the distance is (1 - 2e-8)^2.
    sigma, mu = np.diag([1.0, 1.0, 4e-16]), np.zeros(3)
    for found in (frechet_with_error(mu, sigma, mu, np.eye(3)), frechet_with_error(mu, np.eye(3), mu, sigma)):
        assert abs(found.distance - (1 - 2e-8) ** 2) <= found.error < 1e-7


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_root_of_the_product_by_scipy(seed):
    (mu1, sigma1), (mu2, sigma2) = gaussian(seed), gaussian(seed + 10)
    root = scipy.linalg.sqrtm(sigma1 @ sigma2)
    expected = np.sum((mu1 - mu2) ** 2) + np.trace(sigma1 + sigma2 - 2.0 * root.real)
    # Both are float64; the Schur form of a product that is not symmetric loses some digits.
    assert frechet_distance(mu1, sigma1, mu2, sigma2) == pytest.approx(expected, rel=1e-9)


def test_agrees_with_adms_evaluator():
    golden = np.load(GOLDENS / "fid_numeric.npz")
    reference, sample = (Statistics.of(golden[f"d64_n200/acts_{name}"]).gaussian() for name in ("ref", "sample"))
    for name, (mu, sigma, _) in (("ref", reference), ("sample", sample)):
        # The evaluator's mean is in float32.
        np.testing.assert_allclose(mu, golden[f"d64_n200/mu_{name}"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(sigma, golden[f"d64_n200/sigma_{name}"], rtol=1e-12, atol=1e-14)
    # Its means, and their squared distance, are in float32: that term is taken from it, the traces are ours.
    mu_ref, mu_sample = (golden[f"d64_n200/mu_{name}"] for name in ("ref", "sample"))
    difference = reference.mean - sample.mean
    means_in_float32 = float((mu_ref - mu_sample) @ (mu_ref - mu_sample)) - difference @ difference
    expected = golden["d64_n200/frechet_distance"]
    # What is left is the rounding of sqrtm in float64 and of one float32 sum of 64 terms around 0.005.
    assert frechet(reference, sample).distance + means_in_float32 == pytest.approx(expected, rel=1e-7)


@pytest.mark.slow  # two eigenvalue problems of 2,048: ten seconds and more
@pytest.mark.parametrize("features, metric", [("pool_3", "FID"), ("spatial", "sFID")])
def test_agrees_with_the_whole_program_of_adm(features, metric):
    # 16 images with 2,048 and 2,023 features; "exact" is the sum over images as in the test of few examples above.
    expected = json.loads((GOLDENS / "e2e_metrics.json").read_text())
    golden = np.load(GOLDENS / "e2e_activations.npz")
    sides = [Statistics.of(golden[f"{name}_{features}"]).gaussian() for name in ("ref", "sample")]
    found = frechet(*sides, allow_few_samples=True)
    exact = expected["exact_float64_lowrank"][metric]
    assert abs(found.distance - exact) <= found.error < 1e-4 * exact
    # The evaluator's float32 means and its root of a singular product.
    assert found.distance == pytest.approx(expected["stdout_metrics"][metric], rel=1e-6)


def test_one_feature_has_a_distance_too():
    # Means 2 and 5, deviations 2^1/2 and 3 2^1/2.
    sides = [Statistics.of(np.array(values)).gaussian() for values in ([[1.0], [3.0]], [[2.0], [8.0]])]
    assert frechet(*sides).distance == pytest.approx(9.0 + 8.0, rel=1e-14)


def test_statistics_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="of one D"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


def test_fewer_images_than_features_are_refused_unless_allowed(rng):
    many, few = (Statistics.of(rng.normal(size=(count, 6))).gaussian() for count in (6, 5))
    assert frechet(many, many).distance < 1e-12
    with pytest.raises(ValueError, match="^The samples .* got 5 of 6: .*--allow_few_samples"):
        frechet(many, few)
    with pytest.raises(ValueError, match="^The reference .* got 5 of 6: .*--allow_few_samples"):
        frechet(few, many)
    assert frechet(many, few, allow_few_samples=True).distance > 0.0
    unknown = few._replace(count=None)  # a reference file with mu and sigma alone
    assert frechet(unknown, many).distance > 0.0


def test_features_of_two_networks_are_refused():
    with pytest.raises(ValueError, match="The reference has 2 features and the samples have 3"):
        frechet(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))


@pytest.mark.parametrize("sigma", [np.diag([1.0, -0.5]), -np.eye(2)], ids=["one negative", "all negative"])
def test_what_is_no_covariance_is_refused(sigma):
    with pytest.raises(ValueError, match="no covariance"):
        frechet_with_error(np.zeros(2), sigma, np.zeros(2), np.eye(2))


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(np.zeros(2), np.full((2, 2), np.nan), np.zeros(2), np.eye(2))


@pytest.mark.parametrize("counts", [(3, 5), (40, 2), (30, 90)])
def test_few_examples_by_narrow_factors_are_as_by_eigenvalues(rng, counts):
    """The exact trace is a nuclear norm of the centred features, without any covariance."""
    features = [rng.normal(size=(count, 200)) * rng.uniform(0.01, 3, 200) for count in counts]
    sigmas = [np.cov(f, rowvar=False) for f in features]
    trace, error = module._trace_of_low_ranks(*sigmas)
    centred = [(f - f.mean(0)) / np.sqrt(len(f) - 1) for f in features]
    exact = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    assert abs(trace - exact) <= error and error < 1e-5 * exact
    assert abs(module._trace_by_eigenvalues(*sigmas)[0] - exact) < 1e-5 * exact


def test_what_is_not_narrow_or_no_covariance_takes_the_other_way(rng):
    wide, narrow = (np.cov(rng.normal(size=(count, 60)), rowvar=False) for count in (50, 4))
    assert module._trace_of_low_ranks(wide, narrow) is None
    indefinite = narrow - 0.5 * np.outer(np.ones(60), np.ones(60))
    assert module._trace_of_low_ranks(indefinite, narrow) is None
