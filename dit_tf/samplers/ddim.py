"""DDIM (Song et al. 2021, arXiv:2010.02502): the same model with less noise, or none, between its steps."""

import numpy as np
import tensorflow as tf

from dit_tf.runtime.seeds import Stream
from dit_tf.samplers.loop import run_steps


def ddim(process, model_fn, x, seeds, eta=0.0, clip_denoised=False):
    """x_T -> x_0, both (N, H, W, C) float32, in process.num_timesteps steps of one model evaluation each.

    Equation 12: x_{t-1} = sqrt(abar_{t-1}) x_0 + sqrt(1 - abar_{t-1} - sigma^2) eps + sigma noise.

    eta: sigma in units of the posterior's standard deviation, in [0, 1]. 0 is deterministic and draws nothing (seeds
    may be None); 1 is ancestral sampling with the small variance. The noise of step k, at t = T - 1 - k, is
    `seeds.at(k).normal(Stream.STEP, (H, W, C))`.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    s = process.schedule
    sigma = eta * np.sqrt(s.posterior_variance)  # 0 at t = 0: the last step is free of noise
    eps_scale = np.sqrt(np.maximum(1 - s.alphas_cumprod_prev - sigma**2, 0))
    step = _step(process, model_fn, np.sqrt(s.alphas_cumprod_prev), eps_scale, clip_denoised)

    def body(k, x):
        t = process.num_timesteps - 1 - k
        x = step(t, x)
        if eta:
            x += _entry(sigma, t) * seeds.at(k).normal(Stream.STEP, x.shape[1:])
        return x

    return run_steps(body, tf.cast(x, tf.float32), process.num_timesteps)


def ddim_invert(process, model_fn, x, clip_denoised=False):
    """x_0 -> x_T: the deterministic sampler run the other way, t = 0 .. T - 1 (section 4.3 of the paper).

    x_{t+1} = sqrt(abar_{t+1}) x_0 + sqrt(1 - abar_{t+1}) eps, with x_0 and eps as predicted at t. abar ends with 0, so
    the result is the last predicted noise. Sampling from it returns x up to the step size.
    """
    s = process.schedule
    step = _step(process, model_fn, np.sqrt(s.alphas_cumprod_next), np.sqrt(1 - s.alphas_cumprod_next), clip_denoised)
    return run_steps(step, tf.cast(x, tf.float32), process.num_timesteps)


def _step(process, model_fn, xstart_scale, eps_scale, clip_denoised):
    """(t, x) -> xstart_scale[t] x_0 + eps_scale[t] eps, both predicted at (x, t); t an int32 scalar."""

    def step(t, x):
        p = process.predict(model_fn, x, tf.fill(tf.shape(x)[:1], t), clip_denoised)
        return _entry(xstart_scale, t) * p.pred_xstart + _entry(eps_scale, t) * p.eps

    return step


def _entry(table, t):
    return tf.gather(tf.constant(table, tf.float32), t)
