"""References are ADM's: what is written NumPy reads back, and what is stored is held against what it must be."""

from typing import NamedTuple

import numpy as np
import pytest

from dit_tf.evaluation.references import Reference, StoredStatistics, statistics_arrays
from dit_tf.evaluation.statistics import Gaussian
from dit_tf.runtime.npz_writer import write_arrays

SIZES = dict(features=6, spatial_features=4)  # in the place of 2048 and 2023


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "reference.npz")


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 4, 5, 3), np.uint8)


def gaussian(features):
    """Of activations in float32, as the network gives them."""
    return Gaussian(features.mean(axis=0, dtype=np.float64), np.cov(features, rowvar=False), len(features))


@pytest.fixture
def statistics(rng):
    pool, spatial = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    return StoredStatistics(gaussian(pool), gaussian(spatial))


class Arrays(NamedTuple):
    mu: np.ndarray
    sigma: np.ndarray
    mu_s: np.ndarray
    sigma_s: np.ndarray


@pytest.fixture
def arrays(statistics):
    """The statistics as a file has them."""
    return Arrays(*statistics.pool[:2], *statistics.spatial[:2])


def of(path, arrays, **changes):
    """A file of these arrays, less those that are changed to None."""
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return Reference("--reference", path)


def test_a_reference_that_was_written_is_adms_and_is_read_back(path, images, statistics):
    write_arrays(path, dict(arr_0=images, arr_1=np.arange(10), **statistics_arrays(statistics)))
    with np.load(path, allow_pickle=False) as found:
        assert found.files == ["arr_0", "arr_1", "mu", "sigma", "mu_s", "sigma_s"]
        # ADM's evaluator takes the mean of float32 activations in float32 and np.cov of them in float64.
        dtypes = [found[name].dtype for name in found.files]
        assert dtypes == [np.uint8, np.int64, np.float32, np.float64, np.float32, np.float64]
        np.testing.assert_array_equal(found["arr_0"], images)
    reference = Reference("--reference", path)
    np.testing.assert_array_equal(np.concatenate(list(reference.images.batches(3))), images)
    np.testing.assert_array_equal(reference.images.labels(), range(10))
    for found, given in zip(reference.statistics(**SIZES), statistics, strict=True):
        assert found.mean.dtype == found.covariance.dtype == np.float64 and found.count is None
        np.testing.assert_array_equal(found.mean, given.mean.astype(np.float32))
        np.testing.assert_array_equal(found.covariance, given.covariance)


def test_the_sizes_are_inceptions_unless_said_otherwise(path, rng):
    sigma, sigma_s = np.eye(2048), np.eye(2023, dtype=np.float32)
    reference = of(path, dict(mu=rng.normal(size=2048), sigma=sigma, mu_s=rng.normal(size=2023), sigma_s=sigma_s))
    assert reference.images is None
    found = reference.statistics()
    np.testing.assert_array_equal(found.spatial.covariance, sigma_s)
    assert (found.pool.mean.shape, found.pool.covariance.shape) == ((2048,), (2048, 2048))
    assert found.spatial.mean.shape == (2023,)


def test_without_statistics_the_images_are_all_there_is(path, images):
    write_arrays(path, dict(arr_0=images))
    reference = Reference("--reference", path)
    assert reference.images.count == 10 and not reference.has_statistics and reference.statistics() is None
    told = reference.provenance()
    assert len(told.pop("sha256")) == 64
    assert told == {"file": path, "statistics": "of the images", "images": 10, "size": [4, 5, 3]}


def test_features_without_a_spatial_part_have_two_arrays(path, images, statistics):
    gray = images[..., :1]
    write_arrays(path, dict(arr_0=gray, **statistics_arrays(StoredStatistics(statistics.pool))))
    reference = Reference("--reference", path, channels=(1, 3))
    found = reference.statistics(features=6, spatial_features=None)
    assert found.spatial is None and reference.images.shape == (4, 5, 1)
    np.testing.assert_array_equal(found.pool.covariance, statistics.pool.covariance)
    assert reference.statistics(**SIZES).spatial is None
    assert reference.remark().startswith(f"--reference={path} has mu and sigma alone: FID is computed, sFID cannot be.")
    arrays = dict(statistics_arrays(statistics), arr_0=gray)
    del arrays["sigma_s"]
    write_arrays(path, arrays)
    with pytest.raises(ValueError, match="reference.npz must hold mu, sigma, mu_s, sigma_s or none .* lacks sigma_s"):
        Reference("--reference", path, channels=(1, 3)).statistics(**SIZES)


def changed(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


@pytest.mark.parametrize(
    "change, what",
    [
        (lambda s: dict(mu=None), "must hold mu, sigma, mu_s, sigma_s or none of them, it lacks mu"),
        (lambda s: dict(sigma_s=None), "it lacks sigma_s"),
        (lambda s: dict(mu=s.mu[:5]), r"its mu must be floats of shape \(6,\), got float64 \(5,\)"),
        (lambda s: dict(mu=s.mu[None]), r"its mu must be floats of shape \(6,\), got float64 \(1, 6\)"),
        (lambda s: dict(sigma=s.sigma[:, :5]), r"its sigma must be floats of shape \(6, 6\), got float64 \(6, 5\)"),
        (lambda s: dict(sigma_s=s.sigma), r"its sigma_s must be floats of shape \(4, 4\), got float64 \(6, 6\)"),
        (lambda s: dict(sigma=s.sigma.astype(int)), "its sigma must be floats"),
        (lambda s: dict(sigma=s.sigma.astype(complex)), "its sigma must be floats"),
        (lambda s: dict(sigma=s.sigma.astype(object)), "its sigma has Python objects"),
        (lambda s: dict(mu=changed(s.mu, 2, np.nan)), "its mu must be finite, 1 of its entries"),
        (lambda s: dict(sigma_s=changed(s.sigma_s, 2, np.inf)), "its sigma_s must be finite, 4 of its entries"),
        (lambda s: dict(sigma=changed(s.sigma, (1, 2), 0.9)), "its sigma must be symmetric to 1e-06"),
    ],
)
def test_statistics_that_are_none_are_refused(path, arrays, change, what):
    reference = of(path, arrays._asdict(), **change(arrays))
    with pytest.raises(ValueError, match=f"^--reference={path}.*{what}"):
        reference.statistics(**SIZES)


def test_rounding_is_no_asymmetry(path, arrays):
    sigma = arrays.sigma * (1 + 1e-9 * np.triu(np.ones((6, 6))))
    of(path, arrays._asdict(), sigma=sigma).statistics(**SIZES)
    of(path, arrays._asdict(), sigma=sigma.astype(np.float32)).statistics(**SIZES)


@pytest.mark.parametrize(
    "arrays, what",
    [
        (dict(images=np.zeros(3)), "must hold images .* or statistics .* has 'images'"),
        (dict(), "has no arrays"),
        (dict(arr_0=np.zeros((2, 4, 4, 1), np.uint8)), r"must be uint8 \(N, H, W, 3\), got uint8"),
        (dict(arr_0=np.zeros((2, 4, 4, 3)), mu=np.zeros(6)), "must be uint8 .* got float64"),
    ],
)
def test_files_that_are_no_references_are_refused(path, arrays, what):
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=f"^--reference={path}.*{what}"):
        Reference("--reference", path)
