"""log p against closed forms and against SiT's own runs; what SiT's runs take for t is 1 - t of their solver."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers.likelihood import bits_per_dim, exact_divergence, hutchinson, log_likelihood
from dit_tf.transport.paths import PATHS, PREDICTIONS
from dit_tf.transport.transport import Transport

_RNG = np.random.default_rng(0)
_SHAPE = (4, 4, 3)
_MEAN, _DEVIATION = np.float32(_RNG.uniform(-0.5, 0.5, _SHAPE)), np.float32(_RNG.uniform(0.4, 0.9, _SHAPE))
_X = np.float32(_MEAN + _DEVIATION * _RNG.standard_normal((3, *_SHAPE)))
_MIXING = np.float32([[0.5, -0.3, 0.2], [0.8, 0.1, 0.0], [-0.4, 0.6, -0.7]])
_SYMMETRIC = np.float32([[0.5, 0.3, -0.2], [0.3, -0.4, 0.6], [-0.2, 0.6, 0.8]])
_METHODS = {"dopri5": {}, "heun": {"solver": "heun", "num_steps": 100}}


@dataclasses.dataclass(frozen=True)
class _Within(Transport):
    """A transport whose flow runs over an interval of our choice."""

    interval: tuple = (0.0, 1.0)

    @property
    def ode_interval(self):
        return self.interval


def _gaussian(path, prediction="velocity", mean=_MEAN, deviation=_DEVIATION):
    """The exact model of data N(mean, deviation^2), of each entry its own; its last C channels do not count."""

    def model_fn(x, t):
        p = path.at(t[:, None, None, None])
        innovation = (x - p.alpha * mean) / ((p.alpha * deviation) ** 2 + p.sigma**2)
        clean, noise = mean + deviation**2 * p.alpha * innovation, p.sigma * innovation
        output = {"velocity": p.d_alpha * clean + p.d_sigma * noise, "noise": noise, "score": -innovation}[prediction]
        return tf.concat([output, 9.0 * x], axis=-1)

    return model_fn


def _bits(x, mean, deviation):
    """(N,): -log2 N(x; mean, deviation^2) per entry, in float64."""
    x, mean, deviation = (np.float64(value) for value in (x, mean, deviation))
    nats = 0.5 * ((x - mean) / deviation) ** 2 + np.log(deviation) + 0.5 * np.log(2 * np.pi)
    return np.mean(nats, axis=(1, 2, 3)) / np.log(2)


def _mixed(matrix):
    return lambda x, t: tf.einsum("nhwc,oc->nhwo", x, matrix) + tf.cos(t)[:, None, None, None]


def _program(transport, model_fn, bin_width=None, jit_compile=False, **method):
    """run(x, row=(0, 1, 2), seed=3) -> what `bits_per_dim` returns."""

    @tf.function(autograph=False, reduce_retracing=True, jit_compile=jit_compile)
    def run(x, row, seed):
        return bits_per_dim(transport, model_fn, x, RowSeeds(seed, row), bin_width, **method)

    return lambda x, row=range(3), seed=3: run(x, np.int32(row), np.int32(seed))


def test_the_mean_over_all_probes_is_the_trace():
    """And a row's divergence is of that row: each has a place, and so a Jacobian, of its own."""
    probes = np.float32(list(itertools.product([-1, 1], repeat=6))).reshape(64, 1, 2, 3)
    scale = np.linspace(-1, 2, 64, dtype=np.float32)

    def velocity(x, t):
        return scale[:, None, None, None] * _mixed(_MIXING)(x, t)

    x = np.float32(np.random.default_rng(1).standard_normal((64, 1, 2, 3)))
    v, estimate = hutchinson(velocity, tf.constant(x), tf.zeros(64), tf.constant(probes))
    np.testing.assert_allclose(v, velocity(x, np.zeros(64, np.float32)), rtol=1e-6, atol=1e-6)
    per_probe = np.einsum("nhwo,oc,nhwc->n", probes, _MIXING, probes)
    np.testing.assert_allclose(estimate, scale * per_probe, atol=1e-5)
    trace = 2 * np.trace(_MIXING)
    np.testing.assert_allclose(per_probe.mean(), trace, atol=1e-5)
    assert np.std(per_probe) > 0.1  # one probe is not enough
    same_v, exact = exact_divergence(velocity, tf.constant(x), tf.zeros(64))
    np.testing.assert_array_equal(same_v, v)
    np.testing.assert_allclose(exact, scale * trace, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_any_probe_is_exact_where_entries_do_not_mix(seed):
    """For v = (1 + t) tanh(w x), div v = (1 + t) sum of w (1 - tanh(w x)^2); and 0 where v does not depend on x."""
    rng = np.random.default_rng(seed)
    w, t = np.float32(rng.uniform(-2, 2, _SHAPE)), tf.constant([0.0, 0.5, 1.0])
    probe = tf.constant(np.float32(rng.choice([-1, 1], _X.shape)))

    def velocity(x, t):
        return (1.0 + t)[:, None, None, None] * tf.tanh(w * x)

    expected = (1 + t.numpy()) * np.sum(w / np.cosh(np.float64(w * _X)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(hutchinson(velocity, tf.constant(_X), t, probe)[1], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(exact_divergence(velocity, tf.constant(_X), t)[1], expected, rtol=1e-5, atol=1e-5)
    assert np.all(hutchinson(lambda x, t: tf.ones_like(x), tf.constant(_X), t, probe)[1] == 0)


@pytest.mark.parametrize("path, prediction", [(path, prediction) for path in PATHS for prediction in PREDICTIONS])
def test_bits_of_a_gaussian(path, prediction):
    """A probe of signs is exact: entries do not mix.

    What the flow from end to end makes of a Gaussian is known, and met by 8e-6 with dopri5 and, 9.8e-5 on VP, with 100
    steps of Heun, whose error falls as their square: 4.1e-4 with 50. The rest up to 1e-3 is at the ends, where N(0, 1)
    is taken for x of alpha 0.0066 (VP) or variance 0.998, and a sigma of 0.01 (VP) for none: up to 4.7e-4 on these
    images. log2 alpha is 1.4e-3 on the linear path, 8e-5 on VP and 2e-6 on GVP.
    """
    transport = Transport(PATHS[path], prediction)
    noise, data = (transport.path.at(np.float64(t)) for t in transport.ode_interval)
    before, after = (np.sqrt((p.alpha * _DEVIATION) ** 2 + p.sigma**2) for p in (noise, data))
    z = noise.alpha * _MEAN + before / after * data.alpha * (_X - _MEAN)
    from_end_to_end = _bits(z, 0.0, 1.0) - np.mean(np.log2(before / after)) - np.log2(data.alpha)
    for name, tolerance in (("dopri5", 3e-5), ("heun", 1.5e-4)):
        run = _program(transport, _gaussian(transport.path, prediction), **_METHODS[name])
        bits, evaluations, finished = run(_X)
        assert bits.dtype == tf.float32 and np.all(finished)
        assert np.all(evaluations == 200 if name == "heun" else evaluations < 60)
        np.testing.assert_allclose(bits, from_end_to_end, rtol=0, atol=tolerance)
        np.testing.assert_allclose(bits, _bits(_X, _MEAN, _DEVIATION), rtol=0, atol=1e-3)


def test_a_flow_that_ends_early_gives_the_density_of_slightly_noisy_data():
    """Of x_1 + (sigma / alpha) x_0, which is x_t / alpha: hence log2 alpha, 0.15 bits here."""
    transport = _Within(interval=(0.0, 0.9))
    bits, _, _ = _program(transport, _gaussian(transport.path))(_X)
    noisy = np.sqrt(_DEVIATION**2 + (0.1 / 0.9) ** 2)
    np.testing.assert_allclose(bits, _bits(_X, _MEAN, noisy), rtol=0, atol=3e-5)


@pytest.fixture(scope="module")
def correlated():
    """(model_fn, x (1, 1, 2, 3), log p): exact velocity on the linear path for channels of covariance C."""
    values, vectors = np.linalg.eigh(_SYMMETRIC @ _SYMMETRIC.T + 0.1 * np.eye(3))
    eigen, basis, mean = np.float32(values), np.float32(vectors), np.float32([0.4, -0.2, 0.1])

    def model_fn(x, t):
        p = PATHS["linear"].at(t[:, None, None, None])
        innovation = tf.einsum("nhwc,ck->nhwk", x - p.alpha * mean, basis) / (p.alpha**2 * eigen + p.sigma**2)
        return mean + tf.einsum("nhwk,ck->nhwc", (p.alpha * eigen - p.sigma) * innovation, basis)  # clean - noise

    x = np.float32(mean + np.random.default_rng(2).standard_normal((1, 1, 2, 3)))
    places = (np.float64(x) - mean) @ vectors / np.sqrt(values)
    log_p = np.sum(-0.5 * places**2 - 0.5 * np.log(values) - 0.5 * np.log(2 * np.pi))
    return model_fn, x, log_p


@pytest.mark.parametrize("method", _METHODS)
def test_density_of_correlated_channels_by_the_exact_divergence(correlated, method):
    model_fn, x, expected = correlated
    solve = functools.partial(log_likelihood, Transport(), model_fn, divergence=exact_divergence, **_METHODS[method])
    log_p, _, _, finished = tf.function(solve, autograph=False)(x)
    assert np.all(finished)
    assert abs(log_p[0] - expected) / (6 * math.log(2)) < 1e-3  # 4e-5 with 100 steps of Heun, 4e-6 with dopri5


def test_density_of_correlated_channels_by_256_probes(correlated):
    model_fn, x, expected = correlated
    bits, evaluations, _ = _program(Transport(), model_fn)(np.repeat(x, 256, axis=0), range(256))
    error = np.std(bits, ddof=1) / 16
    assert 0 < error < 0.1 and np.max(evaluations) < 100
    assert abs(np.mean(bits) + expected / (6 * math.log(2))) < 5 * error


@pytest.mark.parametrize("method", _METHODS)
def test_one_probe_serves_the_whole_trajectory(method):
    """Of v = A x, whose z is exp(-A) x, with the Hutchinson estimate probe . A probe all along. SiT draws a probe at
    each of its dopri5's 4292 evaluations. Heun's error is 1e-5, dopri5's 1.4e-6."""
    values, vectors = np.linalg.eigh(np.float64(_SYMMETRIC))
    z = np.einsum("nhwc,ck,ok->nhwo", _X, vectors * np.exp(-values), vectors)
    probe = np.where(RowSeeds(3, tf.range(3)).uniform(Stream.PROBE, _SHAPE) < 0.5, -1, 1)
    expected = _bits(z, 0.0, 1.0) + np.einsum("nhwo,oc,nhwc->n", probe, _SYMMETRIC, probe) / (48 * np.log(2))

    def model_fn(x, t):
        return tf.einsum("nhwc,oc->nhwo", x, _SYMMETRIC)

    bits, evaluations, _ = _program(Transport(), model_fn, **_METHODS[method])(_X)
    np.testing.assert_allclose(bits, expected, rtol=0, atol=1e-4)
    assert np.max(evaluations) <= {"dopri5": 50, "heun": 200}[method]


def test_noise_inside_a_bin_has_the_expectation_of_the_bin():
    """The mean over the noise of bin_width p(x + noise) is the probability of the bin about x; here, of one pixel."""
    rows, width, mean, deviation = 4096, 1.2, 0.1, 0.6
    x = np.full((rows, 1, 1, 1), 1.3, np.float32)  # two deviations away, where p falls 55-fold across the bin
    model_fn = _gaussian(PATHS["linear"], "velocity", mean, deviation)
    bits, _, _ = _program(Transport(), model_fn, width)(x, range(rows))
    upper, lower = (math.erf((1.3 + side * width / 2 - mean) / (deviation * 2**0.5)) for side in (1, -1))
    probability = 2.0 ** -np.float64(bits)
    assert probability.std() > 0.05
    assert abs(probability.mean() - (upper - lower) / 2) < 5 * probability.std() / math.sqrt(rows)


def test_bits_of_pixels_are_those_of_their_bins():
    """A bin is much less than a deviation, so that p is the same all over it: 5e-4 bits are observed."""
    width, deviation = 2 / 255, 1.0
    x = np.float32(np.round(_X / width) * width)
    model_fn, seen = _gaussian(PATHS["linear"], "velocity", 0.0, deviation), []

    def remember(x, t):
        seen.append(x.numpy())
        return model_fn(x, t)

    seeds = RowSeeds(3, tf.range(3))
    bits, _, _ = bits_per_dim(Transport(), remember, x, seeds, width, solver="heun", num_steps=20)
    np.testing.assert_allclose(bits, _bits(x, 0.0, deviation) - math.log2(width), rtol=0, atol=0.01)
    moved = seen[0] - x
    assert np.max(np.abs(moved)) <= width / 2 * 1.001 and np.max(moved) > 0.4 * width and np.min(moved) < -0.4 * width


@pytest.mark.parametrize("method", _METHODS)
def test_bits_do_not_depend_on_the_batch(method):
    """Nor on anything but the seed, the row and the image; dopri5's steps too are of each row alone."""
    method = {"solver": "heun", "num_steps": 10} if method == "heun" else {}
    run = _program(Transport(), _mixed(_MIXING), 0.01, **method)
    together, evaluations, _ = run(_X)
    np.testing.assert_array_equal(run(_X)[0], together)
    backwards, _, _ = run(_X[::-1], range(2, -1, -1))
    np.testing.assert_allclose(backwards, together[::-1], rtol=1e-6)  # sums may be taken in another order
    for i in range(3):
        bits, alone, _ = run(_X[i : i + 1], [i])
        np.testing.assert_allclose(bits[0], together[i], rtol=1e-6)
        assert alone[0] == evaluations[i]
    other, _, _ = run(_X, seed=4)
    assert np.all(np.abs(other - together) > 1e-4)


def test_only_the_row_that_cannot_reach_noise_says_so():
    def model_fn(x, t):
        return x / tf.where(tf.range(3) == 1, 0.0, 1.0)[:, None, None, None]

    bits, _, finished = _program(Transport(), model_fn)(_X)
    np.testing.assert_array_equal(finished, [True, False, True])
    assert np.all(np.isfinite(bits.numpy()[[0, 2]]))


# SiT's dopri5 runs at a relative tolerance of 0.001, leaves the interval in its last step and interpolates the end. It
# is 4e-4, 8e-4 and 4e-3 from ours at 1e-5, which ours at 1e-6 confirms by 7e-6.
_ADAPTIVE = {"velocity": 5e-4, "noise": 1e-3, "score": 5e-3}
_RUNS = [(method, probes) for method in ("euler", "heun2") for probes in ("fixed", "fresh")] + [("dopri5", "fixed")]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("method, probes", _RUNS)
def test_agrees_with_sit(transport_golden, transport_index, transport_stub, assert_agrees, method, probes, prediction):
    """Wherever SiT is finite. Fixed steps by 1.5e-6, and with a probe for each evaluation too, since the loop calls
    the divergence once for each, in order."""
    arrays, index = transport_golden("likelihood"), transport_index("likelihood_index")
    wanted = method, probes, prediction
    records = [r for r in index if (r["sampling_method"], r["eps_mode"], r["prediction"]) == wanted and r.get("finite")]
    assert len(records) == (2 if prediction == "noise" else 3)  # not VP, where SiT starts at t = 1 and divides by sigma
    for record in records:
        # Our score on VP is 0 times infinity at t = 1. At t = 0.001, alpha' / alpha has the digits that t keeps in SiT.
        end = 1 - 1e-6 if (record["path"], prediction) == ("VP", "score") else 1 - record["t0"]
        interval = float(1 - np.float32(record["t1"])), end
        transport = _Within(PATHS[record["path"].lower()], prediction, interval=interval)
        divergence = functools.partial(hutchinson, probe=2 * arrays["fixed_bits"] - 1)
        if probes == "fresh":
            queue = iter(2 * np.float32(arrays[record["key"] + "/bits"]) - 1)
            divergence = lambda velocity, x, t, queue=queue: hutchinson(velocity, x, t, next(queue))  # noqa: E731
        solve = functools.partial(log_likelihood, transport, transport_stub(arrays, prediction), divergence=divergence)
        expected = arrays[record["key"] + "/logp"], arrays[record["key"] + "/z"]
        if method == "dopri5":
            run = tf.function(lambda atol, rtol, solve=solve: solve(arrays["x"], atol=atol, rtol=rtol), autograph=False)
            *found, evaluations, finished = run(np.float32(record["atol"]), np.float32(record["rtol"]))
            *exact, _, exact_finished = run(np.float32(1e-6), np.float32(1e-5))
            assert np.all(finished & exact_finished)
            assert np.max(evaluations) < 1.5 * record["nfe"]  # fewer, and more where stability limits the steps
            for ours, better, theirs in zip(found, exact, expected):
                assert_agrees(ours, better.numpy(), 3e-3)  # 1.4e-3 at a tolerance of 1e-3
                assert_agrees(better, theirs, _ADAPTIVE[prediction])
        else:
            solver = "euler" if method == "euler" else "heun"
            *found, evaluations, _ = solve(arrays["x"], solver=solver, num_steps=record["num_steps"] - 1)
            assert np.all(evaluations == record["nfe"])
            for ours, theirs in zip(found, expected):
                assert_agrees(ours, theirs)


@pytest.mark.parametrize("method", _METHODS)
def test_compiled_equals_eager(assert_agrees, method):
    """Away from noise: there dopri5's steps are as long as stability lets them, and rounding decides which fail."""
    method = {"solver": "heun", "num_steps": 5} if method == "heun" else {}
    x, transport = _X[:, :2, :1], _Within(PATHS["gvp"], "noise", interval=(0.4, 0.7))
    bits, evaluations, finished = _program(transport, _mixed(_MIXING), 0.01, jit_compile=True, **method)(x)
    eager = bits_per_dim(transport, _mixed(_MIXING), x, RowSeeds(3, tf.range(3)), 0.01, **method)
    assert_agrees(bits, eager[0].numpy())
    np.testing.assert_array_equal(evaluations, eager[1])
    assert np.all(finished) and np.min(evaluations) >= 10  # more than a step
