"""Every path, prediction, solver, diffusion and last step on data N(0.4, 0.6^2), where each sampler is an affine map of
its noises: its moments against the formulas of the papers in float64, and against the exact ones.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers import ode, sde
from dit_tf.samplers.loop import run_recurrence
from dit_tf.transport.paths import PATHS, PREDICTIONS
from dit_tf.transport.transport import Transport

_MEAN, _DEVIATION = 0.4, 0.6
_STEPS, _SIZE, _NORM, _ETA = 8, 0.04, 0.7, 0.05
_SOLVERS = {"ode": {"euler": ode.euler, "heun": ode.heun}, "sde": {"euler": sde.euler_maruyama, "heun": sde.heun}}
_CASES = [(path, prediction) for path in PATHS for prediction in PREDICTIONS]


def _path(name, t):
    """(alpha, sigma, alpha', sigma') as in the paper, section 2 and appendix B, on the clock of noise to data."""
    if name == "linear":
        return t, 1 - t, 1.0, -1.0
    if name == "gvp":
        angle = np.pi / 2 * t
        return np.sin(angle), np.cos(angle), np.pi / 2 * np.cos(angle), -np.pi / 2 * np.sin(angle)
    u = 1 - t
    alpha = np.exp(-0.25 * u**2 * (20 - 0.1) - 0.5 * u * 0.1)
    d_alpha = alpha * 0.5 * (0.1 + u * (20 - 0.1))
    sigma = np.sqrt(1 - alpha**2)
    return alpha, sigma, d_alpha, -alpha * d_alpha / sigma


def _exact(name, target, x, t):
    """E[target | x_t = x] for data N(mean, deviation^2): "clean", "noise", "velocity" or "score"."""
    alpha, sigma, d_alpha, d_sigma = _path(name, t)
    innovation = (x - alpha * _MEAN) / (alpha**2 * _DEVIATION**2 + sigma**2)
    clean, noise = _MEAN + alpha * _DEVIATION**2 * innovation, sigma * innovation
    return {"clean": clean, "noise": noise, "velocity": d_alpha * clean + d_sigma * noise, "score": -innovation}[target]


def _diffusion(form, name, t):
    alpha, sigma, d_alpha, d_sigma = _path(name, t)
    if form == "kl_eta":  # half of w_KL sqrt(1 / (1 + 2 eta w_KL^2)), by 1 / w_KL, which is finite where w_KL is not
        inverse = alpha / (2 * (d_alpha * sigma**2 - alpha * sigma * d_sigma))
        return 0.5 / np.sqrt(inverse**2 + 2 * _ETA)
    if form in ("sbdm", "kl"):
        return (_NORM if form == "sbdm" else 1.0) * (d_alpha / alpha * sigma**2 - sigma * d_sigma)
    return {
        "constant": _NORM,
        "sigma": _NORM * sigma,
        "linear": _NORM * (1 - t),
        "decreasing": 0.25 * (_NORM * np.cos(np.pi * t) + 1) ** 2,
        "increasing_decreasing": _NORM * np.sin(np.pi * t) ** 2,
    }[form]


def _textbook(name, solver, form, last_step, t, x, noise):
    """Euler and Heun for the ODE (form None), Euler-Maruyama and the public code's Heun for the SDE, in float64."""

    def w(t):
        return 0.0 if form is None else _diffusion(form, name, t)

    def drift(x, t):
        return _exact(name, "velocity", x, t) + w(t) * _exact(name, "score", x, t)

    for k, dt in enumerate(np.diff(t)):
        jump = np.sqrt(2 * w(t[k]) * dt) * noise[k]
        if solver == "euler":
            x = x + dt * drift(x, t[k]) + jump
        else:
            start = drift(x + jump, t[k])
            x = x + jump + dt / 2 * (start + drift(x + jump + dt * start, t[k + 1]))
    if last_step == "tweedie":
        return _exact(name, "clean", x, t[-1])
    if last_step == "euler":
        return x + _SIZE * _exact(name, "velocity", x, t[-1])
    return x + _SIZE * drift(x, t[-1]) if last_step == "mean" else x


