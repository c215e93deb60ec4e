"""Power-function averages of any width after the training: Karras et al. (2024), section 3.2 and appendix C.3.

An average of relative width std after n steps has the profile p(tau) = (gamma + 1) tau^gamma / n^(gamma + 1) on [0, n].
Those saved of other widths and earlier steps have such profiles too, and the linear combination of profiles that is
nearest to the wanted one, in the L2 norm, tells how to combine the averages: the shares of the discrete steps are the
integrals of the profiles over them (`dit_tf.training.ema`), so the distance of the profiles is all the error there is.

Beyond the paper the coefficients are made to sum up to 1, so that weights that stay as they are come out as they are.
"""

from typing import NamedTuple

import numpy as np

from dit_tf.training.ema import LARGEST_STD, gamma_of

MOST_ERROR = 0.1
MOST_NOISE = 2.0**-7
_ROUNDING = 2.0**-12  # of float16, relative, as a standard deviation; of bfloat16 it is 2^-9
_STD_STEP = 0.005


class Match(NamedTuple):
    """coefficients: of the saved averages, float64. error: the distance of the combined profile from the wanted one,
    over the length of that. noise: what float16, in which weights are saved, adds to them, relative to their size."""

    coefficients: np.ndarray
    error: float
    noise: float

    @property
    def good(self):
        return self.error <= MOST_ERROR and self.noise <= MOST_NOISE


def matches(saved, step, stds):
    """saved: [(step, std), ...] of averages, none beyond the wanted step -> a `Match` for each of the wanted stds."""
    steps, gammas = np.array([(n, gamma_of(std)) for n, std in saved], np.float64).T
    wanted = np.array([gamma_of(std) for std in stds])
    gram = inner_product(steps[:, None], gammas[:, None], steps, gammas)
    towards = inner_product(steps[:, None], gammas[:, None], step, wanted)
    length = np.sqrt(np.diag(gram))  # profiles of unit length are better conditioned
    sides = np.column_stack([towards, np.ones(len(saved))]) / length[:, None]
    nearest = np.linalg.lstsq(gram / np.outer(length, length), sides, rcond=None)[0] / length[:, None]
    free, shift = nearest[:, :-1], nearest[:, -1:]
    coefficients = free + shift * (1.0 - free.sum(axis=0)) / shift.sum()  # Lagrange's way to the sum of 1
    found = []
    for x, t, square in zip(coefficients.T, towards.T, inner_product(step, wanted, step, wanted)):
        distance = np.sqrt(max(square - 2.0 * x @ t + x @ gram @ x, 0.0))
        found.append(Match(x, float(distance / np.sqrt(square)), float(np.linalg.norm(x) * _ROUNDING)))
    return found


def inner_product(step_a, gamma_a, step_b, gamma_b):
    """The integral of the product of two profiles; numbers or arrays that broadcast, float64."""
    shorter = np.minimum(step_a, step_b)
    powers = (shorter / step_a) ** gamma_a * (shorter / step_b) ** gamma_b  # none of them above 1
    return (gamma_a + 1.0) * (gamma_b + 1.0) / (gamma_a + gamma_b + 1.0) * powers * shorter / (step_a * step_b)


def widths(saved, step):
    """The relative widths that can be had of what was saved, in steps of 0.005, ascending."""
    stds = _STD_STEP * np.arange(1, int(LARGEST_STD / _STD_STEP) + 1)
    return [round(float(std), 3) for std, found in zip(stds, matches(saved, step, stds)) if found.good]
