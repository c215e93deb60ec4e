"""The adaptive Runge-Kutta pair 5(4) of Dormand and Prince (1980, "A family of embedded Runge-Kutta formulae"), each
row of a batch at its own pace, in one compiled loop.

Step control and first step follow Hairer, Norsett and Wanner, "Solving Ordinary Differential Equations I", II.4, with
the constants of torchdiffeq's dopri5, so that a tolerance means what it means there: the times of the steps agree.
Three things differ. The last step ends on the end, where torchdiffeq steps beyond it and interpolates. A step does not
grow right after a rejection, as in Hairer's program. And a batch does not share one step.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_STAGES = 7
_NODES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])
_WEIGHTS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],  # also the solution: the last stage is at it
    ]
)
# The solution of order 4 is Shampine's (1986), as in torchdiffeq: its distance from that of order 5 is 2/3 of the
# distance of the one in the 1980 paper, which SciPy and Hairer's programs have.
_WEIGHTS_4 = np.array([1951 / 21600, 0, 22642 / 50085, 451 / 720, -12231 / 42400, 649 / 6300, 1 / 60])
_ERROR = _WEIGHTS[-1] - _WEIGHTS_4

# A turn of the loop is one evaluation: of the first stage, of an Euler step that measures how fast the derivative
# changes, and from then on of stages 2 to 7 over and over: the seventh is the first of the next step.
_FIRST, _EULER, _SECOND, _LAST = 0, 1, 2, 7
_TURN_NODES = np.array([0, 1, *_NODES[1:]])
_TURN_WEIGHTS = np.stack([_WEIGHTS[0], np.eye(_STAGES)[0], *_WEIGHTS[1:]])
_TURN_SLOTS = np.array([0, _STAGES, 1, 2, 3, 4, 5, 6])  # which stage is written; the Euler step's is not kept

_SAFETY, _GROWTH, _SHRINKAGE = 0.9, 10.0, 0.2
_STRETCH = 1.01  # a last step may be 1% longer than proposed, rather than leave a sliver


class Solution(NamedTuple):
    """x: of the structure of the input, at the end where finished, else at the last accepted step.

    evaluations: (N,) int32, of the derivative, that the row needed: 2 at the start and 6 for each step tried.
    accepted, rejected: (N,) int32, steps.
    finished: (N,) bool; False after max_steps steps, or where float32 cannot resolve the step that the error asks for.
    """

    x: tf.Tensor
    evaluations: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor
    finished: tf.Tensor


class _State(NamedTuple):
    turn: tf.Tensor  # (), shared: the stages of all rows advance together
    active: tf.Tensor
    t: tf.Tensor
    step: tf.Tensor  # positive; the next to try
    x: tf.Tensor
    stages: tf.Tensor  # of x's structure, (7, N, ...)
    evaluations: tf.Tensor
    accepted: tf.Tensor
    rejected: tf.Tensor
    rejected_last: tf.Tensor  # whether the step before was


def dopri5(derivative, x, start, end, *, atol, rtol, max_steps=1000):
    """The `Solution` of dx/dt = derivative(x, t) at `end`, from x at `start`; backwards where end < start.

    derivative(x, t): of the structure of x, float32; t (N,) differs by row and lies in [start, end]. It is called once
    in the program. A step with a derivative that is not finite is rejected, as any whose error is too large.
    x: a tensor (N, ...) float32 or a nest of them with one N. Rows do not see each other.
    start, end, atol, rtol: float32 scalars, tensors if one program is to serve several. A step is accepted where the
    root mean square, over a row's entries of each tensor, of error / (atol + rtol max(|x before|, |x after|)) is at
    most 1. atol is positive.
    max_steps: steps a row may try, rejected ones included.
    """
    x = tf.nest.map_structure(lambda leaf: tf.convert_to_tensor(leaf, tf.float32), x)
    start, end, atol, rtol = (tf.convert_to_tensor(value, tf.float32) for value in (start, end, atol, rtol))
    nodes, rests, weights, error_weights = (
        tf.constant(table, tf.float32) for table in (_TURN_NODES, 1 - _TURN_NODES, _TURN_WEIGHTS, _ERROR)
    )
    slots = tf.constant(_TURN_SLOTS, tf.int32)
    direction = tf.sign(end - start)

    def body(s):
        reaches_end = _STRETCH * s.step >= tf.abs(end - s.t)
        target = tf.where(reaches_end, end, s.t + direction * s.step)
        dt = target - s.t  # what float32 makes of the step

        x = _advance(s.x, dt, s.stages, weights[s.turn])
        t = rests[s.turn] * s.t + nodes[s.turn] * target  # unlike t + node dt, the target itself where the node is 1
        f = derivative(x, tf.clip_by_value(t, tf.minimum(s.t, target), tf.maximum(s.t, target)))
        stages = tf.nest.map_structure(lambda k, f: tf.where(_is_slot(slots[s.turn], k), f, k), s.stages, f)

        # The first two turns choose the first step.
        f0 = tf.nest.map_structure(lambda k: k[0], stages)
        d0, d1 = (_norm(value, s.x, s.x, atol, rtol) for value in (s.x, f0))
        d2 = _norm(tf.nest.map_structure(tf.subtract, f, f0), s.x, s.x, atol, rtol) / tf.abs(dt)
        step = tf.where(tf.equal(s.turn, _FIRST), _at_least(_euler_step(d0, d1), s.t), s.step)
        step = tf.where(tf.equal(s.turn, _EULER), _at_least(_first_step(s.step, d1, d2), s.t), step)

        # The last stage of a step judges it.
        judged = tf.equal(s.turn, _LAST)
        zero = tf.nest.map_structure(tf.zeros_like, x)
        error = _norm(_advance(zero, dt, stages, error_weights), s.x, x, atol, rtol)
        accept, reject = (s.active & judged & verdict for verdict in (error <= 1.0, error > 1.0))
        step = tf.where(accept | reject, tf.abs(dt) * _factor(error, s.rejected_last), step)
        t = tf.where(accept, target, s.t)
        accepted, rejected = s.accepted + tf.cast(accept, tf.int32), s.rejected + tf.cast(reject, tf.int32)
        hopeless = (step < _least_step(t)) & (_STRETCH * step < tf.abs(end - t))
        done = tf.equal(t, end) | hopeless | (accepted + rejected >= max_steps)
        return (
            _State(
                turn=tf.where(judged, _SECOND, s.turn + 1),
                active=s.active & ~(judged & done),
                t=t,
                step=step,
                x=tf.nest.map_structure(lambda new, old: tf.where(_along(accept, old), new, old), x, s.x),
                stages=tf.nest.map_structure(lambda k: tf.where(judged, _restart(k, accept), k), stages),
                evaluations=s.evaluations + tf.cast(s.active, tf.int32),
                accepted=accepted,
                rejected=rejected,
                rejected_last=tf.where(judged, reject, s.rejected_last),
            ),
        )

    t = tf.fill(tf.shape(tf.nest.flatten(x)[0])[:1], start)
    none = tf.zeros_like(t, tf.int32)
    stages = tf.nest.map_structure(lambda leaf: tf.stack([tf.zeros_like(leaf)] * _STAGES), x)
    active, never = tf.not_equal(t, end), tf.zeros_like(t, tf.bool)
    state = _State(tf.constant(_FIRST), active, t, tf.zeros_like(t), x, stages, none, none, none, never)
    (s,) = tf.while_loop(lambda s: tf.reduce_any(s.active), body, (state,), parallel_iterations=1)
    return Solution(s.x, s.evaluations, s.accepted, s.rejected, tf.equal(s.t, end))


def _norm(value, x, y, atol, rtol):
    """(N,): the root mean square of value / (atol + rtol max(|x|, |y|)), the largest of a nest's tensors; infinite
    where value or y is not finite. (In a mean over all, an image's entries would outvote the one of its density.)"""

    def squares(v, x, y):
        scaled = tf.square(v / (atol + rtol * tf.maximum(tf.abs(x), tf.abs(y))))
        scaled = tf.where(tf.math.is_finite(scaled) & tf.math.is_finite(y), scaled, np.inf)  # NaN has no verdict
        return tf.reduce_mean(scaled, axis=list(range(1, v.shape.rank))) if v.shape.rank > 1 else scaled

    leaves = zip(*map(tf.nest.flatten, (value, x, y)))
    return tf.sqrt(tf.reduce_max(tf.stack([squares(*leaf) for leaf in leaves]), axis=0))


def _factor(error, rejected_last):
    """By how much the step changes, so that the error of the next, as its fifth power, comes out a little below 1.

    An accepted step is not followed by a shorter one, nor by a longer one where the step before it was rejected.
    """
    growth = tf.where((error <= 1.0) & rejected_last, 1.0, _GROWTH)
    return tf.clip_by_value(_SAFETY * error**-0.2, tf.where(error < 1.0, 1.0, _SHRINKAGE), growth)


def _euler_step(d0, d1):
    """The step of the Euler step, from the norms of x and of its derivative (Hairer et al., II.4, step b)."""
    return tf.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)


