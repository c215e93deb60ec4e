import math

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import (
    Gaussian,
    GaussianDiffusion,
    Prediction,
    approximate_normal_cdf,
    discretized_gaussian_log_likelihood,
    normal_kl,
)
from dit_tf.runtime.seeds import RowSeeds, Stream

_VARIANTS = {"default": "learned_range", "fixed_large": "fixed_large", "fixed_small": "fixed_small"}
_N, _SHAPE = 6, (4, 5, 3)
_T = np.array([0, 1, 2, 10, 30, 49], np.int32)


def _process(variance="learned_range"):
    return GaussianDiffusion(variance=variance).respaced("50")


def _batch(seed=0):
    rng = np.random.default_rng(seed)
    images = np.clip(rng.standard_normal((_N, *_SHAPE)), -1, 1).astype(np.float32)
    return images, rng.standard_normal(images.shape).astype(np.float32)


def _model(x, t):
    """Any smooth function of x and t with 2C outputs."""
    t = tf.cast(t, tf.float32)[:, None, None, None] / 1000
    return tf.concat([tf.tanh(x + t), tf.sin(2 * x - t)], axis=-1)


# Closed forms


def test_q_sample_has_the_moments_that_are_stated():
    process, x = _process(), tf.fill([_N, 64, 64, 3], 0.7)
    noise = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    x_t, q = process.q_sample(x, _T, noise), process.q_mean_variance(x, _T)
    alpha_bar = process.schedule.alphas_cumprod[_T]
    np.testing.assert_allclose(q.mean[:, 0, 0, 0], 0.7 * np.sqrt(alpha_bar), rtol=1e-6)
    np.testing.assert_allclose(q.variance[:, 0, 0, 0], 1 - alpha_bar, rtol=1e-6)
    # 12,288 draws: the standard errors are 0.009 of a deviation and 0.013 of the variance; five of each.
    deviation = np.sqrt(1 - alpha_bar)
    assert (np.abs(x_t.numpy().mean((1, 2, 3)) - 0.7 * np.sqrt(alpha_bar)) < 0.045 * deviation).all()
    np.testing.assert_allclose(x_t.numpy().var((1, 2, 3)), 1 - alpha_bar, rtol=0.065)


def test_the_posterior_mean_weighs_x_start_and_x_t_by_their_precisions():
    process, (x, noise) = _process(), _batch()
    x_t = process.q_sample(x, _T, noise)
    s, t = process.schedule, _T[1:]
    beta, before = (a[t][:, None, None, None] for a in (s.betas, s.alphas_cumprod_prev))
    prior, likelihood = 1 / (1 - before), (1 - beta) / beta
    expected = (prior * np.sqrt(before) * x[1:] + likelihood * x_t[1:] / np.sqrt(1 - beta)) / (prior + likelihood)
    np.testing.assert_allclose(process.q_posterior(x, x_t, _T).mean[1:], expected, atol=1e-5)  # float32 tables


def test_the_divergence_of_two_gaussians():
    """KL(N(1, 4) || N(0, 1)) = (4 + 1 - 1 - ln 4) / 2, and none of a Gaussian from itself."""
    p = Gaussian(tf.constant(1.0), None, tf.constant(math.log(4.0)))
    q = Gaussian(tf.constant(0.0), None, tf.constant(0.0))
    np.testing.assert_allclose(normal_kl(p, q), (4 - math.log(4)) / 2, rtol=1e-6)
    assert normal_kl(p, p) == 0


def test_the_bins_of_the_discretised_likelihood_exhaust_the_probability():
    levels = np.linspace(-1, 1, 256).astype(np.float32)
    log_probability = discretized_gaussian_log_likelihood(levels, 0.3, np.float32(-1.0))
    np.testing.assert_allclose(np.exp(log_probability).sum(), 1.0, atol=1e-5)  # 256 roundings of 6e-8


def test_the_approximate_cdf_is_close_to_the_normal_one():
    x = np.linspace(-8, 8, 161, dtype=np.float32)
    exact = [0.5 * math.erfc(-v / math.sqrt(2)) for v in x]
    np.testing.assert_allclose(approximate_normal_cdf(x), exact, atol=2e-4)  # the bound of the approximation


def test_the_bound_is_zero_for_a_model_that_knows_the_posterior():
    """Right noise and v = -1 give q(x_{t-1} | x_t, x_0) itself; 1e-6 bits is float32 rounding of the mean."""
    process, (x, noise) = _process(), _batch()
    right = tf.concat([noise, -tf.ones_like(noise)], axis=-1)
    losses = process.losses_at(lambda x_t, t: right, x, _T, noise)
    np.testing.assert_array_equal(losses["mse"], np.zeros(_N))
    np.testing.assert_allclose(losses["vb"][1:], np.zeros(_N - 1), atol=1e-6)
    assert losses["vb"][0] > 0.1  # t = 0 is a likelihood, and no certainty


