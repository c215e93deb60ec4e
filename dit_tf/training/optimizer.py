"""AdamW as a pure function of tensors, so that the same update runs in `fit`, on a TPU and in its compiler."""

import dataclasses
import math

import tensorflow as tf

from dit_tf.training.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Loshchilov and Hutter (2019), algorithm 2, with epsilon inside the bias correction as in the reference training.

    The DiT recipe: 1e-4 constant, no decay, no warm-up, no clipping. (Keras' Adam puts 1e-7 outside the correction.)
    """

    schedule: Schedule = Schedule(1e-4)
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0  # decoupled; per step the weights shrink by learning_rate * weight_decay

    def update(self, params, m, v, gradients, step):
        """Lists of equal shapes, float32; step counts updates from 1 -> new params, m, v."""
        correction_1 = _one_minus_power(self.beta_1, step)
        correction_2 = _one_minus_power(self.beta_2, step)
        new_m = [self.beta_1 * a + (1.0 - self.beta_1) * g for a, g in zip(m, gradients)]
        new_v = [self.beta_2 * a + (1.0 - self.beta_2) * tf.square(g) for a, g in zip(v, gradients)]
        learning_rate = self.schedule.at(step)
        rate, decay = learning_rate / correction_1, 1.0 - learning_rate * self.weight_decay
        root = tf.math.rsqrt(correction_2)
        new_params = [
            decay * p - rate * a / (tf.sqrt(b) * root + self.epsilon) for p, a, b in zip(params, new_m, new_v)
        ]
        return new_params, new_m, new_v


def _one_minus_power(beta, step):
    """1 - beta^step without the cancellation that costs float32 four digits at the first step."""
    return -tf.math.expm1(tf.cast(step, tf.float32) * math.log(beta))
