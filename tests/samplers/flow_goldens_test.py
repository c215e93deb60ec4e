"""The solvers of fixed steps against SiT's own runs, of every path, prediction, method, diffusion and last step."""

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers import ode, sde
from dit_tf.samplers.loop import run_recurrence
from dit_tf.transport.paths import PATHS, PREDICTIONS, Point
from dit_tf.transport.transport import Transport

_ODE = {"euler": ode.euler, "heun2": ode.heun}
_SDE = {"Euler": sde.euler_maruyama, "Heun": sde.heun}
_FORMS = {"SBDM": "sbdm", "inccreasing-decreasing": "increasing_decreasing"}  # as the public code spells it

# Runs that evaluate the model at t = 0.999 or 1, where float32 leaves SiT few digits of sigma: 1 - t, cos(pi t / 2) and
# sqrt(1 - alpha^2) are differences of numbers near 1 (cos is -4e-8 instead of 0, and SiT divides by it). Of these, ours
# differ by up to 2e-4, and wholly where sigma is 0. They agree once alpha and sigma are rounded alike, by `_Rounded`.
_ROUNDED = {
    "VP/noise/heun2/n10",
    "GVP/velocity/Heun/constant/None/norm1.0",
    "Linear/noise/Heun/constant/None/norm1.0",
    "GVP/noise/Heun/constant/None/norm1.0",
    *(
        f"VP/noise/Heun/{form}/None/norm1.0"
        for form in ("constant", "SBDM", "sigma", "linear", "decreasing", "inccreasing-decreasing")
    ),
}


@dataclasses.dataclass(frozen=True)
class _Rounded:
    """A path whose alpha and sigma are computed in float32, by the formulas of SiT."""

    name: str

    def at(self, t):
        t = np.float32(t)
        if self.name == "Linear":
            alpha, sigma = t, 1 - t
        elif self.name == "GVP":
            angle = t * np.float32(np.pi) / 2
            alpha, sigma = np.sin(angle), np.cos(angle)
        else:
            u, rise, beta_min = 1 - t, np.float32(19.9), np.float32(0.1)
            log_alpha = np.float32(-0.25) * u**2 * rise - np.float32(0.5) * u * beta_min
            alpha, sigma = np.exp(log_alpha), np.sqrt(1 - np.exp(2 * log_alpha))
        alpha, sigma = np.float64(alpha), np.float64(sigma)
        if self.name == "Linear":
            d_alpha, d_sigma = np.ones_like(alpha), -np.ones_like(alpha)
        elif self.name == "GVP":
            d_alpha, d_sigma = np.pi / 2 * sigma, -np.pi / 2 * alpha
        else:
            d_alpha = alpha * 0.5 * (19.9 * (1 - np.float64(t)) + 0.1)
            d_sigma = -alpha * d_alpha / sigma
        return Point(*map(tf.constant, (alpha, sigma, d_alpha, d_sigma)))


def _transport(record):
    path = PATHS[record["path"].lower()]
    return Transport(_Rounded(record["path"]) if record["key"] in _ROUNDED else path, record["prediction"])


def _finite(index, **properties):
    """The runs of these properties that are finite in SiT."""
    records = [r for r in index if r.get("finite") and all(r[k] == value for k, value in properties.items())]
    assert records
    return records


@pytest.fixture(scope="module")
def sample(transport_golden, transport_stub, recorded_noise):
    """sample(file, prediction, table) -> x, from the z (and the noise, of "sde_sampling") of a file of goldens; one
    program per prediction and length of the table."""

    @tf.function(autograph=False)
    def program(file, prediction, table):
        arrays = transport_golden(file)
        seeds = recorded_noise(arrays["noise"]) if "noise" in arrays else None
        derivative = ode.velocity_table(Transport(), transport_stub(arrays, prediction))
        return run_recurrence(derivative, arrays["z"], table, seeds)

    return lambda file, prediction, table: program(file, prediction, table.cast())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("method", _ODE)
def test_ode_samples_agree_with_sit(transport_golden, transport_index, sample, assert_agrees, method, prediction):
    """From noise to data and back, up to 2.3e-6."""
    golden, index = transport_golden("ode_sampling"), transport_index("ode_sampling_index")
    for record in _finite(index, sampling_method=method, prediction=prediction):
        table = _ODE[method](_transport(record), np.linspace(record["t0"], record["t1"], record["num_steps"]))
        assert table.evaluations == record["nfe"]
        assert_agrees(sample("ode_sampling", prediction, table), golden[record["key"]][-1])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
@pytest.mark.parametrize("method", _SDE)
def test_sde_samples_agree_with_sit(transport_golden, transport_index, sample, assert_agrees, method, path, prediction):
    """Before the last step and after it, up to 9e-6, where float32 rounds 1 - 0.96 in SiT; most by 1e-6."""
    golden, index = transport_golden("sde_sampling"), transport_index("sde_sampling_index")
    for record in _finite(index, sampling_method=method, path=path, prediction=prediction):
        transport, last_step = _transport(record), str(record["last_step"]).lower()
        form = _FORMS.get(record["diffusion_form"], record["diffusion_form"])
        t = np.linspace(record["t0"], record["t1"], record["num_steps"])

        w = functools.partial(sde.diffusion, form, transport.path, norm=record["diffusion_norm"])
        table = _SDE[method](transport, t, w, last_step, record["last_step_size_effective"])
        assert_agrees(sample("sde_sampling", prediction, table), golden[record["key"] + "/final"])
        table = _SDE[method](transport, t, w, "none")
        assert_agrees(sample("sde_sampling", prediction, table), golden[record["key"] + "/before_last"])


@pytest.mark.parametrize("path", ["Linear", "GVP", "VP"])
def test_diffusion_agrees_with_sit(transport_golden, path):
    """At t = 0 and 1 as well, where it is finite. Our times on VP end before data, where sigma' is infinite."""
    arrays = transport_golden("coefficients")
    for form in ("constant", "SBDM", "sigma", "linear", "decreasing", "inccreasing-decreasing"):
        for norm in (0.7, 1.0):
            expected = arrays[f"{path}/diffusion/{form}/norm{norm}"][:, 0]
            keep = np.isfinite(expected) & ((arrays["t"] < 1) | (path != "VP"))
            assert keep.sum() >= 17
            w = sde.diffusion(_FORMS.get(form, form), PATHS[path.lower()], arrays["t"][keep], norm)
            # VP's sigma is 0.001 at t = 0.99999, and 5e-6 of it rounding in SiT
            np.testing.assert_allclose(w, expected[keep], rtol=1e-6, atol=1e-5)
