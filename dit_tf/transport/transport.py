"""Flow matching and its relatives: what a SiT learns on a path, and where its times may lie."""

import dataclasses

import tensorflow as tf

from dit_tf.runtime.seeds import Stream
from dit_tf.transport.paths import GVP, PATHS, PREDICTIONS, VP, Linear, conversion

LOSS_WEIGHTS = ("none", "velocity", "likelihood")
TIME_DISTRIBUTIONS = ("uniform", "logit_normal")
TRAIN_EPS = {VP: 1e-5, Linear: 1e-3, GVP: 1e-3}  # how close to a singular end times may come
SAMPLE_EPS = 1e-3


@dataclasses.dataclass(frozen=True)
class Transport:
    """A path and what the model predicts on it. Every t is (N,) float32, 0 noise and 1 data, shown to the model as is.

    prediction: "velocity" dx/dt, "score" of p(x_t), or "noise", the expected x_0.
    loss_weight: of score and noise predictions. "velocity" makes their loss that of the velocity they imply,
        "likelihood" the bound on the likelihood (Song et al. 2021, arXiv:2101.09258). A velocity model has weight 1 in
        any case (matches SiT).
    time_distribution: of training times, "uniform" or "logit_normal", the logistic of N(0, 1) (Esser et al. 2024,
        arXiv:2403.03206).
    """

    path: Linear | GVP | VP = PATHS["linear"]
    prediction: str = "velocity"
    loss_weight: str = "none"
    time_distribution: str = "uniform"

    objective = "flow"
    loss_names = ("loss", "mse")

    def __post_init__(self):
        for name, allowed in (
            ("prediction", PREDICTIONS),
            ("loss_weight", LOSS_WEIGHTS),
            ("time_distribution", TIME_DISTRIBUTIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}.")

    def training_losses(self, model_fn, x, seeds):
        """`losses_at` a time and a noise of each row's own, both from `seeds`; x (N, H, W, C) are data."""
        return self.losses_at(model_fn, x, self._training_t(seeds), seeds.normal(Stream.NOISE, x.shape[1:]))

    def quarter(self, seeds):
        """(N,) int32, 0 to 3: the quarter of [0, 1] that holds each row's time in `training_losses`."""
        return tf.minimum(tf.cast(4.0 * self._training_t(seeds), tf.int32), 3)

    def _training_t(self, seeds):
        if self.time_distribution == "logit_normal":
            u = tf.sigmoid(seeds.normal(Stream.TIME))
        else:
            u = seeds.uniform(Stream.TIME)
        start, end = self.train_interval
        return start + (end - start) * u

    def losses_at(self, model_fn, x, t, noise):
        """{"loss", "mse"}, each (N,) float32, means over H, W, C; mse is the squared error without its weight.

        The error is that of the predicted velocity, noise, or sigma score + noise.
        """
        x = tf.cast(x, tf.float32)
        p = self.path.at(t[:, None, None, None])
        output = self.prediction_of(model_fn(p.alpha * x + p.sigma * noise, t), x.shape[-1])
        if self.prediction == "velocity":
            mse = _mean_flat(tf.square(output - (p.d_alpha * x + p.d_sigma * noise)))
            return {"loss": mse, "mse": mse}
        mse = _mean_flat(tf.square(noise + (p.sigma * output if self.prediction == "score" else -output)))
        return {"loss": self._weight(t) * mse, "mse": mse}

    def _weight(self, t):
        p = self.path.at(t)
        if self.loss_weight == "velocity":
            return tf.square(p.wronskian / p.alpha)
        if self.loss_weight == "likelihood":
            return p.kl_diffusion / tf.square(p.sigma)
        return tf.ones_like(t)

    def prediction_of(self, model_output, channels):
        """The first C channels in float32: released SiTs have 2C, of which the last are unused (matches SiT)."""
        return tf.cast(model_output[..., :channels], tf.float32)

    def coefficients(self, target, t):
        """(a, b) with target = a x_t + b output: what a model's output says of the "velocity", "score" or "noise"."""
        return conversion(self.prediction, target, self.path.at(t))

    def clock(self, t):
        """The place between noise, 0, and data, 1, of times t (N,) as the model sees them: the same."""
        return t

    @property
    def train_interval(self):
        """(start, end) of training times."""
        eps = TRAIN_EPS[type(self.path)]
        if isinstance(self.path, VP):
            return 0.0, 1.0 - eps  # alpha is never 0, sigma is 0 at data
        return (0.0, 1.0) if self.prediction == "velocity" else (eps, 1.0 - eps)

    @property
    def ode_interval(self):
        """(start, end) of the probability flow, where the velocity that the model implies is finite."""
        if isinstance(self.path, VP):
            return 0.0, 1.0 - SAMPLE_EPS
        return (0.0, 1.0) if self.prediction == "velocity" else (SAMPLE_EPS, 1.0 - SAMPLE_EPS)

    def sde_interval(self, singular_at_noise):
        """(start, end) of stochastic sampling, where velocity, score and diffusion are finite.

        singular_at_noise: whether the diffusion coefficient divides by alpha, as the score-based one does. The public
        code starts from 0 there for velocity models, and is NaN from the first step.
        """
        starts_at_zero = isinstance(self.path, VP) or (self.prediction == "velocity" and not singular_at_noise)
        return 0.0 if starts_at_zero else SAMPLE_EPS, 1.0 - SAMPLE_EPS


def _mean_flat(x):
    return tf.reduce_mean(x, axis=(1, 2, 3))