def _basis(draws):
    """Rows of x_0 and of the noises, (R,) and (draws, R): all zero, x_0 = 1, one noise of 1 in each other row."""
    rows = np.eye(draws + 2, dtype=np.float32)
    return rows[1], rows[2:]


def _moments(rows):
    return rows[0], np.sum((rows[1:] - rows[0]) ** 2)


@functools.cache  # shared by the tests
def _table(path, prediction, sampler, solver, form=None, last_step="none", num_steps=_STEPS):
    """(times, `Recurrence`). Times are rounded to float32, so that the model and the table speak of the same ones."""
    transport = Transport(PATHS[path], prediction)
    if sampler == "ode":
        t = np.float64(np.float32(ode.time_grid(transport.ode_interval, num_steps)))
        return t, _SOLVERS["ode"][solver](transport, t)
    t = np.float64(np.float32(sde.sde_times(transport, form, num_steps, last_step, _SIZE)))

    w = functools.partial(sde.diffusion, form, transport.path, norm=_NORM, eta=_ETA)
    return t, _SOLVERS["sde"][solver](transport, t, w, last_step, _SIZE)


def _known_at(times, offset, slope):
    """model_fn(x, t) = offset + slope x, tabulated at the times (K,); NaN at any other. It computes in float64."""

    def model_fn(x, t):
        row = tf.argmax(tf.cast(tf.equal(times, t[0]), tf.int32))
        output = tf.cast(offset[row] + slope[row] * tf.cast(x, tf.float64), tf.float32)
        return tf.where(tf.reduce_any(tf.equal(times, t[0])), output, np.nan)

    return model_fn


def _toy(x, t):
    """Bounded and not linear, for batches of two: the second row is computed in bfloat16."""

    def output(x):
        return tf.tanh(1.5 * x + tf.cast(t[0], x.dtype))

    return tf.concat([output(x[:1]), tf.cast(output(tf.cast(x[1:], tf.bfloat16)), tf.float32)], axis=0)


def _sample(x, table, seeds, model_fn):
    """(R,) -> (R,): the sampler on images of one pixel."""
    x = run_recurrence(ode.velocity_table(Transport(), model_fn), x[:, None, None, None], table, seeds)
    return x[:, 0, 0, 0]


@pytest.fixture(scope="module")
def run(recorded_noise):
    """run(x (R,), table, noise (draws, R) or None, model) -> (R,): one program per length of the table. model: three
    arrays for `_known_at`, or None for the toy."""

    @tf.function(autograph=False)
    def program(x, table, noise, model):
        seeds = None if noise is None else recorded_noise(noise[..., None, None, None])
        return _sample(x, table, seeds, _toy if model is None else _known_at(*model))

    return lambda x, table, noise=None, model=None: program(
        np.float32(x), table.cast(), None if noise is None else np.float32(noise), model
    ).numpy()


def _model(path, prediction, t):
    offset = _exact(path, prediction, 0.0, t)
    return np.float32(t), offset, _exact(path, prediction, 1.0, t) - offset


def _settings(path, prediction):
    for solver in _SOLVERS["ode"]:
        yield path, prediction, "ode", solver
    for solver in _SOLVERS["sde"]:
        for form in sde.DIFFUSIONS:
            for last_step in sde.LAST_STEPS:
                yield path, prediction, "sde", solver, form, last_step


