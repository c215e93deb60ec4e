"""The probability flow of a DDPM chain: the ordinary differential equation with the same marginals, and no noise.

In the coordinates of Karras et al. 2022 (arXiv:2206.00364, equation 4 with s(t) = 1), where alpha = sqrt(abar),
sigma = sqrt(1 - abar), and the clean image D and the noise eps are the model's at x = alpha D + sigma eps:

    xbar = x / alpha        s = sigma / alpha        d xbar / d s = eps = (xbar - D) / s

from the largest s of the chain down to its smallest. What is left there is a step of Euler's to s = 0, which gives D.
The fixed steps are written in x, whose size stays about 1, where that of xbar begins at s, 157 with DiT's betas:

    x_b = (alpha_b / alpha_a) x_a + alpha_b (s_b - s_a) eps
"""

import numpy as np
import tensorflow as tf

from dit_tf.samplers.loop import Recurrence


def denoise(process, model_fn, clip_denoised=False):
    """derivative(x, t, field) of `run_recurrence`: k = field . (x, D), with D predicted at chain index t, a float ().

    One function for every solver of a chain, so that tables of one length share one compilation.
    """

    def derivative(x, t, field):
        index = tf.fill(tf.shape(x)[:1], tf.cast(t, tf.int32))
        return field[0] * x + field[1] * process.predict(model_fn, x, index, clip_denoised).pred_xstart

    return derivative


def euler(process):
    """`Recurrence` of T = process.num_timesteps evaluations: Euler's method, which is DDIM without noise."""
    alpha, sigma, s = _coordinates(process)
    rows = []
    for a in range(process.num_timesteps - 1, 0, -1):
        b = a - 1
        step = [alpha[b] / alpha[a], 0.0, alpha[b] * (s[b] - s[a]), 0.0]
        rows.append((a, _noise(alpha[a], sigma[a]), (step, _FORGET)))
    return _recurrence(rows)


def heun(process):
    """`Recurrence` of 2T - 1 evaluations: Heun's method, algorithm 1 of arXiv:2206.00364 over the timesteps of a chain.

    Each step evaluates at both of its ends and averages, x waiting in the memory; the last one, to s = 0, is Euler's.
    """
    alpha, sigma, s = _coordinates(process)
    rows = []
    for a in range(process.num_timesteps - 1, 0, -1):
        b = a - 1
        ratio, step = alpha[b] / alpha[a], alpha[b] * (s[b] - s[a])
        predict = [ratio, 0.0, step, 0.0], [ratio, 0.0, step / 2, 0.0]
        correct = [0.0, 1.0, step / 2, 0.0], _FORGET
        rows += [(a, _noise(alpha[a], sigma[a]), predict), (b, _noise(alpha[b], sigma[b]), correct)]
    return _recurrence(rows)


def adaptive_flow(process, model_fn, x, solve, clip_denoised=False):
    """(x_0, solution): x_T -> x_0, both (N, H, W, C) float32, by a solver that chooses its own steps.

    process: the whole chain, which is what the model knows about the times between its timesteps.
    solve(derivative, xbar, start, end): a solver of d xbar / d s = derivative(xbar, s), s (N,), from s = start to end,
        two floats of which the first is larger; its answer has the xbar of the end as `x`. One evaluation follows it.
    """
    schedule = process.schedule
    start, end = (float(schedule.sqrt_recipm1_alphas_cumprod[i]) for i in (-1, 0))
    derivative, clean = adaptive(process, model_fn, clip_denoised)
    xbar = tf.cast(x, tf.float32) * float(schedule.sqrt_recip_alphas_cumprod[-1])
    solution = solve(derivative, xbar, start, end)
    return clean(solution.x, tf.fill(tf.shape(xbar)[:1], end)), solution


def adaptive(process, model_fn, clip_denoised=False):
    """(derivative, clean): eps and D as functions of xbar (N, H, W, C) and s (N,), any s within the chain's.

    The model sees a fractional timestep, (N,) float32, linear in log s between those of the chain. Of its output the
    first C channels are eps.
    """
    timestep = _timestep(process)

    def clean(xbar, s):
        times = timestep(s)
        s = s[:, None, None, None]
        eps = tf.cast(model_fn(tf.math.rsqrt(1.0 + s * s) * xbar, times)[..., : xbar.shape[-1]], tf.float32)
        pred_xstart = xbar - s * eps
        return tf.clip_by_value(pred_xstart, -1.0, 1.0) if clip_denoised else pred_xstart

    def derivative(xbar, s):
        return (xbar - clean(xbar, s)) / s[:, None, None, None]

    return derivative, clean


def _timestep(process):
    """s (N,) -> (N,) float32: the first timestep, and of every interval between two as much as s has passed."""
    log_s = np.log(process.schedule.sqrt_recipm1_alphas_cumprod)
    shown = np.asarray(process.timestep_map)
    left, width, stride = (tf.constant(v, tf.float32) for v in (log_s[:-1], np.diff(log_s), np.diff(shown)))

    def timestep(s):
        passed = tf.clip_by_value((tf.math.log(s)[:, None] - left) / width, 0.0, 1.0)  # (N, T - 1)
        return float(shown[0]) + tf.reduce_sum(passed * stride, axis=1)

    return timestep


_FORGET = [0.0, 0.0, 0.0, 0.0]  # nothing to remember
_CLEAN = (0, (0.0, 1.0), ([0.0, 0.0, 1.0, 0.0], _FORGET))  # k = D, x = k: the step from index 0 to s = 0


def _coordinates(process):
    s = process.schedule
    return s.sqrt_alphas_cumprod, s.sqrt_one_minus_alphas_cumprod, s.sqrt_recipm1_alphas_cumprod


def _noise(alpha, sigma):
    """The field of eps = (x - alpha D) / sigma."""
    return 1 / sigma, -alpha / sigma


def _recurrence(rows):
    """`rows` of (time, field, update), and the last step."""
    time, field, update = (np.array(column, np.float64) for column in zip(*rows, _CLEAN))
    return Recurrence(time, field, update, draw=np.zeros(len(time), np.int32), kick=np.zeros(()))
