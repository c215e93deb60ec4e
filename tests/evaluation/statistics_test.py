"""Claims of streamed statistics: closed form, exact merging, no digits lost, one sentence for bad features."""

import numpy as np
import pytest

from dit_tf.evaluation import statistics
from dit_tf.evaluation.statistics import Statistics


@pytest.fixture
def features(rng):
    return rng.normal(size=(100, 6)) @ rng.normal(size=(6, 6)) + 3.0


def assert_equal(actual, expected, tolerance=1e-10):
    """1e-10 is the project's figure; float64 sums in another order give 1e-14."""
    assert actual.count == expected.count
    np.testing.assert_allclose(actual.mean, expected.mean, rtol=tolerance)
    np.testing.assert_allclose(actual.scatter, expected.scatter, rtol=0, atol=tolerance * expected.scatter.max())


def test_the_numbers_are_numpys(features):
    whole = Statistics.of(features)
    np.testing.assert_allclose(whole.mean, features.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(whole.covariance(), np.cov(features, rowvar=False), rtol=1e-13)
    gaussian = whole.gaussian()
    assert gaussian.count == 100
    np.testing.assert_array_equal(gaussian.covariance, whole.covariance())


def test_two_pixels_by_hand():
    whole = Statistics.of(np.array([[0, 0], [2, 4]], np.uint8))
    np.testing.assert_array_equal(whole.mean, [1.0, 2.0])
    np.testing.assert_array_equal(whole.scatter, [[2.0, 4.0], [4.0, 8.0]])


@pytest.mark.parametrize("cuts", [(50,), (1,), (99,), (10, 11, 60), range(1, 100)], ids=str)
def test_parts_merge_to_the_whole(features, cuts):
    first, *parts = (Statistics.of(part) for part in np.split(features, cuts))
    for part in parts:
        first = first.merge(part)
    assert_equal(first, Statistics.of(features))


def test_the_order_of_images_and_of_parts_does_not_matter(features, rng):
    whole, parts = Statistics.of(features), [Statistics.of(part) for part in np.split(features, [30])]
    assert_equal(Statistics.of(rng.permutation(features)), whole)
    assert_equal(parts[1].merge(parts[0]), whole)


def test_a_long_array_is_taken_in_parts(features, monkeypatch):
    whole = Statistics.of(features)
    monkeypatch.setattr(statistics, "_ROWS", 7)
    assert_equal(Statistics.of(features), whole)


def test_a_distant_mean_costs_no_digits(rng):
    # Multiples of 2^-20 between 0 and 1, moved by 2^30: exact in float64, where x x^T would need 100 binary digits.
    features = rng.integers(2**20, size=(64, 3)) / 2.0**20
    moved = [Statistics.of(half + 2.0**30) for half in (features[:32], features[32:])]
    # The mean is rounded at 2^-23 there, an error that the scatter holds 64 times the square of.
    np.testing.assert_allclose(moved[0].merge(moved[1]).scatter, Statistics.of(features).scatter, rtol=0, atol=1e-6)


def test_float32_features_are_added_in_float64(rng):
    features = rng.uniform(1e3, 1e3 + 1, size=(1000, 2)).astype(np.float32)
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(Statistics.of(features).covariance(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(8,), (2, 2, 2), (0, 4), (4, 0)], ids=str)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(images, numbers\)"):
        Statistics.of(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(features, value):
    features[3, 1] = value
    with pytest.raises(ValueError, match="infinity in 1 of 100 images"):
        Statistics.of(features)


def test_two_sizes_and_a_single_image_are_refused(features):
    with pytest.raises(ValueError, match="6 and 5 features cannot be merged"):
        Statistics.of(features).merge(Statistics.of(features[:, 1:]))
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        Statistics.of(features[:1]).covariance()