@pytest.mark.parametrize("path, prediction", _CASES)
def test_moments_are_those_of_the_formulas(run, path, prediction):
    """And so is each noise's share. float32 keeps 5e-6: near noise alpha is 0.001, and 1 / alpha a factor of v."""
    x, noise = _basis(_STEPS + 1)  # the last of Heun's rows names one noise more, with weight 0
    for setting in _settings(path, prediction):
        solver, form, last_step = (*setting[3:], None, "none")[:3]
        t, table = _table(*setting)
        expected = _textbook(path, solver, form, last_step, t, np.float64(x), np.float64(noise))
        actual = run(x, table, noise if form else None, _model(path, prediction, t))
        pairs = [(actual, expected), *zip(_moments(actual), _moments(expected))]
        for ours, exact in pairs:
            assert np.max(np.abs(ours - exact)) <= 1e-5 * max(1, np.max(np.abs(exact))), setting


@pytest.mark.parametrize("path, prediction", _CASES)
def test_nothing_is_nan(run, path, prediction):
    x, noise = np.array([1.0, -0.5]), np.random.default_rng(0).standard_normal((_STEPS + 1, 2))
    for setting in _settings(path, prediction):
        _, table = _table(*setting)
        assert np.isfinite(run(x, table, noise if setting[2] == "sde" else None)).all(), setting


@pytest.mark.parametrize("path, prediction", _CASES)
@pytest.mark.parametrize("solver, ratio", [("euler", 2.0), ("heun", 4.0)])
def test_order_of_the_ode(run, solver, ratio, path, prediction):
    """The flow of a Gaussian keeps a point's place in units of its deviation. Away from the ends, where errors fall as
    the order says from 16 steps on; ratios are 1.88 to 2.12 and 3.77 to 3.99."""
    (alpha, sigma, *_), (later_alpha, later_sigma, *_) = (_path(path, t) for t in (0.1, 0.9))
    stretch = np.sqrt(((later_alpha * _DEVIATION) ** 2 + later_sigma**2) / ((alpha * _DEVIATION) ** 2 + sigma**2))
    x, errors = np.linspace(-2, 2, 5), []
    for num_steps in (16, 32, 64, 128):
        t = np.float64(np.float32(ode.time_grid((0.1, 0.9), num_steps)))
        table = _SOLVERS["ode"][solver](Transport(PATHS[path], prediction), t)
        end = run(x, table, None, _model(path, prediction, t))
        errors.append(np.abs(end - later_alpha * _MEAN - stretch * (x - alpha * _MEAN)).max())
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), ratio, rtol=0.1)


@pytest.mark.parametrize("solver", _SOLVERS["sde"])
def test_moments_converge_to_those_of_the_path(run, solver):
    """Weak order 1: half the step, half the error of the variance; on the linear path the mean has none. No last step:
    its size would not shrink."""
    errors = []
    for num_steps in (20, 40, 80):
        t, table = _table("linear", "velocity", "sde", solver, "sigma", num_steps=num_steps)
        x, noise = _basis(num_steps + 1)
        mean, variance = _moments(run(x, table, noise, _model("linear", "velocity", t)))
        alpha, sigma, *_ = _path("linear", t[-1])
        assert abs(mean - alpha * _MEAN) < 1e-6
        errors.append(variance - (alpha * _DEVIATION) ** 2 - sigma**2)
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2.0, rtol=0.06)  # of 0.01 and less: 1.89 to 2.07


def test_moments_of_a_hundred_thousand_samples():
    """With the draws of `RowSeeds`, within five standard errors of the formulas' moments."""
    rows, steps = 100_000, 20
    t, table = _table("linear", "velocity", "sde", "euler", "sigma", "mean", steps)
    x, noise = _basis(steps)
    mean, variance = _moments(_textbook("linear", "euler", "sigma", "mean", t, np.float64(x), np.float64(noise)))
    seeds = RowSeeds(7, tf.range(rows))
    start = seeds.normal(Stream.START)
    samples = _sample(start, table, seeds, _known_at(*_model("linear", "velocity", t))).numpy()
    assert abs(samples.mean() - mean) < 5 * np.sqrt(variance / rows)
    assert abs(samples.var(ddof=1) - variance) < 5 * variance * np.sqrt(2 / rows)
