"""Moving averages of the weights: exponential ones, and the power functions of Karras et al. (2024), section 3.1.

An average's `rate(step)` is the share of the weights after that step, counted from 1, in the average after it. Over n
steps the weights of step t have a share of

    exponential       (1 - decay) decay^(n - t), the initial weights decay^n
    power function    (t^(gamma + 1) - (t - 1)^(gamma + 1)) / n^(gamma + 1), the initial weights none

which is, of the power function, the integral of its profile (gamma + 1) tau^gamma / n^(gamma + 1) over step t: its
shape stretches with the training. Its relative width, std, is the profile's standard deviation over n.
"""

import dataclasses

import numpy as np
import tensorflow as tf

LARGEST_STD = 12**-0.5  # gamma is 0 there, and all steps weigh the same


@dataclasses.dataclass(frozen=True)
class Exponential:
    decay: float

    @property
    def name(self):
        """In checkpoints, so part of the file format."""
        return f"ema_decay_{self.decay}"

    def rate(self, step):
        return 1.0 - self.decay

    def share_before(self, began, step):
        """How much of the average after `step` lies before the step `began`."""
        return self.decay ** (step - began) if began else 0.0


@dataclasses.dataclass(frozen=True)
class PowerFunction:
    std: float  # above 0 and below LARGEST_STD

    @property
    def name(self):
        """In checkpoints, so part of the file format."""
        return f"ema_std_{self.std}"

    @property
    def gamma(self):
        return gamma_of(self.std)

    def rate(self, step):
        """1 - (1 - 1 / step)^(gamma + 1), which is 1 at the first; step: int32 tensor."""
        later = tf.maximum(tf.cast(step, tf.float32), 2.0)
        return tf.where(step > 1, -tf.math.expm1((self.gamma + 1.0) * tf.math.log1p(-1.0 / later)), 1.0)

    def share_before(self, began, step):
        """How much of the average after `step` lies before the step `began`."""
        return (began / step) ** (self.gamma + 1.0)


def ema_update(ema, params, rate):
    """ema <- (1 - rate) ema + rate params, lists of float32 tensors; it starts as an exact copy of the weights."""
    return [average + rate * (p - average) for average, p in zip(ema, params)]


def gamma_of(std):
    """The gamma >= 0 of a relative width up to LARGEST_STD, which is a root of
    std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))."""
    precision = float(std) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max())


def std_of(gamma):
    return (gamma + 1.0) ** 0.5 / ((gamma + 2.0) * (gamma + 3.0) ** 0.5)
