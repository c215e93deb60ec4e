"""No combination of flow options gives a NaN: training on every path, prediction and weight; sampling with every
solver, diffusion and last step. The default run takes a thinned grid, and compiles little beside the losses; `-m slow`
takes the whole product."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.models.codec import PixelCodec
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.samplers.generate import ImageSampler
from dit_tf.samplers.options import SamplerOptions
from dit_tf.samplers.sde import DIFFUSIONS, LAST_STEPS
from dit_tf.training.train_step import State
from dit_tf.transport.paths import PATHS, PREDICTIONS
from dit_tf.transport.transport import LOSS_WEIGHTS, TIME_DISTRIBUTIONS, Transport

_N, _STEPS = 4, 8
_PRECISIONS = ("float32", "bfloat16")
_TRAININGS = list(itertools.product(PATHS, PREDICTIONS, LOSS_WEIGHTS, TIME_DISTRIBUTIONS, _PRECISIONS))
_THINNED = _TRAININGS[::5]  # a stride that meets every pair of options
_SDES = list(itertools.product(PATHS, PREDICTIONS, DIFFUSIONS, LAST_STEPS))


class _Unrounded(PixelCodec):
    """uint8 has no NaN."""

    def decode(self, weights, x):
        return x


def config_of(precision="float32", **flow):
    return RunConfig(model="DiT-32x1x2/4", objective="flow", learn_sigma=False, precision=precision, **flow)


def random_weights(model):
    """Not the initial ones, with which the output is 0."""
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(0.0, 0.1, v.shape), tf.float32) for v in model.trainable_variables]


@pytest.fixture(scope="module")
def networks():
    """networks(precision) -> (model, weights), the same each time: options of the flow do not change the network."""

    @functools.cache
    def made(precision):
        model = build.make_model(config_of(precision))
        return model, random_weights(model)

    return made


def check_training(networks, path, prediction, loss_weight, time_distribution, precision, compiled):
    flow = dict(path=path, prediction=prediction, loss_weight=loss_weight, time_distribution=time_distribution)
    model, params = networks(precision)
    step = build.make_train_step(config_of(precision, **flow), model)
    rng = np.random.default_rng(1)
    batch = rng.integers(0, 256, (_N, 8, 8, 1)).astype(np.uint8), tf.range(_N), tf.range(_N)

    def one_step(params, batch):
        losses, gradients = step.loss_and_gradients(params, [], batch, tf.constant(0, tf.int64), tf.constant(0))
        zeros = [tf.zeros_like(p) for p in params]
        return step.update(State(params, zeros, zeros, params), losses, gradients, tf.constant(1))

    state, logs = (tf.function(one_step, jit_compile=True) if compiled else one_step)(params, batch)
    for value in tf.nest.flatten((logs, state)):
        assert np.isfinite(value).all()
    assert any((new.numpy() != old.numpy()).any() for new, old in zip(state.params, params))


@pytest.mark.parametrize("training", _THINNED, ids="-".join)
def test_one_step_of_training_is_finite(networks, training):
    check_training(networks, *training, compiled=False)


def test_a_compiled_step_of_training_is_finite(networks):
    check_training(networks, "vp", "score", "likelihood", "logit_normal", "bfloat16", compiled=True)


@pytest.mark.parametrize("flow", dict.fromkeys(training[:-1] for training in _THINNED), ids="-".join)
def test_the_compiled_loss_of_an_affine_network_is_finite(flow):
    """With its gradient. XLA has rules of its own for 0 times infinity, beside those of TensorFlow's operations."""
    path, *options = flow
    transport, rows = Transport(PATHS[path], *options), tf.range(_N)
    x = tf.constant(np.random.default_rng(1).uniform(-1.0, 1.0, (_N, 8, 8, 1)), tf.float32)

    @tf.function(jit_compile=True)
    def loss_and_gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)

            def affine(x, t):
                return weights[0] * x + weights[1] * t[:, None, None, None] + weights[2]

            terms = transport.training_losses(affine, x, RowSeeds(tf.constant(0, tf.int64), rows, tf.constant(0)))
            loss = tf.reduce_mean(terms["loss"])
        return loss, tape.gradient(loss, weights)

    loss, gradient = loss_and_gradient(tf.constant([0.3, 0.1, -0.2]))
    assert np.isfinite(loss) and np.isfinite(gradient).all() and np.all(gradient != 0)


