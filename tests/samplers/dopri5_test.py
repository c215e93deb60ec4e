import functools

import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf

from dit_tf.samplers import dopri5 as solver
from dit_tf.samplers.dopri5 import dopri5
from dit_tf.transport.paths import PATHS
from dit_tf.transport.transport import Transport

_RATES = np.array([-3.0, -0.5, 0.0, 1.0, 2.0], np.float32)


@functools.cache  # one trace, and one compilation for each shape
def _compiled(derivative, jit_compile=True):
    """solve(x, start, end, atol, rtol), every argument a tensor of the program."""

    @tf.function(jit_compile=jit_compile)
    def solve(x, *numbers):
        start, end, atol, rtol = numbers
        return dopri5(derivative, x, start, end, atol=atol, rtol=rtol)

    return lambda x, *numbers: solve(tf.nest.map_structure(_tensor, x), *map(_tensor, numbers))


def _in_a_graph(derivative):
    """The same without XLA, whose compilation takes longer than a few steps."""
    return _compiled(derivative, jit_compile=False)


def _tensor(value):
    return tf.constant(value, tf.float32)


def _linear(state, t):
    """dx/dt = a x in every row; the rates are part of the state."""
    a, x = state
    return tf.zeros_like(a), a[:, None] * x


def _oscillator(x, t):
    return tf.stack([x[:, 1], -x[:, 0]], axis=1)


def _logistic(x, t):
    return x * (1.0 - x)


def _lotka_volterra(x, t):
    a, b = x[:, 0], x[:, 1]
    return tf.stack([1.5 * a - a * b, a * b - 3.0 * b + 0.2 * tf.sin(t)], axis=1)


def _recorded(derivative):
    times = []

    def record(x, t):
        times.append(t.numpy())
        return derivative(x, t)

    return record, times


def _assert_counts(s):
    np.testing.assert_array_equal(s.evaluations, 2 + 6 * (s.accepted + s.rejected))


def test_the_tableau_meets_the_quadrature_conditions_of_its_orders():
    nodes, weights = solver._NODES, solver._WEIGHTS
    np.testing.assert_allclose(weights.sum(axis=1), nodes, atol=1e-14)  # a stage is at its time, in float64
    for k in range(5):
        assert abs(weights[-1] @ nodes**k - 1 / (k + 1)) < 1e-14
        assert abs(solver._ERROR @ nodes**k) < 1e-14 or k == 4  # an estimate of order 4: blind to t^3, not to t^4
    assert abs(solver._ERROR @ nodes**4) > 1e-4


@pytest.mark.parametrize("rejected_last", [False, True])
def test_the_step_follows_the_fifth_root_of_the_error_within_limits(rejected_last):
    errors = tf.constant([0.0, 0.45**5, 0.95**5, 1.5**5, 9.0**5, np.inf])
    grown = [1.0, 1.0] if rejected_last else [10.0, 2.0]
    np.testing.assert_allclose(solver._factor(errors, rejected_last), [*grown, 1.0, 0.6, 0.2, 0.2], rtol=1e-6)


def test_exponentials_of_different_rates_are_within_tolerance():
    x = np.linspace(0.5, 2.0, 15, dtype=np.float32).reshape(5, 3)
    exact, steps, errors = x * np.exp(_RATES)[:, None], [], []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        s = _in_a_graph(_linear)((_RATES, x), 0.0, 1.0, 1e-3 * tolerance, tolerance)
        errors.append((np.abs(s.x[1] - exact) / np.maximum(x, exact)).max())
        assert s.finished.numpy().all() and errors[-1] < tolerance  # a few steps, each well below it
        np.testing.assert_array_equal(s.x[0], _RATES)
        _assert_counts(s)
        steps.append(s.accepted.numpy())
    assert errors == sorted(errors, reverse=True)
    assert (np.diff(steps, axis=0) >= 0).all() and len(set(steps[-1])) > 2  # rows differ


