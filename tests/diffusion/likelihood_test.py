import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.diffusion.likelihood import bits_per_dim, prior_bpd
from dit_tf.runtime.seeds import RowSeeds

_VARIANTS = {"default": "learned_range", "fixed_large": "fixed_large"}


def _images(n=3):
    return np.random.default_rng(0).uniform(-1, 1, (n, 4, 4, 3)).astype(np.float32)


def test_the_prior_term_is_the_divergence_from_the_standard_normal():
    process, x = GaussianDiffusion().respaced("10"), _images()
    alpha_bar = process.schedule.alphas_cumprod[-1]
    kl = 0.5 * (alpha_bar * x.astype(np.float64) ** 2 - alpha_bar - np.log1p(-alpha_bar))
    np.testing.assert_allclose(prior_bpd(process, x), kl.mean((1, 2, 3)) / np.log(2), rtol=1e-4)  # cancels to 1e-5


def test_an_oracle_pays_for_the_prior_and_the_last_step_only():
    process, x = GaussianDiffusion().respaced("10"), _images()
    alpha_bar = GaussianDiffusion().schedule.alphas_cumprod

    def oracle(x_t, t):
        a = tf.constant(np.sqrt(alpha_bar), tf.float32), tf.constant(np.sqrt(1 - alpha_bar), tf.float32)
        signal, sigma = (tf.gather(table, t)[:, None, None, None] for table in a)
        return tf.concat([(x_t - signal * x) / sigma, -tf.ones_like(x)], axis=-1)

    result = bits_per_dim(process, oracle, x, RowSeeds(0, tf.range(3)))
    np.testing.assert_allclose(result.mse, np.zeros((3, 10)), atol=1e-8)  # squares of float32 rounding
    np.testing.assert_allclose(result.xstart_mse, np.zeros((3, 10)), atol=1e-8)
    np.testing.assert_allclose(result.vb[:, :-1], np.zeros((3, 9)), atol=1e-6)
    np.testing.assert_allclose(result.total_bpd, result.prior_bpd + result.vb[:, -1], rtol=1e-5)
    assert (result.vb[:, -1].numpy() > 0.1).all()


def test_a_rows_bits_do_not_depend_on_its_batch(assert_agrees):
    process, x = GaussianDiffusion(variance="fixed_large").respaced("10"), _images()
    whole = bits_per_dim(process, lambda x, t: 0.9 * x, x, RowSeeds(1, tf.range(3)))
    alone = bits_per_dim(process, lambda x, t: 0.9 * x, x[2:], RowSeeds(1, tf.constant([2])))
    for one, all_rows in zip(alone, whole):
        assert_agrees(one, all_rows[2:].numpy(), 1e-6)  # the order of summation


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("variant", _VARIANTS)
def test_bits_per_dim_agree_with_dit(golden, stub, recorded_noise, assert_agrees, variant, clip):
    arrays = golden("calc_bpd_loop")
    process = GaussianDiffusion(variance=_VARIANTS[variant]).respaced("10")
    model_fn, seeds = stub(arrays, variant == "default"), recorded_noise(arrays["bpd/10/noise"])

    def run(x):
        return bits_per_dim(process, model_fn, x, seeds, bool(clip))

    compiled, eager = tf.function(run, jit_compile=True)(arrays["x0"]), run(arrays["x0"])
    for name in compiled._fields:
        expected = arrays[f"bpd/10/{variant}/clip{clip}/{name}"]
        # DiT adds up the prior's 1e-5 bits around 1 in float32, which costs it 6e-10; float64 takes our side.
        tolerance = 1e-4 if name == "prior_bpd" else 1e-5
        assert_agrees(getattr(compiled, name), expected, tolerance)
        assert_agrees(getattr(eager, name), expected, tolerance)
