import dataclasses

import numpy as np
import pytest

from dit_tf.diffusion.schedules import Schedule, linear_betas


def test_linear_betas_have_the_ends_of_the_paper():
    betas = linear_betas(1000)
    assert betas.shape == (1000,) and betas.dtype == np.float64
    assert (betas[0], betas[-1]) == (1e-4, 2e-2)


@pytest.mark.parametrize("num_timesteps", [21, 100, 4000])
def test_the_sum_of_linear_betas_does_not_depend_on_their_number(num_timesteps):
    np.testing.assert_allclose(linear_betas(num_timesteps).sum(), 10.05, rtol=1e-12)  # 1000 times the mean of the ends


def test_alpha_bar_is_the_product_of_one_minus_beta():
    s = Schedule.from_betas([0.1, 0.5, 0.2])
    np.testing.assert_allclose(s.alphas_cumprod, [0.9, 0.45, 0.36], rtol=1e-14)
    np.testing.assert_allclose(s.alphas_cumprod_prev, [1, 0.9, 0.45], rtol=1e-14)
    np.testing.assert_allclose(s.alphas_cumprod_next, [0.45, 0.36, 0], rtol=1e-14)
    np.testing.assert_allclose(s.sqrt_recipm1_alphas_cumprod**2, (1 - s.alphas_cumprod) / s.alphas_cumprod, rtol=1e-14)
    np.testing.assert_allclose(np.exp(s.log_betas), s.betas, rtol=1e-14)


def test_the_posterior_follows_from_bayes_rule():
    """Precisions of the prior q(x_{t-1} | x_0) and of the likelihood q(x_t | x_{t-1}) of x_{t-1} add up."""
    s = Schedule.from_betas(linear_betas(50))
    beta, before = s.betas[1:], s.alphas_cumprod_prev[1:]
    precision = 1 / (1 - before) + (1 - beta) / beta
    np.testing.assert_allclose(s.posterior_variance[1:], 1 / precision, rtol=1e-12)
    np.testing.assert_allclose(s.posterior_mean_coef1[1:], np.sqrt(before) / (1 - before) / precision, rtol=1e-12)
    np.testing.assert_allclose(s.posterior_mean_coef2[1:], np.sqrt(1 - beta) / beta / precision, rtol=1e-12)
    first = s.posterior_variance[0], s.posterior_mean_coef1[0], s.posterior_mean_coef2[0]
    np.testing.assert_allclose(first, (0, 1, 0), atol=1e-14)  # x_0 is known


def test_the_clipped_log_variance_repeats_its_second_entry():
    s = Schedule.from_betas(linear_betas(50))
    np.testing.assert_array_equal(s.posterior_log_variance_clipped[1:], np.log(s.posterior_variance[1:]))
    assert s.posterior_log_variance_clipped[0] == s.posterior_log_variance_clipped[1]


def test_a_chain_of_one_step_is_finite():
    for field in dataclasses.fields(Schedule):
        assert np.isfinite(getattr(Schedule.from_betas([0.1]), field.name)).all(), field.name


def test_agrees_with_dit(golden):
    """1e-12: DiT recomputes even the full chain's betas from alpha-bar, which costs 4e-13."""
    arrays, s = golden("schedules"), Schedule.from_betas(linear_betas(1000))
    names = [field.name for field in dataclasses.fields(s) if field.name != "log_betas"]
    assert len(names) == 13
    for name in names:
        np.testing.assert_allclose(getattr(s, name), arrays[f"full/{name}"], rtol=1e-12, err_msg=name)


def test_betas_outside_the_unit_interval_are_refused():
    for betas in ([0.0, 0.1], [0.1, 1.0], [0.1, np.nan]):
        with pytest.raises(ValueError, match="inside"):
            Schedule.from_betas(betas)
    with pytest.raises(ValueError, match="shape"):
        Schedule.from_betas([[0.1]])
    with pytest.raises(ValueError, match="got 20"):
        linear_betas(20)