def test_learned_variances_reach_both_bounds():
    process, (x, _) = _process(), _batch()
    s, t = process.schedule, _T
    for v, table in ((-1.0, s.posterior_log_variance_clipped), (1.0, s.log_betas)):
        output = tf.fill([_N, 4, 5, 6], v)
        log_variance = process.p_mean_variance(output, x, _T).log_variance
        np.testing.assert_allclose(log_variance, np.broadcast_to(table[t][:, None, None, None], x.shape), rtol=1e-6)


# Inverse round trips


@pytest.mark.parametrize("variance", ["learned_range", "fixed_large", "fixed_small"])
def test_the_right_noise_predicts_the_image(variance):
    process, (x, noise) = _process(variance), _batch()
    output = tf.concat([noise, noise], axis=-1) if variance == "learned_range" else noise
    x_t = process.q_sample(x, _T, noise)
    # x_T holds 0.6 % of the image: division by it leaves 1e-7 / 0.006 of float32.
    np.testing.assert_allclose(process.p_mean_variance(output, x_t, _T).pred_xstart, x, atol=1e-4)


@pytest.mark.parametrize("clip_denoised", [False, True])
def test_predicted_noise_and_image_make_up_x_t(clip_denoised):
    process, (x, noise) = _process(), _batch()
    x_t = process.q_sample(x, _T, noise)
    p = process.predict(_model, x_t, _T, clip_denoised)
    assert (tf.reduce_max(tf.abs(p.pred_xstart)) <= 1) == clip_denoised
    np.testing.assert_allclose(process.q_sample(p.pred_xstart, _T, p.eps), x_t, atol=1e-5)


# Invariance


def test_a_rows_loss_does_not_depend_on_its_batch():
    process, (x, _) = _process(), _batch()
    whole = process.training_losses(_model, x, RowSeeds(5, tf.range(_N), 3))
    for i in (0, 4):
        alone = process.training_losses(_model, x[i : i + 1], RowSeeds(5, tf.constant([i]), 3))
        for name, losses in whole.items():
            # The draws are the same bits; the means over H, W, C may be summed in another order.
            np.testing.assert_allclose(alone[name], losses[i : i + 1], rtol=1e-6, err_msg=name)


def test_training_losses_are_those_at_the_seeds_timestep_and_noise():
    process, (x, _) = _process(), _batch()
    seeds = RowSeeds(7, tf.range(_N), 11)
    t, noise = seeds.integers(Stream.TIME, 50), seeds.normal(Stream.NOISE, _SHAPE)
    assert len(set(t.numpy())) > 1
    actual, expected = process.training_losses(_model, x, seeds), process.losses_at(_model, x, t, noise)
    for name in ("loss", "mse", "vb"):
        assert actual[name].shape == (_N,) and actual[name].dtype == tf.float32
        np.testing.assert_array_equal(actual[name], expected[name])


def test_compiled_equals_eager(assert_agrees):
    process, (x, _) = _process(), _batch()

    def losses_and_gradient(scale):
        with tf.GradientTape() as tape:
            tape.watch(scale)
            losses = process.training_losses(lambda x, t: scale * _model(x, t), x, RowSeeds(5, tf.range(_N), 0))
        return losses["vb"], losses["loss"], tape.gradient(losses["loss"], scale)

    scale = tf.ones([6])
    compiled = tf.function(losses_and_gradient, jit_compile=True)
    for actual, expected in zip(compiled(scale), losses_and_gradient(scale)):
        assert_agrees(actual, expected.numpy())
    program = compiled.experimental_get_compiler_ir(scale)(stage="hlo")
    assert "f32[" in program and "f64[" not in program  # a TPU emulates float64


def test_the_model_sees_original_timesteps():
    seen = []
    process, (x, noise) = GaussianDiffusion(variance="fixed_small").respaced("ddim50"), _batch()
    process.losses_at(lambda x, t: seen.append(t) or x, x, _T, noise)
    assert seen[0].dtype == tf.int32
    np.testing.assert_array_equal(seen[0], 20 * _T)


def test_a_bfloat16_model_gets_float32_losses():
    process, (x, noise) = _process(), _batch()
    output = tf.cast(_model(noise, _T), tf.bfloat16)
    rounded = process.losses_at(lambda x, t: output, x, _T, noise)
    widened = process.losses_at(lambda x, t: tf.cast(output, tf.float32), x, _T, noise)
    for name in ("loss", "mse", "vb"):
        assert rounded[name].dtype == tf.float32
        np.testing.assert_array_equal(rounded[name], widened[name])


# Gradients


