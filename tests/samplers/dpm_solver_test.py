import re

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.diffusion.respace import shifted_timesteps
from dit_tf.samplers.ddim import ddim
from dit_tf.samplers.dpm_solver import dpm_solver_pp
from dit_tf.samplers.loop import run_recurrence
from dit_tf.samplers.probability_flow import denoise, euler

_DIT = GaussianDiffusion(variance="fixed_small")
_SHAPE = (3, 4, 4, 2)
_IMAGE = np.random.default_rng(1).uniform(-1, 1, _SHAPE[1:]).astype(np.float32)
_NOISE = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)
_BASIS = np.stack([np.full(_SHAPE[1:], value, np.float32) for value in (0, 1)])  # offset, and offset + slope


def _through(count, shift):
    return _DIT.keeping(shifted_timesteps(_DIT.num_timesteps, count, shift))


def _denoiser(mean, deviation, process=_DIT):
    """The exact eps where the data are N(mean, deviation^2); every solver is then a linear map, pixel by pixel."""
    abar = process.schedule.alphas_cumprod
    signal, factor = np.sqrt(abar), np.sqrt(1 - abar) / (abar * deviation**2 + 1 - abar)

    def model_fn(x, t):
        a, b = (tf.gather(tf.constant(table, tf.float32), t)[:, None, None, None] for table in (signal, factor))
        return b * (x - a * mean)

    return model_fn


def _sample(process, model_fn, x, clip_denoised=False):
    return run_recurrence(denoise(process, model_fn, clip_denoised), x, dpm_solver_pp(process)).numpy()


def _as_published(process, clean, x):
    """Algorithm 2 of the paper in float64; clean(x, alpha, sigma) is the data prediction. It stops short of sigma = 0,
    where the chain's last step takes the prediction."""
    alpha, sigma = np.sqrt(process.schedule.alphas_cumprod[::-1]), np.sqrt(1 - process.schedule.alphas_cumprod[::-1])
    lam = np.log(alpha) - np.log(sigma)
    x, before = np.float64(x), None
    for i in range(1, process.num_timesteps):
        h, now = lam[i] - lam[i - 1], clean(x, alpha[i - 1], sigma[i - 1])
        D = now
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * before
        x, before = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * D, now
    return clean(x, alpha[-1], sigma[-1])


@pytest.mark.parametrize("count, shift", [(4, 1), (20, 1), (10, 3.0), (10, 0.2)])
def test_it_is_the_published_algorithm(count, shift):
    """Shifts make r of every size. 1e-5 is float32: D = (x - sigma eps) / alpha begins with alpha = 1 / 157."""
    process = _through(count, shift)

    def clean(x, alpha, sigma):
        return _IMAGE + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * _IMAGE)

    actual = _sample(process, _denoiser(_IMAGE, 0.5), _BASIS)
    np.testing.assert_allclose(actual, _as_published(process, clean, _BASIS), rtol=0, atol=1e-5)


def test_it_is_of_second_order():
    """Twice the steps, a quarter of the error, on a chain whose s = sigma / alpha falls from 20 to 0.05 as in EDM.

    Exact: xbar - mean shrinks as sqrt(deviation^2 + s^2), and the last prediction multiplies it by d^2 / (d^2 + s^2).
    """
    errors, variance = [], 0.25
    for count in (16, 32, 64):
        s = np.linspace(0.05 ** (1 / 7), 20 ** (1 / 7), count) ** 7
        abar = 1 / (1 + s**2)
        process = GaussianDiffusion(1 - abar / np.append(1.0, abar[:-1]), "fixed_small")
        slope = variance / np.sqrt((variance + s[0] ** 2) * (variance + s[-1] ** 2))
        exact = 0.3 + slope * (_NOISE / np.sqrt(abar[-1]) - 0.3)
        errors.append(np.abs(_sample(process, _denoiser(0.3, 0.5, process), _NOISE) - exact).max())
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.15)
    assert errors[0] < 0.05


@pytest.mark.parametrize("respacing", ["1", "2", "3", "10"])
def test_one_image_in_the_data_is_found_in_any_number_of_steps(respacing):
    x = _sample(_DIT.respaced(respacing), _denoiser(_IMAGE, 0.0), _NOISE)
    np.testing.assert_allclose(x, np.broadcast_to(_IMAGE, _SHAPE), atol=1e-5)


@pytest.mark.parametrize("respacing", ["1", "2"])
def test_first_and_last_step_are_ddim(assert_agrees, respacing):
    process, model_fn = _DIT.respaced(respacing), _denoiser(0.3, 0.5)
    expected = ddim(process, model_fn, _NOISE, None).numpy()
    assert_agrees(_sample(process, model_fn, _NOISE), expected)


def test_a_clipped_prediction_stays_inside_the_range():
    """The predictions are clip(3 image) at every step, and so is the result; without clipping it is 3 image."""
    process, model_fn = _DIT.respaced("5"), _denoiser(3 * _IMAGE, 0.0)
    clipped = _sample(process, model_fn, _NOISE, clip_denoised=True)
    assert np.abs(clipped).max() == 1
    np.testing.assert_allclose(clipped, np.broadcast_to(np.clip(3 * _IMAGE, -1, 1), _SHAPE), atol=1e-5)
    assert np.abs(_sample(process, model_fn, _NOISE)).max() > 2


def test_compiled_it_is_one_loop_of_known_length_which_runs_other_tables_too(assert_agrees):
    """DDIM's table has the length of this one: the same compiled function runs it."""
    process, model_fn = _DIT.respaced("8"), _denoiser(_IMAGE, 0.5)
    run = tf.function(lambda x, table: run_recurrence(denoise(process, model_fn), x, table), jit_compile=True)
    table, other = dpm_solver_pp(process).cast(), euler(process).cast()
    assert table.evaluations == 8
    assert_agrees(run(_NOISE, table), _sample(process, model_fn, _NOISE))
    assert_agrees(run(_NOISE, other), ddim(process, model_fn, _NOISE, None).numpy())
    assert run.experimental_get_tracing_count() == 1
    hlo = run.experimental_get_compiler_ir(_NOISE, table)(stage="optimized_hlo")
    assert re.findall(r" while\(.*known_trip_count\":\{\"n\":\"(\d+)\"", hlo) == ["8"]
    assert len(re.findall(r" while\(", hlo)) == 1
    assert "f64" not in hlo


@pytest.mark.parity
@pytest.mark.parametrize("count, shift", [(2, 1), (10, 1), (20, 1), (10, 3.0), (10, 0.2)])
def test_it_agrees_with_diffusers(golden, stub, assert_agrees, count, shift):
    """On a random linear denoiser. Its abar is a float32 product, which costs up to 4e-5; 1e-6 are ours."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    arrays, process = golden("ddim_sample_loop"), _through(count, shift)
    model_fn = stub(arrays, False)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=_DIT.betas,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=process.timestep_map[::-1].tolist())
    x = torch.from_numpy(np.ascontiguousarray(arrays["xT"]))
    for t in scheduler.timesteps:
        eps = model_fn(x.numpy(), tf.fill(len(x), int(t))).numpy()
        x = scheduler.step(torch.from_numpy(eps), t, x).prev_sample
    assert_agrees(_sample(process, model_fn, tf.constant(arrays["xT"])), x.numpy(), tolerance=1e-4)
