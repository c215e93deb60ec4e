"""log p(x) of a SiT: its probability flow run from data to noise, with the density that it carries along.

d log p(x_t, t) / dt = -div v(x_t, t) (Chen et al. 2018, arXiv:1806.07366, theorem 1), with the divergence estimated by
Hutchinson's probe (Grathwohl et al. 2019, arXiv:1810.01367).
"""

import functools
import math

import numpy as np
import tensorflow as tf

from dit_tf.runtime.seeds import Stream
from dit_tf.samplers import ode
from dit_tf.samplers.dopri5 import dopri5
from dit_tf.samplers.loop import run_recurrence

SOLVERS = ("dopri5", "heun", "euler")


def hutchinson(velocity, x, t, probe):
    """(v (N, H, W, C), probe . J probe (N,)) at x and times t (N,), J = dv / dx.

    Unbiased for a probe (N, H, W, C) of independent signs. The same probe must serve a whole trajectory: an adaptive
    solver would take the noise of fresh ones for stiffness, and shrink its steps without end.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        v = velocity(x, t)
    pulled_back = tape.gradient(v, x, output_gradients=probe, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return v, tf.reduce_sum(pulled_back * probe, axis=(1, 2, 3))


def exact_divergence(velocity, x, t):
    """The same with the trace of J itself, at one gradient per entry of x: for small x."""
    size = math.prod(x.shape[1:])
    total = tf.zeros(tf.shape(x)[:1])
    for i in range(size):
        probe = tf.broadcast_to(tf.reshape(tf.one_hot(i, size), (1, *x.shape[1:])), tf.shape(x))
        v, entry = hutchinson(velocity, x, t, probe)
        total += entry
    return v, total


def log_likelihood(transport, model_fn, x, divergence, *, solver="dopri5", num_steps=None, atol=1e-5, rtol=1e-5):
    """(log p (N,) in nats, z (N, H, W, C), evaluations (N,) int32, finished (N,) bool) of x, taken as x_t at the end
    of `transport.ode_interval`; z is where the flow puts it at the noise end, whose density is N(0, 1).

    divergence(velocity, x, t) -> (v, div v): `hutchinson` with its probe, or `exact_divergence`.
    solver: "dopri5", or "euler" or "heun" with num_steps steps.
    """
    start, end = transport.ode_interval
    state, rows = (x, tf.zeros(tf.shape(x)[:1])), tf.shape(x)[:1]
    if solver == "dopri5":
        velocity = ode.velocity(transport, model_fn)
        solution = dopri5(lambda state, t: divergence(velocity, state[0], t), state, end, start, atol=atol, rtol=rtol)
        (z, gained), evaluations, finished = solution.x, solution.evaluations, solution.finished
    else:
        table = (ode.euler if solver == "euler" else ode.heun)(transport, ode.time_grid((end, start), num_steps))
        (z, gained) = run_recurrence(_tabled(transport, model_fn, divergence), state, table)
        evaluations, finished = tf.fill(rows, table.evaluations), tf.fill(rows, True)
    prior = tf.reduce_sum(-0.5 * (tf.square(z) + math.log(2.0 * math.pi)), axis=(1, 2, 3))
    return prior + gained, z, evaluations, finished


def _tabled(transport, model_fn, divergence):
    velocity_at = ode.velocity_table(transport, model_fn)

    def derivative(state, t, field):
        return divergence(lambda x, _: velocity_at(x, t, field), state[0], tf.fill(tf.shape(state[0])[:1], t))

    return derivative


def bits_per_dim(transport, model_fn, x, seeds, bin_width=None, **solver):
    """(bits per dimension (N,), evaluations (N,), finished (N,)) of data x (N, H, W, C), one probe per image.

    bin_width: of data on a grid, such as 2 / 255 for 8-bit pixels in [-1, 1]. Noise inside the bins makes the result an
        upper bound of the discrete likelihood's bits (Theis et al. 2016, arXiv:1511.01844). None: that of the density.
    solver: that of `log_likelihood`.
    """
    shape = x.shape[1:]
    if bin_width is not None:
        x += bin_width * (seeds.uniform(Stream.DEQUANTIZE, shape) - 0.5)
    probe = tf.where(seeds.uniform(Stream.PROBE, shape) < 0.5, -1.0, 1.0)
    # Where the flow must end before t = 1, x_t is alpha x but for a little noise: the density of x has alpha^D more.
    with tf.init_scope():
        alpha = float(transport.path.at(np.float64(transport.ode_interval[1])).alpha)
    divergence = functools.partial(hutchinson, probe=probe)
    log_p, _, evaluations, finished = log_likelihood(transport, model_fn, alpha * x, divergence, **solver)
    nats = -log_p / math.prod(shape) - math.log(alpha) - (math.log(bin_width) if bin_width else 0.0)
    return nats / math.log(2.0), evaluations, finished