def test_the_thinned_grid_has_every_pair_of_options():
    kinds = enumerate((PATHS, PREDICTIONS, LOSS_WEIGHTS, TIME_DISTRIBUTIONS, _PRECISIONS))
    for (i, some), (j, others) in itertools.combinations(kinds, 2):
        assert {(training[i], training[j]) for training in _THINNED} == set(itertools.product(some, others))


@pytest.mark.slow
@pytest.mark.parametrize("training", _TRAININGS, ids="-".join)
def test_one_step_of_every_training_is_finite(networks, training):
    check_training(networks, *training, compiled=True)


class _Programs:
    """One compiled program for each solver and precision: path, prediction, diffusion and last step are its numbers."""

    def __init__(self, networks):
        self._networks, self._programs = networks, {}

    def sample(self, precision, path, prediction, **options):
        model, params = self._networks(precision)
        arguments = build.call_of(model), Transport(PATHS[path], prediction), _Unrounded(8, 1), model.null_label
        sampler = ImageSampler(*arguments, SamplerOptions(**options))
        adaptive = (path, prediction) if sampler.solver.evaluations is None else None  # it evaluates them as it goes
        key = precision, sampler.options.sampler, sampler.solver.evaluations, adaptive
        program = self._programs.setdefault(key, sampler.program)
        controls = tf.nest.map_structure(tf.constant, sampler.controls)
        return program((params, [], controls), tf.range(_N), tf.constant(0, tf.int64), tf.range(_N))

    def traces(self):
        return [program.experimental_get_tracing_count() for program in self._programs.values()]


@pytest.fixture(scope="module")
def programs(networks):
    return _Programs(networks)


def check_sde(programs, precision, solver, sde):
    path, prediction, diffusion, last_step = sde
    options = dict(sampler="sde", solver=solver, num_steps=_STEPS, diffusion=diffusion, last_step=last_step)
    x = programs.sample(precision, path, prediction, **options).images.numpy()
    assert np.isfinite(x).all()
    assert x.std() > 0.01


@pytest.mark.parametrize("precision, solver", [("float32", "euler"), ("bfloat16", "heun")])
def test_every_kind_of_sde_is_finite(programs, precision, solver):
    """A third of the product, chosen so that each pair of options meets; one compilation, two with Heun."""
    for i, sde in enumerate(_SDES):
        if i % 3 == (i // 12) % 3:
            check_sde(programs, precision, solver, sde)
    assert set(programs.traces()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("precision", _PRECISIONS)
def test_every_sde_is_finite(programs, precision, solver):
    for sde in _SDES:
        check_sde(programs, precision, solver, sde)
    assert set(programs.traces()) == {1}


def check_ode(programs, precision, solver, path, prediction):
    steps = {} if solver == "dopri5" else dict(num_steps=_STEPS)
    drawn = programs.sample(precision, path, prediction, sampler="ode", solver=solver, **steps)
    assert np.isfinite(drawn.images).all()
    if precision == "float32":
        assert drawn.work.finished.numpy().all()


@pytest.mark.parametrize(
    "precision, solver, adaptive_on",
    [("float32", "heun", None), ("bfloat16", "euler", None), ("float32", "dopri5", ("vp", "noise"))],
)
def test_every_kind_of_ode_is_finite(programs, precision, solver, adaptive_on):
    for path, prediction in itertools.product(PATHS, PREDICTIONS):
        if adaptive_on in (None, (path, prediction)):
            check_ode(programs, precision, solver, path, prediction)
    assert set(programs.traces()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun", "dopri5"])
@pytest.mark.parametrize("precision", _PRECISIONS)
def test_every_ode_is_finite(programs, precision, solver):
    for path, prediction in itertools.product(PATHS, PREDICTIONS):
        check_ode(programs, precision, solver, path, prediction)
    assert set(programs.traces()) == {1}