def test_the_bound_trains_the_variance_and_the_error_trains_the_mean():
    process, (x, noise) = _process(), _batch()
    output = _model(tf.constant(noise), _T)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(output)
        losses = process.losses_at(lambda x, t: output, x, _T, noise)
    vb, mse = tape.gradient(losses["vb"], output).numpy(), tape.gradient(losses["mse"], output).numpy()
    assert (vb[..., :3] == 0).all() and (mse[..., 3:] == 0).all()
    assert (np.abs(vb[..., 3:]).max((1, 2, 3)) > 0).all() and (np.abs(mse[..., :3]).max((1, 2, 3)) > 0).all()


def test_gradients_stay_finite_where_the_variance_has_run_away():
    """v = -200 at t = 0 is a scale of 1e-15, whose cube in the cdf would overflow and meet a zero derivative."""
    process, (x, noise) = GaussianDiffusion(), _batch()
    v = tf.fill(x.shape, -200.0)
    with tf.GradientTape() as tape:
        tape.watch(v)
        vb = process.losses_at(lambda x, t: tf.concat([x, v], axis=-1), x, tf.zeros([_N], tf.int32), noise)["vb"]
    assert np.isfinite(vb).all() and np.isfinite(tape.gradient(vb, v)).all()


# The reference program


@pytest.mark.parametrize("respacing", ["full", "50"])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_losses_agree_with_dit(golden, stub, assert_agrees, respacing, variant):
    arrays = golden(f"losses_respacing_{respacing}")
    process = GaussianDiffusion(variance=_VARIANTS[variant]).respaced("" if respacing == "full" else respacing)
    model_fn, x, noise = stub(arrays, variant == "default"), arrays["x0"], arrays["noise"]
    t = tf.constant(arrays["t"], tf.int32)
    np.testing.assert_array_equal(process.model_timesteps(t), arrays[f"{variant}/model_t_seen"])
    losses = process.losses_at(model_fn, x, t, noise)
    assert set(losses) == {key.split("/")[-1] for key in arrays if key.startswith(f"{variant}/loss/")}
    for name, loss in losses.items():
        assert_agrees(loss, arrays[f"{variant}/loss/{name}"])
    x_t = process.q_sample(x, t, noise)
    for clip in (0, 1):
        p = process.predict(model_fn, x_t, t, bool(clip))
        for name in Prediction._fields[:4]:
            expected = arrays[f"{variant}/p_mean_variance/clip{clip}/{name}"]
            assert_agrees(tf.broadcast_to(getattr(p, name), x.shape), expected)
        assert_agrees(process.vb_terms_bpd(p, x, x_t, t), arrays[f"{variant}/vb_terms_bpd/clip{clip}"])


@pytest.mark.parametrize("respacing", ["full", "50"])
def test_the_forward_process_agrees_with_dit(golden, assert_agrees, respacing):
    arrays = golden(f"losses_respacing_{respacing}")
    process = GaussianDiffusion().respaced("" if respacing == "full" else respacing)
    x, t = arrays["x0"], tf.constant(arrays["t"], tf.int32)
    x_t = process.q_sample(x, t, arrays["noise"])
    assert_agrees(x_t, arrays["default/q_sample"])
    actual = {"q_mean_variance": process.q_mean_variance(x, t), "q_posterior": process.q_posterior(x, x_t, t)}
    for name, q in actual.items():
        log_variance = "log_variance" + "_clipped" * (name == "q_posterior")
        for key, values in zip(("mean", "variance", log_variance), q):
            assert_agrees(tf.broadcast_to(values, x.shape), arrays[f"default/{name}/{key}"])


def test_divergence_and_likelihood_agree_with_dit(golden, assert_agrees):
    arrays = golden("helpers")
    p, q = (Gaussian(arrays[f"kl_m{i}"], None, arrays[f"kl_l{i}"]) for i in (1, 2))
    assert_agrees(normal_kl(p, q), arrays["normal_kl"])
    assert_agrees(normal_kl(p, Gaussian(0.0, 1.0, 0.0)), arrays["normal_kl_std"])
    assert_agrees(approximate_normal_cdf(arrays["cdf_in"]), arrays["cdf"])
    log_likelihood = discretized_gaussian_log_likelihood(*(arrays[f"dgll_{k}"] for k in ("x", "means", "log_scales")))
    assert_agrees(log_likelihood, arrays["discretized_gaussian_log_likelihood"])


# Refusals


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="'learned'"):
        GaussianDiffusion(variance="learned")
    with pytest.raises(ValueError, match="1000 entries, got 3"):
        GaussianDiffusion(timestep_map=np.arange(3))
    x = tf.zeros([1, 4, 4, 3])
    with pytest.raises(ValueError, match="6 channels, got 3"):
        GaussianDiffusion().p_mean_variance(x, x, tf.zeros([1], tf.int32))
    with pytest.raises(ValueError, match="3 channels, got 6"):
        GaussianDiffusion(variance="fixed_large").p_mean_variance(tf.concat([x, x], -1), x, tf.zeros([1], tf.int32))
