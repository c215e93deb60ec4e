import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers import ode, sde
from dit_tf.transport.paths import PATHS, PREDICTIONS, paper_diffusion
from dit_tf.transport.transport import Transport

_T = np.linspace(0.001, 0.999, 50)
_SOLVERS = {"euler": sde.euler_maruyama, "heun": sde.heun}


def _w_kl(path, t):
    """The paper's w_t^KL = 2 (alpha' / alpha sigma^2 - sigma sigma'), of derivatives on the clock of noise to data."""
    p = PATHS[path].at(tf.constant(t, tf.float64))
    return (2 * (p.d_alpha / p.alpha * p.sigma**2 - p.sigma * p.d_sigma)).numpy()


@pytest.mark.parametrize("path", PATHS)
def test_kl_is_the_papers(path):
    w = sde.diffusion("kl", PATHS[path], _T)
    np.testing.assert_allclose(paper_diffusion(w), _w_kl(path, _T), rtol=1e-9)  # VP: a difference near data
    np.testing.assert_array_equal(w, sde.diffusion("sbdm", PATHS[path], _T))
    np.testing.assert_array_equal(w, sde.diffusion("kl", PATHS[path], _T, norm=3.0))


@pytest.mark.parametrize("path", PATHS)
def test_kl_eta_is_the_papers(path):
    for eta in (0.01, 1.0):
        w = sde.diffusion("kl_eta", PATHS[path], _T, eta=eta)
        expected = _w_kl(path, _T) * np.sqrt(1 / (1 + 2 * eta * _w_kl(path, _T) ** 2))
        np.testing.assert_allclose(paper_diffusion(w), expected, rtol=1e-9)
    kl = sde.diffusion("kl", PATHS[path], _T)
    np.testing.assert_allclose(sde.diffusion("kl_eta", PATHS[path], _T, eta=1e-16), kl, rtol=1e-9)


@pytest.mark.parametrize("path", ["linear", "gvp"])
def test_kl_eta_is_finite_at_noise(path):
    """There w_t^KL is infinite, and w_t^{KL,eta} is 1 / sqrt(2 eta)."""
    w = sde.diffusion("kl_eta", PATHS[path], np.zeros(1), eta=0.02)
    np.testing.assert_allclose(paper_diffusion(w), 5.0, rtol=1e-12)


@pytest.mark.parametrize("form", sde.DIFFUSIONS)
@pytest.mark.parametrize("path", PATHS)
def test_no_diffusion_is_negative(path, form):
    for norm in (0.0, 0.5, 3.0):
        w = sde.diffusion(form, PATHS[path], _T, norm)
        assert w.shape == _T.shape and w.dtype == np.float64 and np.all(w >= 0)


def test_an_unknown_diffusion_or_last_step_is_refused():
    with pytest.raises(ValueError, match="--diffusion .*'increasing-decreasing'"):
        sde.diffusion("increasing-decreasing", PATHS["linear"], _T)
    with pytest.raises(ValueError, match="--last_step .*'Mean'"):
        sde.euler_maruyama(Transport(), _T, np.ones_like, "Mean")


@pytest.mark.parametrize("last_step", sde.LAST_STEPS)
@pytest.mark.parametrize("solver, evaluations", [("euler", 1), ("heun", 2)])
def test_steps_and_evaluations(solver, evaluations, last_step):
    """num_steps steps, the last included, which takes one evaluation: 250 and 499 of them by default."""
    t = sde.sde_times(Transport(), "sigma", 250, last_step)
    table = _SOLVERS[solver](Transport(), t, lambda t: 1 - t, last_step)
    assert len(t) == (251 if last_step == "none" else 250)
    assert table.evaluations == 250 * evaluations - (evaluations - 1 if last_step != "none" else 0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", PATHS)
def test_times_keep_to_where_all_is_finite(path, prediction):
    transport = Transport(PATHS[path], prediction)
    for form in sde.DIFFUSIONS:
        start, end = transport.sde_interval(form in ("sbdm", "kl"))
        t = sde.sde_times(transport, form, 5, "mean", 0.1)
        np.testing.assert_allclose(t, np.linspace(start, 0.9, 5), rtol=1e-12)
        np.testing.assert_allclose(sde.sde_times(transport, form, 5, "none"), np.linspace(start, end, 6), rtol=1e-12)
        shifted = sde.sde_times(transport, form, 5, "mean", 0.1, shift=3.0)
        np.testing.assert_allclose(shifted, ode.time_grid((start, 0.9), 4, 3.0), rtol=1e-12)


@pytest.mark.parametrize("solver", _SOLVERS)
def test_without_diffusion_it_is_the_ode(solver):
    transport, t = Transport(PATHS["gvp"], "noise"), np.linspace(0.1, 0.8, 8)
    table = _SOLVERS[solver](transport, t, np.zeros_like, "none")
    for name, ours, expected in zip(table._fields, table, getattr(ode, solver)(transport, t)):
        assert name == "draw" or np.array_equal(ours, expected)
    mean, euler = (_SOLVERS[solver](transport, t, np.zeros_like, last_step) for last_step in ("mean", "euler"))
    assert all(np.array_equal(*pair) for pair in zip(mean, euler))


@pytest.mark.parametrize("last_step", sde.LAST_STEPS)
def test_a_table_may_be_made_while_a_program_is_traced(last_step):
    def make():
        return sde.heun(Transport(PATHS["vp"], "score"), _T, np.zeros_like, last_step)

    traced = []
    tf.function(lambda: traced.append(make()), autograph=False).get_concrete_function()
    assert all(np.array_equal(*pair) for pair in zip(make(), traced[0]))
