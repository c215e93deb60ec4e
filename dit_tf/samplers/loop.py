"""The one loop that every sampler of a known number of steps goes through."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dit_tf.runtime.seeds import Stream


def run_steps(body, x, num_steps):
    """The state after `body(k, x) -> x` has run for k = 0 .. num_steps - 1, in one tf.while_loop.

    x: the state, a tensor or a nest of tensors; `body` returns the same structure, shapes and dtypes.
    num_steps: Python int, so that the trip count is static and XLA compiles the loop for CPU, GPU and TPU.
    body: a function of tensors; k is an int32 scalar tensor. Under eager execution it runs step by step.

    Whoever calls decides about compilation: put the sampler inside one tf.function(jit_compile=True).
    """
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    x = tf.nest.map_structure(tf.convert_to_tensor, x)
    _, x = tf.while_loop(
        lambda k, _: k < num_steps,
        lambda k, x: (k + 1, body(k, x)),
        (tf.constant(0), x),
        parallel_iterations=1,  # each step needs the one before: more would only hold buffers
    )
    return x


class Recurrence(NamedTuple):
    """A solver of fixed steps as data: row j says where the model is evaluated, and what becomes of its output.

        k         = field_j . (x, output(x, time_j))           a velocity, a drift, a clean image: the solver's matter
        x, memory = update_j . (x, memory, k, noise_draw_j)

    Euler and Heun, Euler-Maruyama, multistep: each is a table, made in float64 and cast once, and one compiled loop of
    one evaluation per turn runs them all; another table of the same length needs no compilation.

    time: (E,). field: (E, 2). update: (E, 2, 4). draw: (E,), which noise of the run goes in. kick: (), how much of
    noise 0 is added to x before the first evaluation.
    """

    time: np.ndarray
    field: np.ndarray
    update: np.ndarray
    draw: np.ndarray
    kick: np.ndarray

    @property
    def evaluations(self):
        return self.time.shape[0]

    def cast(self):
        """The table as the loop takes it: float32, and int32 draws."""
        dtypes = dict.fromkeys(self._fields, np.float32) | dict(draw=np.int32)
        return Recurrence(**{name: np.asarray(array, dtypes[name]) for name, array in self._asdict().items()})


def run_recurrence(derivative, x, recurrence, seeds=None):
    """x after all rows of a `Recurrence`.

    derivative(x, t, field): k, of the structure of x; t and field are a row's time () and field (2,), float32.
    x: (N, H, W, C) float32; without noise, any nest of tensors.
    seeds: `RowSeeds`, or None for a solver without noise; noise k is `seeds.at(k).normal(Stream.STEP, (H, W, C))`.
    """
    if not tf.is_tensor(recurrence.time):
        recurrence = recurrence.cast()
    time, field, update, draw, kick = (tf.convert_to_tensor(array) for array in recurrence)

    def noise(k):
        return seeds.at(k).normal(Stream.STEP, x.shape[1:])

    def combine(weights):
        return lambda *parts: tf.add_n([weights[i] * part for i, part in enumerate(parts)])

    def body(j, state):
        x, memory = state
        parts = [x, memory, derivative(x, time[j], field[j])] + ([] if seeds is None else [noise(draw[j])])
        return tuple(tf.nest.map_structure(combine(update[j, row]), *parts) for row in range(2))

    start = x if seeds is None else x + kick * noise(0)
    return run_steps(body, (start, tf.nest.map_structure(tf.zeros_like, start)), recurrence.evaluations)[0]
