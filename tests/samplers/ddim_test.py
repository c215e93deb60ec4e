import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers.ddim import ddim, ddim_invert
from dit_tf.samplers.ddpm import ddpm

_VARIANTS = {"default": "learned_range", "fixed_large": "fixed_large"}
_ALPHA_BAR = GaussianDiffusion().schedule.alphas_cumprod
_SHAPE = (3, 4, 4, 2)


def _denoiser(mean, deviation):
    """The exact eps where the data are N(mean, deviation^2), for models of fixed variance."""
    signal = np.sqrt(_ALPHA_BAR)
    factor = np.sqrt(1 - _ALPHA_BAR) / (_ALPHA_BAR * deviation**2 + 1 - _ALPHA_BAR)

    def model_fn(x, t):
        a, b = (tf.gather(tf.constant(table, tf.float32), t)[:, None, None, None] for table in (signal, factor))
        return b * (x - a * mean)

    return model_fn


def _process(respacing):
    return GaussianDiffusion(variance="fixed_small").respaced(respacing)


def _compiled(sampler, process, model_fn, *arguments):
    return tf.function(lambda x: sampler(process, model_fn, x, *arguments), jit_compile=True)


def _normal(seed=0):
    return np.random.default_rng(seed).standard_normal(_SHAPE).astype(np.float32)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_one_image_in_the_data_is_found_in_any_number_of_steps(eta):
    image = np.random.default_rng(1).uniform(-1, 1, _SHAPE[1:]).astype(np.float32)
    x = ddim(_process("3"), _denoiser(image, 0.0), _normal(), RowSeeds(0, tf.range(3)), eta)
    np.testing.assert_allclose(x, np.broadcast_to(image, _SHAPE), atol=1e-5)


def test_the_ode_of_a_gaussian_is_a_straight_map_of_quantiles():
    """x_0 = mean + deviation x_T, up to a first-order method's error: 0.13 in 25 steps, so 0.0033 in 1000."""
    x_T = _normal()
    x = _compiled(ddim, _process(""), _denoiser(0.3, 0.5), None)(x_T)
    np.testing.assert_allclose(x, 0.3 + 0.5 * x_T, atol=0.006)  # the rest: abar_T is 4e-5, not 0


def test_full_eta_is_ancestral_sampling_with_the_small_variance(assert_agrees):
    process, seeds = _process("8"), RowSeeds(4, tf.range(3))
    start = seeds.normal(Stream.START, _SHAPE[1:])
    ancestral = ddpm(process, _denoiser(0.3, 0.5), start, seeds)
    assert_agrees(ddim(process, _denoiser(0.3, 0.5), start, seeds, eta=1.0), ancestral.numpy())


def test_inversion_returns_to_its_image_and_the_error_falls_with_the_step():
    """First order: four times the steps, a quarter of the error, and a rest because abar_0 < 1 and abar_T > 0."""
    x = (0.3 + 0.5 * _normal(5)).astype(np.float32)
    errors = []
    for respacing in ("100", "400"):
        process, model_fn = _process(respacing), _denoiser(0.3, 0.5)
        x_T = _compiled(ddim_invert, process, model_fn)(x)
        errors.append(np.abs(_compiled(ddim, process, model_fn, None)(x_T) - x).max())
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < 0.025  # the rest is about sqrt(abar_T) = 0.006


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_samples_agree_with_dit(golden, stub, recorded_noise, assert_agrees, variant, eta, clip):
    arrays = golden("ddim_sample_loop")
    process = GaussianDiffusion(variance=_VARIANTS[variant]).respaced("10")
    seeds = recorded_noise(arrays["ddim/10/noise"])
    x = ddim(process, stub(arrays, variant == "default"), arrays["xT"], seeds, eta, bool(clip))
    assert_agrees(x, arrays[f"ddim/10/{variant}/eta{eta}/clip{clip}/final"])


def test_inversion_agrees_with_dit(golden, stub, assert_agrees):
    arrays, process = golden("ddim_sample_loop"), GaussianDiffusion().respaced("10")
    expected = arrays["ddim_reverse/10/samples"][-1]
    assert_agrees(_compiled(ddim_invert, process, stub(arrays, True))(arrays["x0"]), expected)
    assert_agrees(ddim_invert(process, stub(arrays, True), arrays["x0"]), expected)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_compiled_equals_eager(assert_agrees, eta):
    process, model_fn, seeds = _process("5"), _denoiser(0.3, 0.5), RowSeeds(4, tf.range(3))
    eager = ddim(process, model_fn, _normal(), seeds, eta)
    assert_agrees(_compiled(ddim, process, model_fn, seeds, eta)(_normal()), eager.numpy())


def test_eta_beyond_ancestral_sampling_is_refused():
    for eta in (-0.1, 1.5):
        with pytest.raises(ValueError, match=str(eta)):
            ddim(_process("3"), _denoiser(0.0, 1.0), _normal(), None, eta)
