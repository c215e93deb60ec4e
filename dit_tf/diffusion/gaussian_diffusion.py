"""DDPM with noise prediction and learned variances, as DiT trains it.

Ho et al. 2020 (arXiv:2006.11239) for the process, Nichol & Dhariwal 2021 (arXiv:2102.09672) for the variances and the
variational bound; in the notation of both, x_0 is `x_start`. Tables are float64 until they are gathered, once, as
float32; the model may compute in any dtype, its output is taken to float32 before anything else happens.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dit_tf.diffusion import respace, schedules
from dit_tf.runtime.seeds import Stream

VARIANCES = ("learned_range", "fixed_large", "fixed_small")


class Gaussian(NamedTuple):
    """A normal distribution of independent elements: mean (N, H, W, C), the others of a shape that broadcasts."""

    mean: tf.Tensor
    variance: tf.Tensor
    log_variance: tf.Tensor


class Prediction(NamedTuple):
    """What one evaluation of the model says about x_t; (N, H, W, C) except for fixed variances, (N, 1, 1, 1).

    mean, variance, log_variance: p(x_{t-1} | x_t). pred_xstart and eps agree: q_sample makes x_t of them.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    log_variance: tf.Tensor
    pred_xstart: tf.Tensor
    eps: tf.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianDiffusion:
    """A chain of T steps and what a model says about it. Every `t` is (N,) int32, an index into this chain.

    betas: (T,) float64.
    variance: of p(x_{t-1} | x_t). "learned_range": the model gives C more channels that choose between the bounds of
        the true one; "fixed_large" beta_t; "fixed_small" the posterior variance.
    timestep_map: (T,) the timestep that the model is shown at each step; None for 0 .. T - 1.
    """

    betas: np.ndarray = dataclasses.field(default_factory=schedules.linear_betas)
    variance: str = "learned_range"
    timestep_map: np.ndarray | None = None

    def __post_init__(self):
        if self.variance not in VARIANCES:
            raise ValueError(f"variance must be one of {', '.join(VARIANCES)}, got {self.variance!r}")
        if self.timestep_map is None:
            object.__setattr__(self, "timestep_map", np.arange(self.num_timesteps))
        if len(self.timestep_map) != self.num_timesteps:
            raise ValueError(f"timestep_map must have {self.num_timesteps} entries, got {len(self.timestep_map)}")

    objective = "ddpm"

    @functools.cached_property
    def schedule(self):
        return schedules.Schedule.from_betas(self.betas)

    @property
    def num_timesteps(self):
        return len(self.betas)

    @property
    def loss_names(self):
        """The keys of `training_losses`, known before anything is traced."""
        return ("loss", "mse", "vb") if self.variance == "learned_range" else ("loss", "mse")

    def respaced(self, respacing):
        """`keeping` the timesteps of a respacing such as "250" (`respace.space_timesteps`)."""
        return self.keeping(respace.space_timesteps(self.num_timesteps, respacing))

    def keeping(self, kept):
        """The process through these of its timesteps (K,), ascending; the model sees the same ones."""
        betas = respace.respaced_betas(self.schedule.alphas_cumprod, kept)
        return dataclasses.replace(self, betas=betas, timestep_map=np.asarray(self.timestep_map)[kept])

    def model_timesteps(self, t):
        """(N,) int32: the original timesteps, which the model sees."""
        return tf.gather(tf.constant(self.timestep_map, tf.int32), t)

    def clock(self, t):
        """The place between noise, 0, and data, 1, of timesteps t (N,) float32 as the model sees them."""
        return 1.0 - t / float(np.max(self.timestep_map))

    # The forward process q

    def q_mean_variance(self, x_start, t):
        """q(x_t | x_0) = N(sqrt(abar_t) x_0, 1 - abar_t)."""
        s = self.schedule
        return Gaussian(
            mean=_at(s.sqrt_alphas_cumprod, t) * x_start,
            variance=_at(1 - s.alphas_cumprod, t),
            log_variance=_at(s.log_one_minus_alphas_cumprod, t),
        )

    def q_sample(self, x_start, t, noise):
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise."""
        s = self.schedule
        return _at(s.sqrt_alphas_cumprod, t) * x_start + _at(s.sqrt_one_minus_alphas_cumprod, t) * noise

    def q_posterior(self, x_start, x_t, t):
        """q(x_{t-1} | x_t, x_0); at t = 0 the variance is 0 and its logarithm that of t = 1."""
        s = self.schedule
        return Gaussian(
            mean=_at(s.posterior_mean_coef1, t) * x_start + _at(s.posterior_mean_coef2, t) * x_t,
            variance=_at(s.posterior_variance, t),
            log_variance=_at(s.posterior_log_variance_clipped, t),
        )

    # The model's reverse process p

    def predict(self, model_fn, x, t, clip_denoised=False):
        """The `Prediction` at x = x_t (N, H, W, C), from one evaluation of `model_fn(x, original t)`."""
        return self.p_mean_variance(model_fn(x, self.model_timesteps(t)), x, t, clip_denoised)

    def p_mean_variance(self, model_output, x, t, clip_denoised=False):
        """The `Prediction` at x = x_t for a model output (N, H, W, 2C), or (N, H, W, C) with a fixed variance.

        clip_denoised: hold the predicted x_0 inside [-1, 1]: right for pixels, wrong for latents.
        """
        s = self.schedule
        eps, v = self._split(model_output, x)
        recip, recipm1 = _at(s.sqrt_recip_alphas_cumprod, t), _at(s.sqrt_recipm1_alphas_cumprod, t)
        pred_xstart = recip * x - recipm1 * eps
        if clip_denoised:
            pred_xstart = tf.clip_by_value(pred_xstart, -1.0, 1.0)
            eps = (recip * x - pred_xstart) / recipm1
        mean = self.q_posterior(pred_xstart, x, t).mean
        return Prediction(mean, *self._reverse_variance(v, t), pred_xstart, eps)

    def _reverse_variance(self, v, t):
        s = self.schedule
        if self.variance == "learned_range":
            # Equation 15 of arXiv:2102.09672; v = -1 and 1 are the bounds, and nothing keeps v between them.
            low, high = _at(s.posterior_log_variance_clipped, t), _at(s.log_betas, t)
            fraction = (v + 1.0) / 2.0
            log_variance = fraction * high + (1.0 - fraction) * low
            return tf.exp(log_variance), log_variance
        if self.variance == "fixed_small":
            return _at(s.posterior_variance, t), _at(s.posterior_log_variance_clipped, t)
        # beta_0 gives a poor decoder likelihood at t = 0; the posterior variance of t = 1 stands in (matches DiT).
        large = np.append(np.exp(s.posterior_log_variance_clipped[:1]), s.betas[1:])
        return _at(large, t), _at(np.log(large), t)

    def _split(self, model_output, x):
        """(eps, v) in float32; v is None with a fixed variance."""
        channels = x.shape[-1]
        learned = self.variance == "learned_range"
        expected = 2 * channels if learned else channels
        if model_output.shape[-1] != expected:
            raise ValueError(f"variance {self.variance!r} on {channels} channels needs a model output of {expected} "
                             f"channels, got {model_output.shape[-1]}")
        model_output = tf.cast(model_output, tf.float32)
        return tf.split(model_output, 2, axis=-1) if learned else (model_output, None)

    # Losses

    def training_losses(self, model_fn, x, seeds):
        """`losses_at` a timestep and a noise of each row's own, both from `seeds`; x (N, H, W, C) are clean images."""
        return self.losses_at(model_fn, x, self._training_t(seeds), seeds.normal(Stream.NOISE, x.shape[1:]))

    def quarter(self, seeds):
        """(N,) int32, 0 to 3: the quarter of 0 .. T - 1 that holds each row's timestep in `training_losses`."""
        return 4 * self._training_t(seeds) // self.num_timesteps

    def _training_t(self, seeds):
        return seeds.integers(Stream.TIME, self.num_timesteps)

    def losses_at(self, model_fn, x, t, noise):
        """{"loss", "mse", "vb"}, each (N,) float32: loss = mse + vb; without a learned variance there is no "vb".

        mse: squared error of the predicted noise, mean over H, W, C.
        vb: the term of the variational bound in bits per dimension, which trains the variance alone: the mean in it
            is detached. It enters with weight 1, not divided by T (matches DiT).
        """
        x = tf.cast(x, tf.float32)
        x_t = self.q_sample(x, t, noise)
        model_output = model_fn(x_t, self.model_timesteps(t))
        eps, v = self._split(model_output, x)
        mse = mean_flat(tf.square(noise - eps))
        if v is None:
            return {"loss": mse, "mse": mse}
        detached = tf.concat([tf.stop_gradient(eps), v], axis=-1)
        vb = self.vb_terms_bpd(self.p_mean_variance(detached, x_t, t), x, x_t, t)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def vb_terms_bpd(self, prediction, x_start, x_t, t):
        """(N,) bits per dimension: KL(q(x_{t-1} | x_t, x_0) || p), at t = 0 the NLL of x_0 in bins of 2 / 255.

        The bins are those of 8-bit pixels although the data may be latents (matches DiT).
        """
        kl = normal_kl(self.q_posterior(x_start, x_t, t), prediction)
        nll = -discretized_gaussian_log_likelihood(x_start, prediction.mean, 0.5 * prediction.log_variance)
        return tf.where(t == 0, mean_flat(nll), mean_flat(kl)) / math.log(2.0)