def test_steps_grow_as_the_fifth_root_of_the_tolerance():
    """3.98 for a thousand; the steps of the start, where the first one grows, are the same for both."""
    x = np.array([[1.0, 0.0]], np.float32)
    few, many = (_compiled(_oscillator)(x, 0.0, 100.0, tol, tol).accepted.numpy()[0] for tol in (1e-2, 1e-5))
    assert 3.4 < many / few < 4.3


def test_an_oscillator_is_back_after_its_period():
    x = np.array([[1.0, 0.0]], np.float32)
    errors = []
    for tol in (1e-3, 1e-4, 1e-5):
        s = _compiled(_oscillator)(x, 0.0, 2 * np.pi, tol, tol)
        errors.append(np.abs(s.x - x).max())
        assert errors[-1] < tol * s.accepted[0].numpy()  # every step may err by a tolerance
    assert errors == sorted(errors, reverse=True)


def test_a_logistic_curve_and_its_way_back():
    x = np.array([[0.01], [0.3], [1.0], [2.0]], np.float32)
    s = _in_a_graph(_logistic)(x, -1.0, 3.0, 1e-6, 1e-5)
    exact = x / (x + (1 - x) * np.exp(-4))
    np.testing.assert_allclose(s.x, exact, rtol=3e-5)  # a few steps of 1e-5 each
    back = _in_a_graph(_logistic)(s.x, 3.0, -1.0, 1e-6, 1e-5)
    assert back.finished.numpy().all()
    np.testing.assert_allclose(back.x, x, rtol=2e-3)  # backwards the rows part again, by e^4 = 55


def test_quintics_in_t_are_exact_in_one_step_of_any_size():
    degree = np.arange(5, dtype=np.float32)
    x = np.full((5, 1), 0.7, np.float32)
    s = dopri5(lambda x, t: (t**degree)[:, None] + 0.0 * x, x, -1.0, 2.0, atol=1e4, rtol=0.0)
    assert s.accepted.numpy().max() <= 4  # 1e-6, or a hundredth of x over x', then the growth of 10 a step
    exact = 0.7 + (2.0 ** (degree + 1) - (-1.0) ** (degree + 1)) / (degree + 1)
    np.testing.assert_allclose(s.x[:, 0], exact, rtol=1e-6)  # float32 sums


def test_agrees_with_scipy():
    x = np.array([[1.0, 1.0], [3.0, 0.5]], np.float32)
    s = _in_a_graph(_lotka_volterra)(x, 0.0, 3.0, 1e-6, 1e-5)

    def derivative(t, x):
        return [1.5 * x[0] - x[0] * x[1], x[0] * x[1] - 3.0 * x[1] + 0.2 * np.sin(t)]

    for row, start in zip(s.x.numpy(), x):
        exact = scipy.integrate.solve_ivp(derivative, (0.0, 3.0), start, method="RK45", rtol=1e-9, atol=1e-9).y[:, -1]
        np.testing.assert_allclose(row, exact, rtol=1e-4)  # a dozen steps of 1e-5 each


def test_a_row_is_solved_as_if_alone():
    def solve(*rates):
        return _compiled(_linear)((np.array(rates, np.float32), np.ones((len(rates), 1))), 0.0, 1.0, 1e-6, 1e-3)

    both, twice, alone = solve(-1.0, -1000.0), solve(-1.0, -1.0), solve(-1.0)
    assert both.finished.numpy().all() and both.evaluations[1] > 30 * both.evaluations[0]
    for ours, theirs in zip(both, twice):
        for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs)):
            np.testing.assert_array_equal(a[0], b[0])  # the same program: every bit, however long the neighbour takes
    np.testing.assert_allclose(both.x[1][0], alone.x[1][0], rtol=1e-6)  # another: float32 sums in another order
    for ours, theirs in zip(both[1:], alone[1:]):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_each_tensor_of_a_nest_keeps_the_tolerance():
    """Many entries that stay put beside it change neither the steps of an oscillator nor its accuracy."""

    def beside_still_life(state, t):
        x, (image,) = state
        return _oscillator(x, t), (tf.zeros_like(image),)

    x = np.array([[1.0, 0.0]], np.float32)
    alone = _compiled(_oscillator)(x, 0.0, 2 * np.pi, 1e-3, 1e-3)
    image = np.ones((1, 32, 32, 1), np.float32)
    beside = _in_a_graph(beside_still_life)((x, (image,)), 0.0, 2 * np.pi, 1e-3, 1e-3)
    for ours, theirs in zip(beside[1:], alone[1:]):
        np.testing.assert_allclose(ours, theirs, atol=6)  # the first step, which is guessed from all, may add one more
    np.testing.assert_allclose(beside.x[0], alone.x, atol=1e-2)
    np.testing.assert_array_equal(beside.x[1][0], image)


