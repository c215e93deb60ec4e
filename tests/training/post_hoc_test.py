"""Averages of any width from those of two: closed forms, and weights that are known at every step."""

import pathlib

import numpy as np
import pytest

from dit_tf.training.ema import gamma_of
from dit_tf.training.post_hoc import MOST_ERROR, MOST_NOISE, inner_product, matches, widths

STEPS = 2000
SAVED = [(step, std) for step in range(50, STEPS + 1, 50) for std in (0.05, 0.1)]


def profile(tau, step, std):
    gamma = gamma_of(std)
    return np.where(tau <= step, (gamma + 1) * tau**gamma / step ** (gamma + 1), 0.0)


def averages_of(weights, saved):
    """By the recursion, beta = (1 - 1/t)^(gamma + 1), in float64."""
    found = {}
    for std in {std for _, std in saved}:
        average = 0.0
        for step, w in enumerate(weights, start=1):
            beta = (1 - 1 / step) ** (gamma_of(std) + 1)
            average = beta * average + (1 - beta) * w
            found[step, std] = average
    return np.array([found[key] for key in saved])


@pytest.mark.parametrize("a, b", [((3.0, 0.05), (3.0, 0.05)), ((2.0, 0.1), (3.0, 0.05)), ((3.0, 0.28), (1.0, 0.2))])
def test_inner_products_are_integrals(a, b):
    tau = (np.arange(300_000) + 0.5) / 100_000
    expected = (profile(tau, *a) * profile(tau, *b)).sum() / 100_000
    (n, s), (m, r) = a, b
    # The midpoint rule at 300,000 points; where a profile ends it jumps, between two of them.
    np.testing.assert_allclose(inner_product(n, gamma_of(s), m, gamma_of(r)), expected, rtol=1e-8)


def test_what_was_saved_comes_back_as_it_was():
    for place, (step, std) in ((len(SAVED) - 1, SAVED[-1]), (20, SAVED[20])):
        saved = [(n, s) for n, s in SAVED if n <= step]
        (found,) = matches(saved, step, [std])
        # float64 with a condition number of 1e5.
        np.testing.assert_allclose(found.coefficients, np.arange(len(saved)) == place, atol=1e-9)
        assert found.error < 1e-7 and found.good  # a root of a rounding error


@pytest.mark.parametrize("std", [0.03, 0.07, 0.15, 0.2])
def test_another_width_is_what_it_would_have_been(std, rng):
    """Weights that approach their end along a random walk, and jump midway. What is allowed is Cauchy and Schwarz's
    bound for the distance of the profiles and these weights; constants do not count, since coefficients sum up to 1."""
    steps = np.arange(1, STEPS + 1)
    weights = 100 + np.exp(-steps / 300) + 0.02 * rng.normal(size=STEPS).cumsum() + (steps > 1700)
    (found,) = matches(SAVED, STEPS, [std])
    actual, (expected,) = found.coefficients @ averages_of(weights, SAVED), averages_of(weights, [(STEPS, std)])
    length = np.sqrt(inner_product(STEPS, gamma_of(std), STEPS, gamma_of(std)))
    bound = found.error * length * np.linalg.norm(weights - weights.mean())
    assert abs(actual - expected) <= bound
    nearest = min(abs(average - expected) for average in averages_of(weights, [(STEPS, 0.05), (STEPS, 0.1)]))
    assert abs(actual - expected) < 0.05 * nearest  # far nearer than either width that was tracked


def test_weights_that_stay_come_out_as_they_are():
    for found in matches(SAVED, STEPS, [0.01, 0.07, 0.28]):
        assert found.coefficients.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("std", [0.03, 0.07])
def test_the_noise_is_that_of_float16(std, rng):
    (found,) = matches(SAVED, STEPS, [std])
    weights = rng.normal(size=(len(SAVED), 5000))
    rounding = found.coefficients @ (weights.astype(np.float16).astype(np.float64) - weights)
    assert 0.7 * found.noise < rounding.std() < found.noise  # 2^-12 is a little above the rounding of a normal number


@pytest.mark.parametrize(
    "tracked, snapshots", [((0.05, 0.1), 10), ((0.05, 0.1), 40), ((0.05, 0.1), 80), ((0.1,), 40)], ids=str
)
def test_the_table_in_the_docs_is_what_is_found(tracked, snapshots):
    saved = [(step, std) for step in range(1, snapshots + 1) for std in tracked]  # the unit of steps does not matter
    errors = [f"{100 * m.error:.2g}%" for m in matches(saved, snapshots, [0.02, 0.03, 0.075, 0.15, 0.2])]
    possible = widths(saved, snapshots)
    cells = [", ".join(map(str, tracked)), str(snapshots), *errors, f"{possible[0]} to {possible[-1]}"]
    assert f"| {' | '.join(cells)} |\n" in (pathlib.Path(__file__).parents[2] / "docs" / "ema.md").read_text()


def test_widths_end_where_a_match_is_none():
    possible = widths(SAVED, STEPS)
    assert 0.01 < possible[0] < 0.05 and 0.1 < possible[-1] < 12**-0.5
    narrow, first, wide = matches(SAVED, STEPS, [possible[0] - 0.005, possible[0], possible[-1] + 0.005])
    assert first.good and not narrow.good and not wide.good
    assert narrow.error > MOST_ERROR or narrow.noise > MOST_NOISE
    assert widths([(STEPS, 0.05)], STEPS)  # at least itself
