"""The network with SiT's way of using it: whole runs of willisma/SiT's samplers on the same random weights."""

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers import ode, sde
from dit_tf.samplers.dopri5 import dopri5
from dit_tf.samplers.guidance import condition, guide
from dit_tf.samplers.loop import run_recurrence
from dit_tf.transport.paths import PATHS
from dit_tf.transport.transport import Transport

_POINTS = 7
_PATHS = {"Linear": PATHS["linear"], "GVP": PATHS["gvp"], "VP": PATHS["vp"]}
_MODELS = [("Linear", "velocity"), ("GVP", "velocity"), ("VP", "velocity"), ("Linear", "score"), ("Linear", "noise")]
_ODES, _SDES = {"euler": ode.euler, "heun2": ode.heun}, {"Euler": sde.euler_maruyama, "Heun": sde.heun}


@pytest.fixture(scope="module")
def arrays(dit_golden):
    return dit_golden("tiny_sampling.npz")


@pytest.fixture(scope="module")
def denoiser(official, arrays):
    """denoiser(guidance) -> (rows, model_fn): the model has 2C channels, of which the first 3 of C are guided. Guidance
    makes two rows of one, so that one trace of the network serves all."""
    model = tf.function(lambda *inputs: official(inputs), autograph=False)

    def of(guidance):
        # A guided run of SiT carries the unconditional half along; only the first half is its sample.
        rows = slice(0, len(arrays["z"]) // 2 if guidance == "cfg" else None)
        labels = arrays["y"][rows]
        if guidance == "nocfg":
            return rows, condition(model, labels)
        return rows, guide(model, labels, official.null_label, arrays["cfg_scale"], channels=3)

    return of


@pytest.fixture(scope="module")
def run(denoiser, arrays, recorded_noise):
    """run(guidance, table, stochastic) -> (rows, x at the end)."""

    def sample(guidance, table, stochastic):
        rows, model_fn = denoiser(guidance)
        noise = recorded_noise(tf.constant(arrays["noise"][:, rows])) if stochastic else None
        derivative = ode.velocity_table(Transport(), model_fn)  # path and prediction are in the table
        return rows, run_recurrence(derivative, arrays["z"][rows], table, noise)

    return sample


@pytest.mark.parametrize("guidance", ["cfg", "nocfg"])
@pytest.mark.parametrize("method", _ODES)
@pytest.mark.parametrize("path, prediction", _MODELS)
def test_the_ode_agrees_with_sit(run, arrays, assert_agrees, path, prediction, method, guidance):
    transport = Transport(_PATHS[path], prediction)
    t = ode.time_grid(transport.ode_interval, _POINTS - 1)
    rows, x = run(guidance, _ODES[method](transport, t), stochastic=False)
    assert_agrees(x, arrays[f"sit/{path}/{prediction}/ode/{method}/n{_POINTS}/{guidance}"][rows])


@pytest.mark.parametrize("guidance", ["cfg", "nocfg"])
@pytest.mark.parametrize("method", _SDES)
@pytest.mark.parametrize("path, prediction", _MODELS)
def test_the_sde_agrees_with_sit(run, arrays, assert_agrees, path, prediction, method, guidance):
    """Its default: w = sigma, and a last step of 0.04 with the mean of the next."""
    transport = Transport(_PATHS[path], prediction)
    t = sde.sde_times(transport, "sigma", _POINTS, "mean")
    table = _SDES[method](transport, t, lambda t: sde.diffusion("sigma", transport.path, t))
    rows, x = run(guidance, table, stochastic=True)
    assert_agrees(x, arrays[f"sit/{path}/{prediction}/sde/{method}/sigma/Mean0.04/n{_POINTS}/{guidance}"][rows])


@pytest.mark.parametrize("path", ["Linear", "VP"])
def test_the_adaptive_ode_agrees_with_sit_within_its_tolerance(denoiser, arrays, path):
    """atol 1e-6 and rtol 1e-3: errors of a few 1e-3 in either, and SiT's steps are those of the whole batch."""
    rows, model_fn = denoiser("nocfg")
    transport = Transport(_PATHS[path])
    velocity = ode.velocity(transport, model_fn)
    solve = tf.function(lambda x: dopri5(velocity, x, *transport.ode_interval, atol=1e-6, rtol=1e-3), autograph=False)
    solution, expected = solve(arrays["z"][rows]), arrays[f"sit/{path}/velocity/ode/dopri5/n4/nocfg"][rows]
    assert solution.finished.numpy().all()
    assert np.abs(solution.x - expected).max() < 5e-3 * np.abs(expected).max()