def _first_step(h0, d1, d2):
    """The first step, from the Euler step and the norms of the first two derivatives (steps d to f)."""
    change = tf.maximum(d1, d2)
    h1 = tf.where(change <= 1e-15, tf.maximum(1e-6, 1e-3 * h0), (0.01 / change) ** 0.2)
    return tf.where(tf.math.is_finite(d2), tf.minimum(100.0 * h0, h1), h0)


def _least_step(t):
    """The shortest step that counts at t, ten roundings of t; above the numbers that a device may take for 0."""
    return 10.0 * float(np.finfo(np.float32).eps) * tf.maximum(tf.abs(t), 1e-30)


def _at_least(step, t):
    least = _least_step(t)
    return tf.where(step >= least, step, least)  # not maximum: the step may be NaN


def _advance(x, dt, stages, weights):
    """x + dt weights . stages. Elementwise, since a product of matrices is not float32 on a TPU by default."""

    def leaf(x, k):
        return x + _along(dt, x) * tf.reduce_sum(tf.reshape(weights, [-1] + [1] * x.shape.rank) * k, axis=0)

    return tf.nest.map_structure(leaf, x, stages)


def _restart(k, accept):
    """The stages of the next attempt: the first is known, the rest cleared, since 0 times NaN is not 0."""
    first = tf.where(_along(accept, k[0]), k[-1], k[0])
    return tf.concat([first[None], tf.zeros_like(k[1:])], axis=0)


def _is_slot(index, k):
    return tf.reshape(tf.range(_STAGES) == index, [-1] + [1] * (k.shape.rank - 1))


def _along(rows, x):
    """(N,) -> (N, 1, ...) of the rank of x."""
    return tf.reshape(rows, [-1] + [1] * (x.shape.rank - 1))
