"""The probability flow of a SiT, dx = v(x, t) dt: Euler and Heun on a fixed grid, and the adaptive dopri5.

The paper's figure for the ODE is Heun with 125 steps, 250 evaluations; the public code's default is dopri5 with
atol 1e-6 and rtol 1e-3. `heun` is its `heun2`. A grid that descends from data to noise inverts.
"""

import numpy as np
import tensorflow as tf

from dit_tf.samplers.loop import Recurrence


def time_grid(interval, num_steps, shift=1.0):
    """(num_steps + 1,) float64 from one end of the interval to the other, dwelling near noise where shift > 1.

    With u = 1 - t the place between data and noise: u <- shift u / (1 + (shift - 1) u) (Esser et al. 2024,
    arXiv:2403.03206, equation 23). Equal steps where shift is 1.
    """
    if shift <= 0:
        raise ValueError(f"--timestep_shift must be positive, got {shift}.")
    start, end = interval
    if start > end:
        return time_grid((end, start), num_steps, shift)[::-1]
    t = np.linspace(0.0, 1.0, num_steps + 1)
    return start + (end - start) * t / (shift - (shift - 1.0) * t)


def table(transport, target, t):
    """(E, 2) float64: what turns (x, output) into the "velocity", "score" or "noise" at times t (E,)."""
    with tf.init_scope():
        return np.stack([np.asarray(c) for c in transport.coefficients(target, np.asarray(t, np.float64))], axis=-1)


def euler(transport, t):
    """The `Recurrence` of x + dt v over times t (K + 1,): K evaluations, order 1."""
    steps = np.diff(t)
    update = np.zeros((len(steps), 2, 4))
    update[:, 0, 0], update[:, 0, 2] = 1.0, steps
    return Recurrence(t[:-1], table(transport, "velocity", t[:-1]), update, np.zeros(len(steps)), 0.0)


def heun(transport, t):
    """The `Recurrence` of x + dt / 2 (v(x, t) + v(x + dt v, t + dt)) over times t (K + 1,): 2K evaluations, order 2."""
    steps = np.diff(t)
    time = np.stack([t[:-1], t[1:]], axis=-1).ravel()
    update = np.zeros((len(steps), 2, 2, 4))
    update[:, 0] = trapezoid_predictor(steps)
    update[:, 1, 0, 1], update[:, 1, 0, 2] = 1.0, steps / 2  # x = memory + dt / 2 k
    update = update.reshape(-1, 2, 4)
    return Recurrence(time, table(transport, "velocity", time), update, np.zeros(len(time)), 0.0)


def trapezoid_predictor(steps):
    """(K, 2, 4): the first half of Heun's step: x + dt k to evaluate at next, and x + dt / 2 k to remember."""
    update = np.zeros((len(steps), 2, 4))
    update[:, :, 0] = 1.0
    update[:, 0, 2], update[:, 1, 2] = steps, steps / 2
    return update


def velocity_table(transport, model_fn):
    """A `derivative(x, t, field)` for `run_recurrence`: field . (x, output(x, t))."""

    def derivative(x, t, field):
        output = transport.prediction_of(model_fn(x, tf.fill(tf.shape(x)[:1], t)), x.shape[-1])
        return field[0] * x + field[1] * output

    return derivative


def velocity(transport, model_fn):
    """A `derivative(x, t)` for `dopri5`: v (N, H, W, C) at times t (N,) of each row's own."""

    def derivative(x, t):
        a, b = transport.coefficients("velocity", t[:, None, None, None])
        return a * x + b * transport.prediction_of(model_fn(x, t), x.shape[-1])

    return derivative
