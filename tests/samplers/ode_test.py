import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers import ode
from dit_tf.samplers.dopri5 import dopri5
from dit_tf.samplers.loop import run_recurrence
from dit_tf.transport.paths import PATHS
from dit_tf.transport.transport import Transport

_SOLVERS = {"euler": ode.euler, "heun": ode.heun}
_X = np.random.default_rng(0).standard_normal((3, 2, 2, 1)).astype(np.float32)


def _field(x, t):
    """dx/dt = (1 + 2 t) tanh(x), along which sinh(x) grows by exp(t + t^2)."""
    return tf.tanh(x) * (1.0 + 2.0 * t)[:, None, None, None]


def _carried(x, start, end):
    return np.arcsinh(np.sinh(np.float64(x)) * np.exp(end + end**2 - start - start**2))


def _flow(solver, t, x):
    return run_recurrence(ode.velocity_table(Transport(), _field), x, _SOLVERS[solver](Transport(), t))


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.001, 0.999)])
def test_equal_steps_without_shift(interval):
    np.testing.assert_allclose(ode.time_grid(interval, 7), np.linspace(*interval, 8), rtol=1e-14)


@pytest.mark.parametrize("shift", [0.2, 1.0, 3.0])
def test_shift_is_the_papers(shift):
    """On the paper's clock, where noise is 1: u' = s u / (1 + (s - 1) u)."""
    u = 1 - np.linspace(0.0, 1.0, 11)
    np.testing.assert_allclose(1 - ode.time_grid((0.0, 1.0), 10, shift), shift * u / (1 + (shift - 1) * u), atol=1e-15)


def test_shift_keeps_the_ends_and_favours_noise():
    t = ode.time_grid((0.001, 0.999), 10, 3.0)
    np.testing.assert_allclose(t[[0, -1]], [0.001, 0.999], rtol=1e-14)
    assert np.all(np.diff(t, 2) > 0)  # steps grow towards data
    np.testing.assert_array_equal(ode.time_grid((0.999, 0.001), 10, 3.0), t[::-1])  # and shrink on the way back


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_a_shift_that_is_not_positive_is_refused(shift):
    with pytest.raises(ValueError, match="--timestep_shift .*" + str(shift)):
        ode.time_grid((0.0, 1.0), 10, shift)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (1.0, 0.0)])
def test_order_on_a_known_flow(interval, solver, order):
    """Both ways; ratios are 1.95 to 2.01 and 3.7 to 4.3."""
    expected = _carried(_X, *interval)
    errors = [np.abs(_flow(solver, ode.time_grid(interval, n), _X) - expected).max() for n in (10, 20, 40)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2**order, rtol=0.1)


def test_inversion_returns():
    """Back through the same times; the leading errors of the two ways cancel, so that order 2 leaves order 3."""
    errors = []
    for n in (10, 20):
        t = ode.time_grid((0.0, 1.0), n, 2.0)
        errors.append(np.abs(_flow("heun", t[::-1], _flow("heun", t, _X)) - _X).max())
    np.testing.assert_allclose(errors[0] / errors[1], 8.0, rtol=0.1)


@pytest.mark.parametrize("path, prediction", [("linear", "velocity"), ("gvp", "noise"), ("vp", "score")])
def test_adaptive_steps_find_the_flow_of_a_gaussian(path, prediction):
    """Data N(0.4, 0.6^2): a point keeps its place in units of the deviation. `velocity` converts the model's output."""
    transport = Transport(PATHS[path], prediction)

    def model_fn(x, t):
        p = transport.path.at(t[:, None, None, None])
        innovation = (x - 0.4 * p.alpha) / (0.36 * p.alpha**2 + p.sigma**2)
        clean, noise = 0.4 + 0.36 * p.alpha * innovation, p.sigma * innovation
        return {"velocity": p.d_alpha * clean + p.d_sigma * noise, "noise": noise, "score": -innovation}[prediction]

    def place(x, t):
        p = transport.path.at(tf.constant(t, tf.float64))
        return (x - 0.4 * p.alpha.numpy()) / np.sqrt(0.36 * p.alpha**2 + p.sigma**2)

    start, end = transport.ode_interval
    run = tf.function(
        lambda x: dopri5(ode.velocity(transport, model_fn), x, start, end, atol=1e-6, rtol=1e-6), autograph=False
    )
    solution = run(_X)
    assert np.all(solution.finished)
    np.testing.assert_allclose(place(solution.x, end), place(_X, start), atol=1e-4)


@pytest.mark.parametrize(
    "path, prediction",
    [("Linear", "velocity"), ("Linear", "noise"), ("GVP", "score"), ("GVP", "noise"), ("VP", "score")],
)
def test_adaptive_samples_agree_with_sit(transport_golden, transport_index, transport_stub, path, prediction):
    """Both ways, at a relative tolerance of 0.001. SiT's last step leaves the interval, as far as t = 1.75 with a
    velocity model, and its end is interpolated: that error is 0.004. Other runs agree by 6e-4."""
    arrays = transport_golden("ode_sampling")
    derivative = ode.velocity(Transport(PATHS[path.lower()], prediction), transport_stub(arrays, prediction))
    run = tf.function(
        lambda start, end: dopri5(derivative, arrays["z"], start, end, atol=1e-6, rtol=1e-3), autograph=False
    )
    for record in transport_index("ode_sampling_index"):
        wanted = record.get("sampling_method"), record.get("path"), record.get("prediction")
        if wanted == ("dopri5", path, prediction):
            solution, expected = run(np.float32(record["t0"]), np.float32(record["t1"])), arrays[record["key"]][-1]
            assert np.all(solution.finished)
            error = np.abs(solution.x - expected).max() / np.abs(expected).max()
            assert error < (0.005 if prediction == "velocity" else 0.001)
