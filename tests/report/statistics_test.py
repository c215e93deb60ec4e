"""Claims of the report's statistics, in order: closed forms, SciPy, the bootstrap against resampling one by one."""

import numpy as np
import pytest
import scipy.stats

from dit_tf.report import statistics
from dit_tf.report.statistics import (
    AGREES,
    DISAGREES,
    ONE_SEED,
    UNDECIDED,
    Interval,
    correlation_difference,
    paired_difference,
    rank_correlation,
    short,
    spearman,
    t_interval,
    verdict,
)


def test_spearman_of_monotone_lists_is_one():
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1.0)
    assert spearman([1, 2, 3, 4], [5, 4, 3, -9]) == pytest.approx(-1.0)


def test_the_t_interval_of_three_numbers():
    # mean 2, standard deviation 1, and 4.302653 is the 97.5 % point of Student's distribution with 2 degrees of freedom
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval == pytest.approx((2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5, 3), abs=1e-6)


def test_the_t_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=7)
    expected = scipy.stats.t.interval(0.95, 6, loc=values.mean(), scale=scipy.stats.sem(values))
    assert t_interval(values)[1:3] == pytest.approx(expected, rel=1e-12)


def test_one_value_has_no_interval():
    assert t_interval([5.0]) == Interval(5.0, None, None, 1)
    assert verdict(t_interval([5.0]), 1) == ONE_SEED
    assert str(t_interval([5.0])) == "5.00"


def test_a_paired_difference_is_of_the_seeds_of_both():
    difference = paired_difference({0: 3.0, 1: 5.0, 2: 9.0}, {1: 4.0, 2: 7.0, 3: 0.0})
    assert (difference.mean, difference.count) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    "low, high, sign, expected",
    [(1, 3, 1, AGREES), (1, 3, -1, DISAGREES), (-3, -1, -1, AGREES), (-1, 3, 1, UNDECIDED), (0, 2, 1, UNDECIDED)],
)
def test_verdicts(low, high, sign, expected):
    assert verdict(Interval((low + high) / 2, low, high, 3), sign) == expected


def models_and_values(noise, seeds=3, models=8):
    rng = np.random.default_rng(1)
    x = {f"m{i}": 2.0**i for i in range(models)}
    return x, {name: {s: -i + noise * rng.normal() for s in range(seeds)} for i, name in enumerate(x)}


def test_a_perfect_order_has_a_correlation_of_one_in_every_draw():
    found = rank_correlation(*models_and_values(0.0))
    assert found.interval[:3] == pytest.approx((-1.0, -1.0, -1.0)) and found.by_seed.keys() == {0, 1, 2}


def test_the_bootstrap_is_that_of_resampled_lists():
    x, values = models_and_values(2.0)
    found = rank_correlation(x, values)
    rng, names, draws = np.random.default_rng(9), list(x), []
    for _ in range(800):
        models, seeds = rng.choice(names, len(names)), rng.choice(3, 3)
        with np.errstate(invalid="ignore"):
            draws.append(np.mean([spearman([x[m] for m in models], [values[m][s] for m in models]) for s in seeds]))
    low, high = np.percentile(draws, [2.5, 97.5])
    # two bootstraps of so many draws: their percentiles differ by a few hundredths
    assert found.interval.low == pytest.approx(low, abs=0.03) and found.interval.high == pytest.approx(high, abs=0.05)
    assert found.interval.mean == pytest.approx(np.mean([*found.by_seed.values()]))


def test_weights_count_as_repetitions():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 4.0])
    weights = np.array([[2, 0, 1, 3]])
    repeated = np.repeat(x, weights[0]), np.repeat(y, weights[0])
    assert statistics._weighted_spearman(x, y, weights)[0] == pytest.approx(spearman(*repeated))


def test_a_missing_run_leaves_its_seed_with_fewer_models():
    x, values = models_and_values(0.0)
    del values["m3"][2], values["m4"][2]
    assert rank_correlation(x, values).interval.mean == pytest.approx(-1.0)


def test_two_models_have_no_rank_correlation():
    x, values = models_and_values(0.0, models=2)
    assert rank_correlation(x, values) is None
    assert correlation_difference(x, x, values) is None


def test_the_difference_of_a_correlation_to_itself_is_zero():
    x, values = models_and_values(1.0)
    assert correlation_difference(x, x, values)[:3] == pytest.approx((0.0, 0.0, 0.0))
    shuffled = dict(zip(x, [4.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 5.0]))
    assert correlation_difference(x, shuffled, values).mean > 0


@pytest.mark.parametrize(
    "number, text", [(0.0, "0.00"), (1234.5, "1234"), (-3.14159, "−3.14"), (0.012345, "0.0123"), (99.96, "100.0")]
)
def test_numbers_have_three_digits(number, text):
    assert short(number) == text