def _walled(state, t):
    """cos 5t, which is NaN outside the limits in rows of a positive sign."""
    limits, sign, x = state
    open_or_inside = (sign < 0) | ((t >= limits[:, 0]) & (t <= limits[:, 1]))
    return tf.zeros_like(limits), tf.zeros_like(sign), tf.where(open_or_inside, tf.cos(5.0 * t), np.nan) + 0.0 * x


def test_no_evaluation_is_outside_the_interval(rng):
    """Rounding of t + c dt would leave it, and a derivative that is NaN there change the steps."""
    for start, end in (*rng.uniform(-1, 1, (60, 2)), (0.0, 1.0), (1.0, 0.0), (0.001, 0.999)):
        limits = np.tile(np.sort(np.array([start, end], np.float32)), (2, 1))
        s = _compiled(_walled)((limits, np.array([1.0, -1.0]), np.zeros(2)), start, end, 1e-4, 1e-4)
        assert s.finished.numpy().all() and s.evaluations[0] == s.evaluations[1] and s.x[2][0] == s.x[2][1]
        np.testing.assert_allclose(s.x[2], [(np.sin(5 * end) - np.sin(5 * start)) / 5] * 2, atol=1e-3)


def test_rows_evaluate_at_times_of_their_own_and_end_on_the_end():
    """0.9 is a float32 that 1/9 and 8/9 of it, rounded, add up to more than."""
    end, busy = np.float32(0.9), tf.constant([[1.0], [0.0]])
    derivative, times = _recorded(lambda x, t: busy * tf.sqrt(end - t[:, None]) * tf.sin(12.0 * t[:, None]))
    s = dopri5(derivative, np.full((2, 1), 0.1, np.float32), 0.0, end, atol=1e-4, rtol=1e-4)
    times = np.array(times)
    assert s.finished.numpy().all() and times.min() == 0.0 and times.max() == end
    assert len(times) == s.evaluations.numpy().max() > s.evaluations.numpy().min()
    assert (times[s.evaluations[1].numpy() :, 1] == end).all()  # the row that has arrived waits at the end
    _assert_counts(s)


def test_a_step_into_where_the_derivative_is_not_finite_is_taken_back():
    """Nothing happens until 0.3, so the steps are long by then, and overshoot below the 0.25 that is never reached."""
    bad = tf.constant([[np.nan], [np.inf], [-np.inf]], tf.float32)

    def derivative(x, t):
        rate = 60.0 * tf.maximum(t - 0.3, 0.0)[:, None]
        return tf.where(x < 0.25, bad, -rate * x)

    s = _in_a_graph(derivative)(np.ones((3, 1)), 0.0, 0.5, 1e-5, 1e-5)
    assert s.finished.numpy().all() and (s.rejected.numpy() > 0).all()
    np.testing.assert_allclose(s.x, np.full((3, 1), np.exp(-30 * 0.2**2)), rtol=5e-4)  # tens of steps of 1e-5
    _assert_counts(s)


def test_too_few_steps_are_said_so_and_the_state_is_finite():
    x = (np.array([-1.0, -3000.0], np.float32), np.ones((2, 1), np.float32))
    s = dopri5(_linear, x, 0.0, 1.0, atol=1e-3, rtol=1e-3, max_steps=8)
    np.testing.assert_array_equal(s.finished, [True, False])
    assert s.accepted[1] + s.rejected[1] == 8 and np.isfinite(s.x[1]).all()
    _assert_counts(s)


