"""AdamW against its definition in float64 and against an implementation of others."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dit_tf.training.ema import Exponential, ema_update
from dit_tf.training.optimizer import AdamW
from dit_tf.training.schedule import Schedule


def reference_adamw(p, gradients, rate, beta_1, beta_2, epsilon, decay):
    """Algorithm 2 of arXiv:1711.05101, line by line in float64."""
    p, m, v = np.float64(p), 0.0, 0.0
    for step, g in enumerate(np.float64(gradients), start=1):
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g * g
        m_hat, v_hat = m / (1 - beta_1**step), v / (1 - beta_2**step)
        p = p - rate * decay * p - rate * m_hat / (np.sqrt(v_hat) + epsilon)
    return p, m, v


def run(optimizer, p, gradients, jit=True):
    update = tf.function(optimizer.update, jit_compile=jit, autograph=False)
    state = [tf.constant(p)], [tf.zeros_like(p)], [tf.zeros_like(p)]
    for step, g in enumerate(gradients, start=1):
        state = update(*state, [tf.constant(g)], tf.constant(step))
    return [s[0].numpy() for s in state]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_equal_the_definition(rng, decay):
    p, gradients = rng.normal(size=50).astype("f"), rng.normal(size=(5, 50)).astype("f")
    gradients[:, :5] *= 1e-9  # far below and near epsilon, where its place in the formula matters
    gradients[:, 5:10] *= 1e-7
    expected = reference_adamw(p, gradients, 1e-2, 0.9, 0.999, 1e-8, decay)
    actual = run(AdamW(Schedule(1e-2), weight_decay=decay), p, gradients)
    # Five steps of float32 rounding on values around 1.
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-6)
    scale = np.abs(gradients).max(axis=0)  # m is a sum of gradients of either sign
    assert (np.abs(actual[1] - expected[1]) <= 1e-6 * scale).all()
    np.testing.assert_allclose(actual[2], expected[2], rtol=1e-6, atol=1e-22)


def test_the_first_step_moves_by_the_learning_rate_against_the_sign():
    """m_hat / sqrt(v_hat) is the gradient's sign: only exact bias corrections give it at beta_2 = 0.999."""
    (moved, _, _) = run(AdamW(Schedule(1.0)), np.zeros(2, "f"), [np.array([3.0, -0.02], "f")])
    np.testing.assert_allclose(moved, [-1, 1], rtol=2e-6)


def test_late_steps_need_no_correction():
    optimizer = AdamW(Schedule(0.5))
    p, m, v = optimizer.update([tf.ones(1)], [tf.ones(1)], [tf.ones(1)], [tf.ones(1)], tf.constant(10**6))
    np.testing.assert_allclose(p[0], [0.5], rtol=1e-6)
    np.testing.assert_array_equal(m[0], [1.0])
    np.testing.assert_allclose(v[0], [1.0], rtol=1e-7)


def test_agrees_with_keras_adamw_where_epsilon_does_not_matter(rng):
    p, gradients = rng.normal(size=50).astype("f"), (rng.normal(size=(5, 50)) + 3).astype("f")
    variable = keras.Variable(p)
    oracle = keras.optimizers.AdamW(learning_rate=1e-2, weight_decay=0.0)
    oracle.build([variable])
    for g in gradients:
        oracle.apply([tf.constant(g)], [variable])
    # Keras adds 1e-7 to sqrt(v), which is 3 (1 - 0.999)^1/2 = 0.09 at the first step: 1e-6 of a step of 1e-2.
    np.testing.assert_allclose(run(AdamW(Schedule(1e-2)), p, gradients)[0], variable.numpy(), atol=1e-6)


def test_ema_is_the_weighted_mean_of_all_weights_so_far():
    decay, weights = 0.9, [np.float32(w) for w in (4.0, 1.0, 2.0)]
    ema = [tf.constant(1.0)]
    for w in weights:
        ema = ema_update(ema, [tf.constant(w)], Exponential(decay).rate(1))
    expected = decay**3 * 1.0 + (1 - decay) * sum(w * decay ** (2 - i) for i, w in enumerate(weights))
    np.testing.assert_allclose(ema[0], expected, rtol=1e-6)
