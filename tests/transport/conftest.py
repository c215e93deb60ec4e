import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.transport.paths import PATHS, VP


@dataclasses.dataclass(frozen=True)
class _CancellingVP(VP):
    """VP with sigma^2 as 1 - exp(2 log alpha), as SiT computes it: in float32 its digits are lost near data."""

    def at(self, t):
        p = super().at(t)
        u = 1.0 - tf.convert_to_tensor(t)
        rise = self.beta_max - self.beta_min
        alpha_squared = tf.exp(-0.5 * rise * u**2 - self.beta_min * u)
        sigma = tf.sqrt(1.0 - alpha_squared)
        return p._replace(sigma=sigma, d_sigma=-0.5 * alpha_squared * (rise * u + self.beta_min) / sigma)


@pytest.fixture(scope="session")
def recorded_paths():
    """(SiT's name, our path, the path that computes as SiT does) of each of PATHS; they differ for VP alone."""
    names = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}
    return {key: (names[key], path, _CancellingVP() if key == "vp" else path) for key, path in PATHS.items()}


@pytest.fixture(scope="session")
def assert_rows_agree():
    """assert_rows_agree(actual, expected): as `assert_agrees`, but each row is measured by its own largest magnitude:
    what a row of 1e5 allows says nothing about a row of 1. Infinities must be those expected."""

    def check(actual, expected, tolerance=1e-5):
        actual, finite = np.asarray(actual), np.isfinite(expected)
        assert actual.shape == expected.shape
        np.testing.assert_array_equal(actual[~finite], expected[~finite])
        axes = tuple(range(1, expected.ndim))
        allowed = tolerance * np.where(finite, np.abs(expected), 0).max(axes)
        error = np.abs(np.where(finite, actual, 0) - np.where(finite, expected, 0)).max(axes)
        assert (error <= allowed).all(), f"errors of the rows {error}, allowed {allowed}"

    return check
