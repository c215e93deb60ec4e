import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers.ddpm import ddpm

_VARIANTS = {"default": "learned_range", "fixed_large": "fixed_large", "fixed_small": "fixed_small"}
_MEAN, _DEVIATION = 0.3, 0.5


def _gaussian_denoiser(process):
    """The exact eps and variance where the data are N(_MEAN, _DEVIATION^2), independent of each other.

    p(x_{t-1} | x_t) is then normal with the posterior variance + coef1^2 Var(x_0 | x_t), which v can express.
    """
    s, variance = process.schedule, _DEVIATION**2
    alpha_bar = s.alphas_cumprod
    marginal = alpha_bar * variance + 1 - alpha_bar
    left = variance * (1 - alpha_bar) / marginal  # Var(x_0 | x_t)
    reverse = np.log(s.posterior_variance + s.posterior_mean_coef1**2 * left)
    low = s.posterior_log_variance_clipped
    v = 2 * (reverse - low) / (s.log_betas - low) - 1
    tables = (np.sqrt(alpha_bar) * _MEAN, np.sqrt(1 - alpha_bar) / marginal, v)
    index = np.zeros(1000, np.int32)
    index[process.timestep_map] = np.arange(process.num_timesteps)

    def model_fn(x, t):
        k = tf.gather(index, t)
        mean, factor, v = (tf.gather(tf.constant(a, tf.float32), k)[:, None, None, None] for a in tables)
        return tf.concat([factor * (x - mean), v + tf.zeros_like(x)], axis=-1)

    return model_fn


def test_a_perfect_denoiser_of_a_gaussian_gives_that_gaussian():
    """Whatever the number of steps; only the last one, which adds no noise, keeps E[x_0 | x_0.01] in place of x_0."""
    process, seeds = GaussianDiffusion().respaced("20"), RowSeeds(3, tf.range(64))
    start = seeds.normal(Stream.START, (32, 32, 1))
    run = tf.function(lambda x: ddpm(process, _gaussian_denoiser(process), x, seeds), jit_compile=True)
    x = run(start).numpy()
    alpha_bar, variance = process.schedule.alphas_cumprod[0], _DEVIATION**2
    shrunk = alpha_bar * variance**2 / (alpha_bar * variance + 1 - alpha_bar)
    # 65,536 draws: four standard errors.
    np.testing.assert_allclose(x.mean(), _MEAN, atol=4 * _DEVIATION / 256)
    np.testing.assert_allclose(x.var(), shrunk, rtol=4 * np.sqrt(2) / 256)


def test_an_image_does_not_depend_on_its_batch(assert_agrees):
    process = GaussianDiffusion().respaced("5")
    seeds, shape = RowSeeds(9, tf.range(4)), (4, 4, 3)
    whole = ddpm(process, _gaussian_denoiser(process), seeds.normal(Stream.START, shape), seeds)
    row = RowSeeds(9, tf.constant([2]))
    alone = ddpm(process, _gaussian_denoiser(process), row.normal(Stream.START, shape), row)
    assert_agrees(alone, whole[2:3].numpy(), 1e-6)  # elementwise: vectorisation may move the last bit


def test_the_noise_of_each_step_is_its_own(recorded_noise):
    """A model of no noise and v = 1: x = sqrt(recip alpha) x + beta^(1/2) noise, step by step, none at t = 0."""
    process = GaussianDiffusion().respaced("4")
    noise = np.random.default_rng(0).standard_normal((4, 2, 3, 3, 1)).astype(np.float32)
    output = tf.concat([tf.zeros([2, 3, 3, 1]), tf.ones([2, 3, 3, 1])], axis=-1)
    x = expected = np.ones((2, 3, 3, 1), np.float32)
    for k, beta in enumerate(process.betas[::-1]):
        expected = expected / np.sqrt(1 - beta) + np.sqrt(beta) * noise[k] * (k < 3)
    # abar is 4e-5 at the start: predicted images reach 160 and leave 160 x 6e-8 of float32 a few times over.
    actual = ddpm(process, lambda x, t: output, x, recorded_noise(noise))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_samples_agree_with_dit_compiled_and_eager(golden, stub, recorded_noise, assert_agrees, variant, clip):
    arrays = golden("p_sample_loop")
    process = GaussianDiffusion(variance=_VARIANTS[variant]).respaced("10")
    model_fn, seeds = stub(arrays, variant == "default"), recorded_noise(arrays["p/10/noise"])

    def run(x):
        return ddpm(process, model_fn, x, seeds, clip_denoised=bool(clip))

    expected = arrays[f"p/10/{variant}/clip{clip}/final"]
    assert_agrees(tf.function(run, jit_compile=True)(arrays["xT"]), expected)
    assert_agrees(run(arrays["xT"]), expected)


def test_the_model_is_shown_dits_timesteps(golden, recorded_noise):
    arrays, seen = golden("p_sample_loop"), []
    process = GaussianDiffusion(variance="fixed_small").respaced("10")
    ddpm(process, lambda x, t: seen.append(t.numpy()) or x, arrays["xT"], recorded_noise(arrays["p/10/noise"]))
    np.testing.assert_array_equal(seen, arrays["p/10/model_t_seen"])