def test_a_derivative_that_is_never_finite_is_given_up_soon():
    s = dopri5(lambda x, t: x + np.nan, np.ones((2, 1), np.float32), 0.5, 1.0, atol=1e-6, rtol=1e-3)
    assert not s.finished.numpy().any() and (s.rejected.numpy() < 10).all()
    np.testing.assert_array_equal(s.x, np.ones((2, 1)))
    no_scale = dopri5(lambda x, t: x, np.zeros((1, 1), np.float32), 0.5, 1.0, atol=0.0, rtol=1e-3, max_steps=20)
    assert not no_scale.finished.numpy().any()  # 0 / 0 is no reason to accept, nor to go on for ever


def test_an_empty_interval_needs_nothing():
    s = dopri5(_oscillator, np.ones((3, 2), np.float32), 0.5, 0.5, atol=1e-6, rtol=1e-3)
    assert s.finished.numpy().all() and not s.evaluations.numpy().any()
    np.testing.assert_array_equal(s.x, np.ones((3, 2)))


def test_compiled_equals_eager():
    x = np.array([[1.0, 0.0]], np.float32)
    eager = dopri5(_oscillator, x, 0.0, 2 * np.pi, atol=1e-3, rtol=1e-3)
    compiled = _compiled(_oscillator)(x, 0.0, 2 * np.pi, 1e-3, 1e-3)
    for ours, theirs in zip(compiled[1:], eager[1:]):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(compiled.x, eager.x, atol=1e-5)  # float32 errors of the error estimates, in the steps


def test_one_program_serves_all_numbers_and_holds_one_call():
    traces = []

    @tf.function(jit_compile=True)
    def solve(x, start, end, atol, rtol):
        def derivative(x, t):
            traces.append(t)
            return tf.atan2(x, 1.0 + t[:, None])

        return dopri5(derivative, x, start, end, atol=atol, rtol=rtol)

    x = tf.ones((2, 3))
    programs = [
        solve.experimental_get_compiler_ir(x, *map(tf.constant, numbers))(stage="hlo")
        for numbers in ((0.0, 1.0, 1e-6, 1e-3), (0.7, -0.2, 1e-3, 1e-5))
    ]
    assert programs[0] == programs[1] and len(traces) == 1
    assert programs[0].count(" atan2(") == 1
    assert "f64[" not in programs[0]


@pytest.mark.parametrize("path, prediction", [("Linear", "velocity"), ("GVP", "noise")])
def test_steps_are_those_of_torchdiffeq_until_the_last(transport_golden, transport_stub, path, prediction):
    """The recorded batch as one row, for the reference has one step for all."""
    arrays, key = transport_golden("ode_sampling"), f"{path}/{prediction}/dopri5/n5/atol1e-06/rtol0.001"
    transport = Transport(path=PATHS[path.lower()], prediction=prediction)
    model_fn = transport_stub(arrays, prediction)

    def velocity(x, t):
        a, b = transport.coefficients("velocity", t[:, None, None, None])
        return (a * x[0] + b * model_fn(x[0], tf.repeat(t, x.shape[1])))[None]

    derivative, times = _recorded(velocity)
    s = dopri5(derivative, arrays["z"][None], *transport.ode_interval, atol=1e-6, rtol=1e-3)
    times, expected = np.array(times)[:, 0], arrays[f"{key}/t_evals"]
    assert len(times) == len(expected) == s.evaluations.numpy()[0]
    # 1e-7 where errors are large; where a step's error is near float32's own, the next step is theirs to 0.1% or so.
    np.testing.assert_allclose(times[:-6], expected[:-6], rtol=1e-3, atol=1e-6)
    # The reference interpolates at the end, which is of order 4.
    np.testing.assert_allclose(s.x[0], arrays[key][-1], atol=5e-3 * np.abs(arrays[key][-1]).max())
