"""Stochastic sampling of a SiT (Ma et al. 2024, arXiv:2401.08740, section 2.4): for any diffusion w(t) >= 0

    dx = (v + w score) dt + sqrt(2 w) dW

has the marginals of the path. This w is that of the public code, half of the paper's w_t (`paths.paper_diffusion`).
The paper's setting is Euler-Maruyama with 250 steps, the last of them, from t = 0.96, without noise.
"""

import math

import numpy as np
import tensorflow as tf

from dit_tf.samplers.loop import Recurrence
from dit_tf.samplers.ode import table, time_grid, trapezoid_predictor

DIFFUSIONS = ("constant", "sbdm", "sigma", "linear", "decreasing", "increasing_decreasing", "kl", "kl_eta")
SINGULAR_AT_NOISE = ("sbdm", "kl")  # they divide by alpha, which is 0 there on Linear and GVP
LAST_STEPS = ("none", "mean", "tweedie", "euler")


def diffusion(form, path, t, norm=1.0, eta=0.01):
    """w (E,) float64 at times t (E,), one of DIFFUSIONS.

    constant norm; sbdm norm * `kl_diffusion`; sigma norm * sigma; linear norm (1 - t); decreasing
    (norm cos(pi t) + 1)^2 / 4; increasing_decreasing norm sin^2(pi t), which the public code misspells in one place, so
    that there it cannot be reached.
    kl: the paper's w_t^KL = 2 w, which minimises its bound on the divergence: sbdm with norm 1.
    kl_eta: the paper's w_t^{KL,eta} = w_t^KL sqrt(L / (L + 2 eta (w_t^KL)^2)), which pays for w_t and is finite at
        noise. L, the model's loss at t, is taken as 1: eta is in units of it.
    """
    t = np.asarray(t, np.float64)
    with tf.init_scope():
        p = path.at(t)
        alpha, sigma, rise = (np.asarray(a) for a in (p.alpha, p.sigma, p.sigma * p.wronskian))
    match form:
        case "constant":
            return np.full_like(t, norm)
        case "sbdm":
            return norm * rise / alpha
        case "kl":
            return rise / alpha
        case "kl_eta":
            return rise / np.sqrt(alpha**2 + 8.0 * eta * rise**2)
        case "sigma":
            return norm * sigma
        case "linear":
            return norm * (1.0 - t)
        case "decreasing":
            return 0.25 * (norm * np.cos(math.pi * t) + 1.0) ** 2
        case "increasing_decreasing":
            return norm * np.sin(math.pi * t) ** 2
    raise ValueError(f"--diffusion must be one of {', '.join(DIFFUSIONS)}, got {form!r}.")


def sde_times(transport, form, num_steps, last_step, last_step_size=0.04, shift=1.0):
    """The times of the noisy steps: (num_steps,) up to 1 - last_step_size where a last step follows, else one more."""
    start, end = transport.sde_interval(form in SINGULAR_AT_NOISE)
    if last_step == "none":
        return time_grid((start, end), num_steps, shift)
    return time_grid((start, 1.0 - last_step_size), num_steps - 1, shift)


def euler_maruyama(transport, t, w, last_step="mean", last_step_size=0.04):
    """The `Recurrence` of x + dt (v + w score) + sqrt(2 w dt) noise over times t, and the last step.

    w: a function of times (E,) -> (E,), such as `diffusion`.
    """
    steps, now = np.diff(t), t[:-1]
    update = np.zeros((len(steps), 2, 4))
    update[:, 0, 0], update[:, 0, 2], update[:, 0, 3] = 1.0, steps, np.sqrt(2.0 * w(now) * steps)
    rows = now, drift(transport, now, w), update, np.arange(len(steps))
    return _with_last_step(rows, transport, t[-1], w, last_step, last_step_size, kick=0.0)


def heun(transport, t, w, last_step="mean", last_step_size=0.04):
    """The `Recurrence` of the public code's stochastic Heun: noise first, sqrt(2 w dt) at the step's start, then Heun's
    rule for the drift v + w score. Two evaluations a step, one for the last."""
    steps, time = np.diff(t), np.stack([t[:-1], t[1:]], axis=-1).ravel()
    noise = np.sqrt(2.0 * w(t[:-1]) * steps)
    update = np.zeros((len(steps), 2, 2, 4))
    update[:, 0] = trapezoid_predictor(steps)
    update[:, 1, 0, 1], update[:, 1, 0, 2] = 1.0, steps / 2
    update[:-1, 1, 0, 3] = noise[1:]  # a step ends with the noise of the next
    rows = time, drift(transport, time, w), update.reshape(-1, 2, 4), np.arange(1, len(time) + 1) // 2
    return _with_last_step(rows, transport, t[-1], w, last_step, last_step_size, kick=noise[0] if len(noise) else 0.0)


def drift(transport, t, w):
    """(E, 2) float64: v + w score as a combination of (x, output)."""
    return table(transport, "velocity", t) + w(t)[:, None] * table(transport, "score", t)


def _with_last_step(rows, transport, t, w, last_step, size, kick):
    """The table with one more row, without noise, from t to t + size: the step "mean" of the SDE, the step "euler" of
    the ODE, or the expected data, "tweedie"."""
    if last_step not in LAST_STEPS:
        raise ValueError(f"--last_step must be one of {', '.join(LAST_STEPS)}, got {last_step!r}.")
    if last_step == "none":
        return Recurrence(*rows, kick)
    now, update = np.array([t]), np.zeros((1, 2, 4))
    if last_step == "tweedie":
        field = table(transport, "score", now)
        with tf.init_scope():
            p = transport.path.at(np.float64(t))
            update[0, 0, 0], update[0, 0, 2] = 1.0 / p.alpha, p.sigma**2 / p.alpha
    else:
        field = drift(transport, now, w) if last_step == "mean" else table(transport, "velocity", now)
        update[0, 0, 0], update[0, 0, 2] = 1.0, size
    row = now, field, update, np.array([0])
    return Recurrence(*(np.concatenate(parts) for parts in zip(rows, row)), kick)
