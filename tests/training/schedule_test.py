"""The learning rate of each step against its definition in float64."""

import math

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.training.optimizer import AdamW
from dit_tf.training.schedule import Schedule


def rates(schedule, steps):
    at = tf.function(schedule.at, jit_compile=True, autograph=False)
    return np.array([float(at(tf.constant(step))) for step in steps])


def test_a_constant_rate_is_a_number_that_no_program_computes():
    """So that the program of the default recipe is what it was."""
    assert Schedule(3e-4).at(tf.constant(7)) == 3e-4 and type(Schedule(3e-4).at(7)) is float


@pytest.mark.parametrize("form", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_rate_is_that_of_its_definition(form, warmup):
    schedule = Schedule(0.5, warmup, form, 0 if form == "constant" else 20)

    def expected(step):
        if step <= warmup:
            return 0.5 * step / warmup
        done = min((step - 1 - warmup) / (20 - warmup), 1.0)
        return 0.5 * dict(constant=1.0, linear=1 - done, cosine=(1 + math.cos(math.pi * done)) / 2)[form]

    steps = range(1, 24)
    np.testing.assert_allclose(rates(schedule, steps), [expected(step) for step in steps], atol=5e-8)  # an ulp of 0.5
    if form != "constant":
        assert expected(warmup + 1) == 0.5 and expected(20) > 0 == expected(21)


def test_the_weights_move_by_the_rate_of_their_step():
    """Under a constant gradient each step of Adam is one rate long."""
    optimizer, rising = AdamW(Schedule(0.1, warmup_steps=5)), []
    state = [tf.zeros(1)], [tf.zeros(1)], [tf.zeros(1)]
    for step in range(1, 8):
        before, state = state[0][0], optimizer.update(*state, [tf.ones(1)], tf.constant(step))
        rising.append(float(before[0] - state[0][0][0]))
    np.testing.assert_allclose(rising, 0.1 * np.minimum(np.arange(1, 8) / 5, 1), rtol=1e-5)  # sums of float32 near 1
