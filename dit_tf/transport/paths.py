"""Paths between noise and data, x_t = alpha(t) x_1 + sigma(t) x_0, as SiT trains on them (Ma et al. 2024,
arXiv:2401.08740; the public code's transport/path.py).

The clock, here and in every sampler: t = 0 is noise (x_0 ~ N(0, 1)) and t = 1 is data (x_1), as in the public code.
The paper, the notes that follow it and REPA run it the other way: their time is `paper_time(t)`, their velocity
`paper_velocity(v)`, and their diffusion coefficient w_t is `paper_diffusion(w)` where the code says w.
"""

import dataclasses
import math
from typing import NamedTuple

import tensorflow as tf


class Point(NamedTuple):
    """A path at t: tensors of the shape and the dtype of t."""

    alpha: tf.Tensor
    sigma: tf.Tensor
    d_alpha: tf.Tensor
    d_sigma: tf.Tensor

    @property
    def wronskian(self):
        """alpha' sigma - alpha sigma', positive: how fast the signal-to-noise ratio rises, times sigma^2."""
        return self.d_alpha * self.sigma - self.alpha * self.d_sigma

    @property
    def kl_diffusion(self):
        """w = sigma (alpha' sigma - alpha sigma') / alpha, so that velocity = (alpha' / alpha) x + w score.

        The diffusion of the score-based SDE with the same marginals ("SBDM" in the public code); infinite where alpha
        is 0, at the noise end of Linear and GVP, and undefined at the data end of VP, where sigma' is infinite.
        """
        return self.sigma * self.wronskian / self.alpha


@dataclasses.dataclass(frozen=True)
class Linear:
    """alpha = t, sigma = 1 - t."""

    def at(self, t):
        t = tf.convert_to_tensor(t)
        return Point(t, 1.0 - t, tf.ones_like(t), -tf.ones_like(t))


@dataclasses.dataclass(frozen=True)
class GVP:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): the variance of the sum stays that of its parts."""

    def at(self, t):
        rate = math.pi / 2.0
        sin, cos = tf.sin(rate * t), tf.cos(rate * t)
        return Point(sin, cos, rate * cos, -rate * sin)


@dataclasses.dataclass(frozen=True)
class VP:
    """The variance-preserving diffusion of Song et al. 2021 (arXiv:2011.13456) with u = 1 - t as its clock:
    log alpha = -u^2 (beta_max - beta_min) / 4 - u beta_min / 2, sigma^2 = 1 - alpha^2.

    It ends in data at t = 1 exactly, where sigma' is infinite, and starts at alpha = 0.0066, not 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def at(self, t):
        u = 1.0 - tf.convert_to_tensor(t)
        rise = self.beta_max - self.beta_min
        log_alpha = -0.25 * rise * u**2 - 0.5 * self.beta_min * u
        d_log_alpha = 0.5 * (rise * u + self.beta_min)
        alpha = tf.exp(log_alpha)
        sigma = tf.sqrt(-tf.math.expm1(2.0 * log_alpha))  # expm1: 1 - alpha^2 would lose sigma's digits near data
        return Point(alpha, sigma, alpha * d_log_alpha, -(alpha**2) * d_log_alpha / sigma)


PATHS = {"linear": Linear(), "gvp": GVP(), "vp": VP()}
PREDICTIONS = ("velocity", "score", "noise")


def conversion(source, target, point):
    """(a, b), of the shape of t, such that target = a x_t + b source for the same x_t; both of PREDICTIONS.

    With noise = E[x_0 | x_t]: score = -noise / sigma, and velocity = (alpha' x_t - (alpha' sigma - alpha sigma') noise)
    / alpha. Between velocity and noise nothing is divided by sigma, from velocity nothing by alpha.
    """
    zero, one = tf.zeros_like(point.alpha), tf.ones_like(point.alpha)
    if source == target:
        return zero, one
    to_noise = {
        "velocity": (point.d_alpha / point.wronskian, -point.alpha / point.wronskian),
        "score": (zero, -point.sigma),
        "noise": (zero, one),
    }
    a, b = to_noise[source]
    if target == "noise":
        return a, b
    if target == "score":
        return -a / point.sigma, -b / point.sigma
    return (point.d_alpha - point.wronskian * a) / point.alpha, -point.wronskian * b / point.alpha


def paper_time(t):
    """This clock to the paper's, or back: there t = 0 is data and t = 1 noise."""
    return 1.0 - t


def paper_velocity(v):
    """dx/dt on this clock to dx/dt on the paper's, or back."""
    return -v


def paper_diffusion(w):
    """The public code's w, of drift v + w score and noise sqrt(2 w) dW, to the paper's w_t, of sqrt(w_t) dW."""
    return 2.0 * w


def code_diffusion(w_t):
    """The paper's w_t to the public code's w: the inverse of `paper_diffusion`."""
    return 0.5 * w_t