def normal_kl(p, q):
    """KL(p || q) in nats, element by element; p and q have `mean` and `log_variance`."""
    log_ratio = p.log_variance - q.log_variance
    squares = tf.square(p.mean - q.mean) * tf.exp(-q.log_variance)
    # expm1: near the prior the ratio is about 1 and exp(.) - 1 would keep nothing but rounding.
    return 0.5 * (tf.math.expm1(log_ratio) - log_ratio + squares)


def discretized_gaussian_log_likelihood(x, means, log_scales):
    """log P(bin of x) in nats under N(means, exp(log_scales)^2), for x in [-1, 1] in bins of width 2 / 255.

    The outermost bins reach to infinity.
    """
    inverse_scale = tf.exp(-log_scales)
    below = approximate_normal_cdf(inverse_scale * (x - means - 1.0 / 255.0))
    above = approximate_normal_cdf(inverse_scale * (x - means + 1.0 / 255.0))
    probability = tf.where(x < -0.999, above, tf.where(x > 0.999, 1.0 - below, above - below))
    return tf.math.log(tf.maximum(probability, 1e-12))


def approximate_normal_cdf(x):
    """Page's approximation (1977), 0.5 (1 + tanh u), off by at most 2e-4; likelihoods are reported with it.

    Bins in the tails are differences of two values next to 0 or 1, so an ulp of tanh shows in the logarithm. Written
    with exp, tanh is right to the last bit there on every device; the library's rational approximations are not.
    """
    x = tf.clip_by_value(x, -6.0, 6.0)  # tanh u is 1 in float32 from here on; gradients of the cube must not overflow
    u = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    negative = u < 0.0
    tanh = 1.0 - 2.0 / (1.0 + tf.exp(2.0 * tf.where(negative, -u, u)))
    return 0.5 * (1.0 + tf.where(negative, -tanh, tanh))


def mean_flat(x):
    """(N, H, W, C) -> (N,): the mean over everything but the batch."""
    return tf.reduce_mean(x, axis=(1, 2, 3))


def _at(table, t):
    """(N, 1, 1, 1) float32: the entries of a float64 table at t (N,)."""
    return tf.gather(tf.constant(table, tf.float32), t)[:, None, None, None]
