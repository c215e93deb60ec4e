"""The learning rate as a function of the step, so that a resumed run has the unbroken one's.

    steps 1 .. w           rate s / w                                  w: warm-up steps
    constant               rate
    linear                 rate (1 - p)                                p = (s - 1 - w) / (n - w), of n steps in all
    cosine                 rate (1 + cos(pi p)) / 2                    Loshchilov and Hutter (2017), without restarts

The paper's is constant without warm-up.
"""

import dataclasses
import math

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Schedule:
    """rate: the highest; form: one of config.SCHEDULES; steps: of linear and cosine, at which they are 0."""

    rate: float
    warmup_steps: int = 0
    form: str = "constant"
    steps: int = 0

    @property
    def constant(self):
        return self.form == "constant" and not self.warmup_steps

    def at(self, step):
        """The rate of that step, counted from 1: a float where it is constant, else of an int32 tensor float32 ()."""
        if self.constant:
            return self.rate
        step = tf.cast(step, tf.float32)
        falling = self.rate * self._share(step)
        return tf.where(step <= self.warmup_steps, self.rate * step / max(self.warmup_steps, 1), falling)

    def _share(self, step):
        if self.form == "constant":
            return tf.ones_like(step)
        done = (step - 1.0 - self.warmup_steps) / (self.steps - self.warmup_steps)
        done = tf.clip_by_value(done, 0.0, 1.0)
        return 1.0 - done if self.form == "linear" else 0.5 * (1.0 + tf.cos(math.pi * done))
