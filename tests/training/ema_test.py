"""Averages against their definition as weighted sums, and widths against the figures of Karras et al. (2024)."""

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.training.ema import Exponential, PowerFunction, ema_update, gamma_of, std_of
from dit_tf.training.optimizer import AdamW
from dit_tf.training.train_step import State, TrainStep


@pytest.mark.parametrize("std, gamma", [(0.05, 16.97), (0.10, 6.94)])
def test_widths_are_those_of_the_paper(std, gamma):
    assert gamma_of(std) == pytest.approx(gamma, abs=0.005)  # its two decimals


@pytest.mark.parametrize("std", [1e-4, 0.01, 0.1, 0.25, 0.2886])
def test_gamma_and_width_are_inverse(std):
    assert std_of(gamma_of(std)) == pytest.approx(std, rel=1e-9)  # the root of a cubic, near a flat part at the end
    assert gamma_of(std) > 0


def test_the_width_is_the_standard_deviation_of_the_profile():
    gamma, tau = gamma_of(0.07), (np.arange(10**6) + 0.5) / 10**6
    profile = (gamma + 1) * tau**gamma / 10**6
    mean = (profile * tau).sum()
    assert np.sqrt((profile * (tau - mean) ** 2).sum()) == pytest.approx(0.07, rel=1e-6)


@pytest.mark.parametrize("std", [0.02, 0.1, 0.28])
def test_a_power_function_is_the_weighted_sum_of_all_steps(std, rng):
    weights, average, steps = rng.normal(size=500), PowerFunction(std), np.arange(1, 501)
    update = tf.function(lambda e, p, t: ema_update([e], [p], average.rate(t))[0], jit_compile=True, autograph=False)
    ema = tf.constant(1e3)  # of which the first step must leave nothing
    for step, p in zip(steps, weights):
        ema = update(ema, tf.constant(p, tf.float32), tf.constant(step, tf.int32))
    shares = (steps ** (average.gamma + 1) - (steps - 1) ** (average.gamma + 1)) / 500.0 ** (average.gamma + 1)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(ema, shares @ weights, atol=1e-6)  # 500 roundings of numbers around 1, most forgotten


def test_an_exponential_is_the_weighted_sum_of_all_steps(rng):
    weights, decay = rng.normal(size=50), 0.9
    ema = [tf.constant(1.0)]
    for step, p in enumerate(weights, start=1):
        ema = ema_update(ema, [tf.constant(p, tf.float32)], Exponential(decay).rate(step))
    expected = decay**50 * 1.0 + (1 - decay) * weights @ decay ** np.arange(49, -1, -1)
    np.testing.assert_allclose(ema[0], expected, atol=1e-6)


def test_averages_of_a_step_change_nothing_else_and_are_left_alone_by_a_bad_one():
    averages = [Exponential(0.5), PowerFunction(0.1)]
    start = [[tf.constant([x])] for x in (1.0, 0.5, 0.25, 3.0)]
    plain = TrainStep(None, None, None, None, AdamW(), 0.9)
    several = TrainStep(None, None, None, None, AdamW(), 0.9, averages=averages)
    state = State(*start, averages=([tf.constant([4.0])], [tf.constant([5.0])]))
    for loss, good in ((1.0, True), (np.nan, False)):
        new, _ = several.update(state, {"loss": tf.constant(loss)}, [tf.constant([2.0])], tf.constant(3))
        expected, _ = plain.update(State(*start), {"loss": tf.constant(loss)}, [tf.constant([2.0])], tf.constant(3))
        assert expected.averages == ()
        np.testing.assert_array_equal(np.ravel(new[:4]), np.ravel(expected[:4]))
        p, power = new.params[0].numpy()[0], 1 - (2 / 3) ** (averages[1].gamma + 1)
        moved = [0.5 * 4 + 0.5 * p, (1 - power) * 5 + power * p] if good else [4, 5]
        np.testing.assert_allclose(np.ravel(new.averages), moved, rtol=1e-6)
