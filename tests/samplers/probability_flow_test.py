import functools
import re
import types

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.samplers.ddim import ddim
from dit_tf.samplers.dopri5 import dopri5
from dit_tf.samplers.loop import run_recurrence
from dit_tf.samplers.probability_flow import adaptive, adaptive_flow, denoise, euler, heun

_DIT = GaussianDiffusion(variance="fixed_small")
_LOG_S = np.log(_DIT.schedule.sqrt_recipm1_alphas_cumprod)
_SHAPE = (3, 4, 4, 2)
_IMAGE = np.random.default_rng(1).uniform(-1, 1, _SHAPE[1:]).astype(np.float32)
_NOISE = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)
_BASIS = np.stack([np.full(_SHAPE[1:], value, np.float32) for value in (0, 1)])  # offset, and offset + slope
_VARIANTS = {"default": "learned_range", "fixed_large": "fixed_large"}


def _denoiser(mean, deviation, process=_DIT):
    """The exact eps where the data are N(mean, deviation^2), at any t, log s linear between those of the chain."""
    log_s = np.float32(np.log(process.schedule.sqrt_recipm1_alphas_cumprod))

    def model_fn(x, t):
        t = tf.cast(t, tf.float32)
        below = tf.minimum(tf.cast(t, tf.int32), len(log_s) - 2)
        low, high = tf.gather(log_s, below), tf.gather(log_s, below + 1)
        s = tf.exp(low + (t - tf.cast(below, tf.float32)) * (high - low))[:, None, None, None]
        alpha = tf.math.rsqrt(1.0 + s * s)
        return (x - alpha * mean) * s / (alpha * (deviation**2 + s * s))

    return model_fn


def _sample(method, process, model_fn, x, clip_denoised=False):
    return run_recurrence(denoise(process, model_fn, clip_denoised), x, method(process)).numpy()


def _flow(deviation, mean, xbar, start, end):
    """The exact flow of N(mean, deviation^2) from s = start to end, in xbar: it keeps every quantile."""
    return mean + (xbar - mean) * np.sqrt((deviation**2 + end**2) / (deviation**2 + start**2))


def _exact_image():
    """The flow of N(_IMAGE, 0.5^2) from _NOISE at the chain's largest s to its smallest, and the prediction there."""
    start, end = np.exp(_LOG_S[[-1, 0]])
    xbar = _flow(0.5, _IMAGE, _NOISE * np.sqrt(1 + start**2), start, end)
    return _IMAGE + 0.25 / (0.25 + end**2) * (xbar - _IMAGE)


def _runge_kutta(count):
    """solve(derivative, xbar, start, end): `count` steps of the classical fourth-order method, even in log s; the rows
    are at slightly different s, so that none of them may stand for all."""

    def solve(derivative, x, start, end):
        nodes = np.geomspace(start, end, count + 1)
        spread = (end / start) ** (np.linspace(0, 0.5, x.shape[0])[:, None] / count)  # up to half a step
        times = np.concatenate([[[start]] * x.shape[0], nodes[1:-1] * spread, [[end]] * x.shape[0]], axis=1)
        times = tf.unstack(tf.constant(times, tf.float32), axis=1)
        for s, after in zip(times[:-1], times[1:]):
            h = (after - s)[:, None, None, None]
            k1 = derivative(x, s)
            k2 = derivative(x + h / 2 * k1, (s + after) / 2)
            k3 = derivative(x + h / 2 * k2, (s + after) / 2)
            k4 = derivative(x + h * k3, after)
            x += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return types.SimpleNamespace(x=x, evaluations=4 * count)

    return solve


