"""Ancestral sampling: algorithm 2 of Ho et al. 2020 (arXiv:2006.11239)."""

import tensorflow as tf

from dit_tf.runtime.seeds import Stream
from dit_tf.samplers.loop import run_steps


def ddpm(process, model_fn, x, seeds, clip_denoised=False):
    """x_T -> x_0, both (N, H, W, C) float32, in process.num_timesteps steps of one model evaluation each.

    x_{t-1} = mean + sigma noise; there is no noise at t = 0, where the mean is the answer. The noise of step k, at
    t = T - 1 - k, is `seeds.at(k).normal(Stream.STEP, (H, W, C))`.
    """
    last = process.num_timesteps - 1

    def body(k, x):
        t = last - k
        p = process.predict(model_fn, x, tf.fill(tf.shape(x)[:1], t), clip_denoised)
        noise = seeds.at(k).normal(Stream.STEP, x.shape[1:])
        return tf.where(t > 0, p.mean + tf.exp(0.5 * p.log_variance) * noise, p.mean)

    return run_steps(body, tf.cast(x, tf.float32), process.num_timesteps)
