"""Bits per dimension: the variational bound of Ho et al. 2020 (arXiv:2006.11239, equation 5), term by term."""

import math
from typing import NamedTuple

import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import Gaussian, mean_flat, normal_kl
from dit_tf.runtime.seeds import Stream


class BitsPerDim(NamedTuple):
    """total_bpd and prior_bpd are (N,); vb, xstart_mse and mse are (N, T), columns in the order t = T - 1 .. 0.

    total_bpd = sum of vb over the steps + prior_bpd; mse is that of the noise, xstart_mse that of the image.
    """

    total_bpd: tf.Tensor
    prior_bpd: tf.Tensor
    vb: tf.Tensor
    xstart_mse: tf.Tensor
    mse: tf.Tensor


def bits_per_dim(process, model_fn, x, seeds, clip_denoised=True):
    """The `BitsPerDim` of images x (N, H, W, C) in [-1, 1], one noise for each step.

    The noise of step k, at t = T - 1 - k, is `seeds.at(k).normal(Stream.NOISE, (H, W, C))`. One tf.while_loop of
    static shapes: call it inside tf.function(jit_compile=True).
    """
    x = tf.cast(x, tf.float32)
    batch, num_timesteps = tf.shape(x)[0], process.num_timesteps

    def body(k, rows):
        t = tf.fill([batch], num_timesteps - 1 - k)
        noise = seeds.at(k).normal(Stream.NOISE, x.shape[1:])
        x_t = process.q_sample(x, t, noise)
        p = process.predict(model_fn, x_t, t, clip_denoised)
        terms = (
            process.vb_terms_bpd(p, x, x_t, t),
            mean_flat(tf.square(p.pred_xstart - x)),
            mean_flat(tf.square(p.eps - noise)),
        )
        # Row k of a (T, N) array instead of a TensorArray, which XLA accepts only with care for its size.
        return k + 1, tuple(tf.tensor_scatter_nd_update(r, [[k]], term[None]) for r, term in zip(rows, terms))

    rows = tuple(tf.zeros([num_timesteps, batch]) for _ in range(3))
    _, rows = tf.while_loop(lambda k, _: k < num_timesteps, body, (tf.constant(0), rows), parallel_iterations=1)
    vb, xstart_mse, mse = (tf.transpose(r) for r in rows)
    prior = prior_bpd(process, x)
    return BitsPerDim(tf.reduce_sum(vb, axis=1) + prior, prior, vb, xstart_mse, mse)


def prior_bpd(process, x):
    """(N,) bits per dimension: KL(q(x_T | x_0) || N(0, 1)), a property of the process alone."""
    last = tf.fill(tf.shape(x)[:1], process.num_timesteps - 1)
    standard = Gaussian(mean=0.0, variance=1.0, log_variance=0.0)
    return mean_flat(normal_kl(process.q_mean_variance(x, last), standard)) / math.log(2.0)