@pytest.mark.parametrize("respacing", ["5", "20", "ddim10"])
def test_heun_is_the_published_algorithm(respacing):
    """Algorithm 1 of arXiv:2206.00364 without churn, in xbar and float64. 5e-6 is observed with 5 timesteps: eps from D
    at the smallest sigma, 0.01, loses two digits, and the step to it is long."""
    process = _DIT.respaced(respacing)
    s = process.schedule.sqrt_recipm1_alphas_cumprod[::-1]
    x = _BASIS / np.sqrt(process.schedule.alphas_cumprod[-1])

    def slope(x, s):
        return (x - (_IMAGE + 0.25 / (0.25 + s**2) * (x - _IMAGE))) / s

    for now, after in zip(s, np.append(s[1:], 0.0)):
        d = slope(x, now)
        x_after = x + (after - now) * d
        if after > 0:
            x_after = x + (after - now) * (d + slope(x_after, after)) / 2
        x = x_after
    np.testing.assert_allclose(_sample(heun, process, _denoiser(_IMAGE, 0.5), _BASIS), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method, order, evaluations", [(euler, 1, lambda n: n), (heun, 2, lambda n: 2 * n - 1)])
def test_order(method, order, evaluations):
    """On the grid of arXiv:2206.00364 (rho = 7), s from 20 to 0.05, against the exact flow and one last prediction."""
    errors = []
    for count in (16, 32, 64):
        s = np.linspace(0.05 ** (1 / 7), 20 ** (1 / 7), count) ** 7
        abar = 1 / (1 + s**2)
        process = GaussianDiffusion(1 - abar / np.append(1.0, abar[:-1]), "fixed_small")
        assert method(process).evaluations == evaluations(count)
        end = _flow(0.5, 0.3, _NOISE / np.sqrt(abar[-1]), s[-1], s[0])
        exact = 0.3 + 0.25 / (0.25 + s[0] ** 2) * (end - 0.3)
        run = tf.function(functools.partial(run_recurrence, denoise(process, _denoiser(0.3, 0.5, process))))
        errors.append(np.abs(run(_NOISE, method(process).cast()) - exact).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.2)
    assert errors[-1] < 0.07


@pytest.mark.parametrize("method", [euler, heun])
@pytest.mark.parametrize("respacing", ["1", "2", "10"])
def test_one_image_in_the_data_is_found_in_any_number_of_steps(method, respacing):
    x = _sample(method, _DIT.respaced(respacing), _denoiser(_IMAGE, 0.0), _NOISE)
    np.testing.assert_allclose(x, np.broadcast_to(_IMAGE, _SHAPE), atol=1e-5)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_euler_is_ddim_as_dit_runs_it(golden, stub, assert_agrees, variant, clip):
    arrays, process = golden("ddim_sample_loop"), GaussianDiffusion(variance=_VARIANTS[variant]).respaced("10")
    model_fn, x = stub(arrays, variant == "default"), tf.constant(arrays["xT"])
    actual = _sample(euler, process, model_fn, x, bool(clip))
    assert_agrees(actual, ddim(process, model_fn, x, None, clip_denoised=bool(clip)).numpy())
    assert_agrees(actual, arrays[f"ddim/10/{variant}/eta0.0/clip{clip}/final"])


@pytest.mark.parametrize("method", [euler, heun])
def test_a_clipped_prediction_stays_inside_the_range(method):
    """The predictions are clip(3 image) at every step, and so is the result; without clipping it is 3 image."""
    process, model_fn = _DIT.respaced("5"), _denoiser(3 * _IMAGE, 0.0)
    clipped = _sample(method, process, model_fn, _NOISE, clip_denoised=True)
    assert np.abs(clipped).max() == 1
    np.testing.assert_allclose(clipped, np.broadcast_to(np.clip(3 * _IMAGE, -1, 1), _SHAPE), atol=1e-5)
    assert np.abs(_sample(method, process, model_fn, _NOISE)).max() > 2


def test_compiled_it_is_one_loop_of_known_length(assert_agrees):
    process, model_fn = _DIT.respaced("8"), _denoiser(_IMAGE, 0.5)
    run = tf.function(lambda x, table: run_recurrence(denoise(process, model_fn), x, table), jit_compile=True)
    table = heun(process).cast()
    assert_agrees(run(_NOISE, table), _sample(heun, process, model_fn, _NOISE))
    hlo = run.experimental_get_compiler_ir(_NOISE, table)(stage="optimized_hlo")
    assert re.findall(r" while\(.*known_trip_count\":\{\"n\":\"(\d+)\"", hlo) == ["15"]
    assert len(re.findall(r" while\(", hlo)) == 1
    assert "f64" not in hlo


def test_between_the_timesteps_the_flow_has_the_exact_slope():
    """eps = s (xbar - mean) / (deviation^2 + s^2), at s of each row's own, on the timesteps and between them."""
    at = np.float32([0.0, 0.25, 3.0, 500.7, 998.99, 999.0])
    s = np.exp(np.interp(at, np.arange(1000), _LOG_S))[:, None, None, None]
    xbar = np.random.default_rng(2).standard_normal((6, 4, 4, 2)) * np.sqrt(0.25 + s**2)
    derivative, clean = adaptive(_DIT, _denoiser(_IMAGE, 0.5))
    arguments = tf.constant(xbar, tf.float32), tf.constant(s.ravel(), tf.float32)
    exact = s * (xbar - _IMAGE) / (0.25 + s**2)
    # (xbar - D) / s: an ulp of xbar is 1e-5 of eps at the smallest s, 0.01.
    np.testing.assert_allclose(derivative(*arguments), exact, rtol=0, atol=5e-5)
    np.testing.assert_allclose(clean(*arguments), xbar - s * exact, rtol=0, atol=1e-4)  # 157 to 0.3 at the largest s


@pytest.mark.parametrize("respacing", ["", "10"])
def test_the_model_sees_original_timesteps_and_the_first_channels_of_its_output_count(respacing):
    """A respaced chain is linear in log s between the timesteps that it kept; rounding may not lead out of it."""
    process, seen = GaussianDiffusion().respaced(respacing), []

    def model_fn(x, t):
        seen.append(t.numpy())
        return tf.cast(tf.concat([tf.ones_like(x), 9 * tf.ones_like(x)], axis=-1), tf.bfloat16)

    kept = process.timestep_map
    at = np.concatenate([kept[:-1] + 0.25 * np.diff(kept), kept[[0, -1]]])
    log_s = np.log(process.schedule.sqrt_recipm1_alphas_cumprod)
    s = tf.constant(np.exp(np.interp(at, kept, log_s)), tf.float32)
    eps = adaptive(process, model_fn)[0](tf.ones((len(at), 1, 1, 1)), s)
    assert eps.dtype == tf.float32 and seen[0].dtype == np.float32
    np.testing.assert_allclose(seen[0], at, rtol=0, atol=1e-3)  # an ulp of log s where intervals are shortest, 0.005
    assert seen[0].min() >= 0 and seen[0].max() <= 999
    np.testing.assert_allclose(eps, np.ones_like(eps), atol=3e-5)


def test_a_solver_of_the_flow_finds_the_exact_image():
    """3.5e-5 is observed, 16 times as much with half the steps and 2e-6 with twice as many."""
    x_0, solution = adaptive_flow(_DIT, _denoiser(_IMAGE, 0.5), _NOISE, _runge_kutta(40))
    assert solution.evaluations == 160
    np.testing.assert_allclose(x_0, _exact_image(), rtol=0, atol=1e-4)


def test_compiled_an_adaptive_solver_finds_it_too():
    """Dormand and Prince's; 1.6e-4 in 158 evaluations is observed."""
    solve = functools.partial(dopri5, atol=1e-5, rtol=1e-5)
    run = tf.function(lambda x: adaptive_flow(_DIT, _denoiser(_IMAGE, 0.5), x, solve), jit_compile=True)
    x_0, solution = run(_NOISE)
    assert solution.finished.numpy().all() and solution.evaluations.numpy().max() < 200
    np.testing.assert_allclose(x_0, _exact_image(), rtol=0, atol=5e-4)
    assert "f64" not in run.experimental_get_compiler_ir(_NOISE)(stage="hlo")


def test_a_clipped_flow_ends_inside_the_range():
    x_0, _ = adaptive_flow(_DIT, _denoiser(3 * _IMAGE, 0.0), _NOISE, _runge_kutta(5), clip_denoised=True)
    np.testing.assert_allclose(x_0, np.broadcast_to(np.clip(3 * _IMAGE, -1, 1), _SHAPE), atol=1e-5)
    assert np.abs(x_0).max() == 1
