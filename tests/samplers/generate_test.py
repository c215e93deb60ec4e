"""Whole images, from a seed to uint8: image i is a function of (seed, i) and its label, whatever the batch it is in."""

import contextlib
import dataclasses
import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.models.codec import PixelCodec
from dit_tf.runtime.distribution import on_replicas
from dit_tf.samplers.generate import ImageSampler, in_batches
from dit_tf.samplers.options import SamplerOptions
from dit_tf.transport.transport import Transport

_SIZE, _CLASSES, _STEPS, _N, _BATCH = 4, 3, 8, 12, 7  # 7 does not divide 12
_NULL = _CLASSES
_PROCESS, _FLOW, _CODEC = GaussianDiffusion(), Transport(), PixelCodec(_SIZE, 1)
_DDPM = SamplerOptions("ddpm", _STEPS)
_GUIDED = SamplerOptions("ddim", _STEPS, eta=0.5, cfg_scale=2.0)
_DPM_SOLVER = SamplerOptions("dpmpp", _STEPS, cfg_scale=1.5, guidance_interval=(0.2, 0.9))
_ODE = SamplerOptions("ode", _STEPS // 2, solver="heun", cfg_scale=1.5, guidance_interval=(0.2, 0.9))
_SDE = SamplerOptions("sde", _STEPS, cfg_scale=2.0)
_DOPRI5 = SamplerOptions("ode", solver="dopri5", cfg_scale=1.5)
_ALL = {"ddpm": _DDPM, "guided ddim": _GUIDED, "dpmpp": _DPM_SOLVER, "ode": _ODE, "sde": _SDE, "dopri5": _DOPRI5}
_OF_FLOW = (_ODE, _SDE, _DOPRI5)
_LABELS = np.arange(_N) % _CLASSES


@pytest.fixture(scope="module")
def params():
    """An orthogonal matrix of the pixels, one mean image per class and for the null label, inside [-0.3, 0.3], and the
    deviation of the classes."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((_SIZE**2, _SIZE**2)))
    means = rng.uniform(-0.3, 0.3, (_CLASSES + 1, _SIZE, _SIZE, 1))
    return [tf.constant(array, tf.float32) for array in (rotation, means, 0.5)]


def there_and_back(x, rotation):
    """x through a rotation and its inverse: it changes nothing, but its sums depend on the batch size, as a model's."""
    rotated = tf.reshape(x, (-1, _SIZE**2)) @ rotation
    return tf.reshape(rotated @ tf.transpose(rotation), (-1, _SIZE, _SIZE, 1))


def model(params, x, t, y):
    """The exact noise where class y is N(mean_y, deviation^2), with the smaller variance."""
    rotation, means, deviation = params
    abar = _PROCESS.schedule.alphas_cumprod
    tables = np.sqrt(abar), np.sqrt(1 - abar), abar, 1 - abar
    signal, noise, abar, rest = (tf.gather(np.float32(table), t)[:, None, None, None] for table in tables)
    innovation = there_and_back(x, rotation) - signal * tf.gather(means, y)
    return tf.concat([noise / (abar * deviation**2 + rest) * innovation, -tf.ones_like(x)], axis=-1)


def flow_model(params, x, t, y):
    """The exact velocity of the same classes on the straight path."""
    rotation, means, deviation = params
    t, mean = t[:, None, None, None], tf.gather(means, y)
    variance = tf.square(t * deviation) + tf.square(1.0 - t)
    slope = (t * deviation**2 - (1.0 - t)) / tf.maximum(variance, 1e-12)
    return mean + slope * (there_and_back(x, rotation) - t * mean)


@functools.cache  # one program for all tests
def sampler(options, strategy=None):
    call, process = (flow_model, _FLOW) if options in _OF_FLOW else (model, _PROCESS)
    return ImageSampler(call, process, _CODEC, _NULL, options, strategy)


def images_of(sample, params, labels, seed, batch_size=_BATCH):
    return np.concatenate([batch.images for _, batch in in_batches(sample, params, labels, seed, batch_size)])


def assert_within_one_grey_level(actual, expected):
    assert np.abs(actual.astype(int) - expected).max() <= 1


def moved(images, others):
    """The number of images that differ by more than a grey level somewhere."""
    return (np.abs(images.astype(int) - others).max(axis=(1, 2, 3)) > 1).sum()


@contextlib.contextmanager
def eagerly():
    """No function is traced or compiled."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module", params=_ALL.values(), ids=_ALL)
def options(request):
    return request.param


@pytest.fixture(scope="module")
def sample(options):
    return sampler(options)


@pytest.fixture(scope="module")
def whole(sample, params):
    """All images, seed 5."""
    images = images_of(sample, params, _LABELS, 5)
    assert images.shape == (_N, _SIZE, _SIZE, 1) and images.dtype == np.uint8
    assert images.std() > 20  # not all black or white
    return images


@pytest.mark.parametrize(
    "options, scale", [(_DDPM, 1.0), (_GUIDED, 2.0), (SamplerOptions("ddpm", 1, cfg_scale=1.5), 1.5)]
)
def test_a_class_of_one_image_is_sampled_as_that_image(params, options, scale):
    """Guided, it is null + scale (image - null): the noise is linear in the image, and so is what remains of it."""
    rotation, means, _ = params
    images, means = images_of(sampler(options), [rotation, means, tf.constant(0.0)], _LABELS, 5), means.numpy()
    expected = means[_NULL] + scale * (means[_LABELS] - means[_NULL])
    assert np.abs(expected).max() < 1  # never clipped
    assert_within_one_grey_level(images, (127.5 * expected + 128).astype(int))


def test_images_are_the_same_for_every_batch_size(sample, params, whole):
    """One by one, all at once, and in sevens, the last of which is filled up: only what was asked for comes out."""
    assert_within_one_grey_level(images_of(sample, params, _LABELS, 5, 1), whole)
    with eagerly():
        assert_within_one_grey_level(images_of(sample, params, _LABELS, 5, _N), whole)


def test_images_are_repeated_bit_for_bit(sample, params, whole):
    np.testing.assert_array_equal(images_of(sample, params, _LABELS, 5), whole)


def test_an_image_depends_on_its_label_and_on_no_other(sample, params, whole):
    labels = _LABELS.copy()
    labels[4] = (labels[4] + 1) % _CLASSES
    images = images_of(sample, params, labels, 5)
    assert moved(images[4:5], whole[4:5]) == 1
    assert_within_one_grey_level(np.delete(images, 4, axis=0), np.delete(whole, 4, axis=0))


def test_another_seed_gives_other_images(sample, params, whole):
    assert moved(images_of(sample, params, _LABELS, 6), whole) == _N
    same_label = whole[_LABELS == 0]
    assert moved(same_label[1:], same_label[:-1]) == len(same_label) - 1


def test_image_i_of_a_short_run_is_image_i_of_a_long_one(sample, params, whole):
    assert_within_one_grey_level(images_of(sample, params, _LABELS[:5], 5), whole[:5])


def test_rows_may_have_seeds_of_their_own(sample, params):
    """As they come to a server, which does not compile: image of (label, seed s) is image 0 of a run with seed s."""
    seeds, labels = [5, -1, 2**40, 5, 8, 9, 10], _LABELS[:7]
    rows = tf.zeros(7, tf.int32)
    with eagerly():
        images = sample(params, tf.constant(labels, tf.int32), tf.constant(seeds, tf.int64), rows).images.numpy()
    assert labels[0] == labels[3] and seeds[0] == seeds[3]
    assert_within_one_grey_level(images[:1], images[3:4])  # the same request twice
    for i in range(3):
        assert_within_one_grey_level(images[i : i + 1], images_of(sample, params, labels[i : i + 1], seeds[i], 1))


def test_images_are_the_same_for_every_number_of_replicas(options, params, whole):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    distributed = sampler(options, strategy=strategy)
    images = images_of(distributed, params, _LABELS, 5, 8)  # 8 does not divide 12 either
    assert_within_one_grey_level(images, whole)


def test_a_strategy_runs_a_graph_function():
    """A TPU's takes no other, which no machine without a TPU would notice."""
    ran = []

    class Strategy(tf.distribute.MirroredStrategy):
        def run(self, function, args=()):
            ran.append(function)
            return super().run(function, args)

    sample = sampler(_ODE, strategy=Strategy(["CPU:0"]))
    with pytest.raises(TypeError):
        sample(None, tf.constant([1]), tf.constant(0), tf.constant([0]))
    assert ran == [sample.program] and isinstance(ran[0], tf.types.experimental.GenericFunction)


def test_replicas_take_the_rows_in_order():
    strategy, calls = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), []

    def sample(params, labels, seed, row):
        replica = tf.distribute.get_replica_context()
        calls.append((int(replica.replica_id_in_sync_group), labels.numpy().tolist(), row.numpy().tolist(), int(seed)))
        return tf.reshape(row, (-1, 1, 1, 1))

    images = on_replicas(sample, strategy)(None, tf.constant([7, 8, 9, 6]), tf.constant(3), tf.constant([4, 5, 6, 7]))
    assert sorted(calls) == [(0, [7, 8], [4, 5], 3), (1, [9, 6], [6, 7], 3)]
    assert images.numpy().ravel().tolist() == [4, 5, 6, 7]


def test_one_program_serves_all_batches_seeds_and_guidance(sample, params):
    """Guidance that is off altogether is another program, of half the work."""
    before, images = sample.program.experimental_get_tracing_count(), []
    for seed, labels in ((0, _LABELS), (-1, _LABELS[:7]), (2**40, list(_LABELS))):
        images_of(sample, params, labels, seed)
    if sample.options.guided:
        for scale in (1.5, 3.0):
            other = dataclasses.replace(sample.options, cfg_scale=scale)
            if not other.guided_all_the_way:
                other = dataclasses.replace(other, guidance_interval=(0.1 * scale, 1.0))
            images.append(images_of(sample.with_options(other), params, _LABELS, 0))
        assert moved(*images) > _N // 2
    assert sample.program.experimental_get_tracing_count() == max(before, 1)


@pytest.mark.parametrize("change", [dict(num_steps=5), dict(cfg_scale=1.0), dict(solver="euler")])
def test_options_that_need_another_program_are_refused(change):
    with pytest.raises(ValueError, match="need a compilation of their own"):
        sampler(_ODE).with_options(dataclasses.replace(_ODE, **change))


def test_every_row_says_what_it_cost(params):
    arguments = params, tf.constant(_LABELS[:7], tf.int32), tf.constant(0, tf.int64), tf.range(7)
    fixed, adaptive = (sampler(options)(*arguments).work for options in (_ODE, _DOPRI5))
    assert fixed.evaluations.numpy().tolist() == [_STEPS] * 7
    assert fixed.finished.numpy().all() and not fixed.rejected.numpy().any()
    assert adaptive.finished.numpy().all()
    assert set((adaptive.evaluations.numpy() - 2) % 6) == {0}  # six for every step that is tried
    loose = sampler(_DOPRI5).with_options(dataclasses.replace(_DOPRI5, rtol=0.1, atol=0.1))
    assert (loose(*arguments).work.evaluations < adaptive.evaluations).numpy().all()


def test_the_last_batch_is_filled_up_and_cut_again():
    calls = []

    def sample(params, labels, seed, row):
        calls.append((labels.numpy().tolist(), row.numpy().tolist(), int(seed)))
        return tf.reshape(row, (-1, 1, 1, 1))

    batches = list(in_batches(sample, None, np.array([7, 8, 9, 6, 5]), 2**40, 3))
    assert calls == [([7, 8, 9], [0, 1, 2], 2**40), ([6, 5, 6], [3, 4, 5], 2**40)]
    assert [labels.tolist() for labels, _ in batches] == [[7, 8, 9], [6, 5]]
    assert [images.ravel().tolist() for _, images in batches] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("options", [_DDPM, _GUIDED, _DPM_SOLVER, _ODE, _SDE])
def test_compiled_it_is_one_loop_of_known_length_and_static_shapes(params, options):
    sample = sampler(options)
    controls = tf.nest.map_structure(tf.constant, sample.controls)
    arguments = (params, [], controls), tf.constant(_LABELS[:7], tf.int32), tf.constant(0, tf.int64), tf.range(7)
    hlo = sample.program.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    assert re.findall(r" while\(.*known_trip_count\":\{\"n\":\"(\d+)\"", hlo) == [str(_STEPS)]
    assert len(re.findall(r" while\(", hlo)) == 1
    assert not re.search(r"\[[\d,]*<=\d+|\b(infeed|outfeed|send|recv)\(|rng", hlo)  # dynamic shapes, host, randomness


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(sampler="euler"), "--sampler must be one of ddpm, ddim.*, got 'euler'"),
        (dict(sampler="sde"), "--sampler must be one of ddpm, ddim, dpmpp, ode for .* --objective=ddpm, got 'sde'"),
        (dict(sampler="ddpm", diffusion="kl"), "--diffusion goes with --sampler=sde, got --diffusion=kl"),
        (dict(sampler="ddpm", solver="heun"), "--solver goes with --sampler=ode or sde, got --solver=heun"),
        (dict(sampler="ode", solver="rk4"), "--solver must be one of heun, euler, dopri5 for --sampler=ode, got 'rk4'"),
        (dict(sampler="ode", solver="dopri5", num_steps=4), "--num_steps goes with solvers of fixed steps.*=4"),
        (dict(sampler="ddim", rtol=0.1), "--rtol goes with --solver=dopri5, got --rtol=0.1"),
        (dict(atol=0.0), "--atol must be positive, got 0.0"),
        (dict(diffusion_eta=0.0), "--diffusion_eta must be positive, got 0.0"),
        (dict(diffusion="kl", diffusion_norm=2.0), "--diffusion_norm goes with --diffusion=constant or .*=kl"),
        (dict(diffusion="kl", diffusion_eta=0.5), "--diffusion_eta goes with --diffusion=kl_eta, got .*=kl"),
        (dict(timestep_shift=-1.0), "--timestep_shift must be positive, got -1.0"),
        (dict(last_step_size=1.0), "--last_step_size must be above 0 and below 0.999, got 1.0"),
        (dict(last_step="heun"), "--last_step must be one of none, mean, tweedie, euler, got 'heun'"),
        (dict(diffusion="beta"), "--diffusion must be one of constant, .*, got 'beta'"),
        (dict(guidance_interval=(0.5, 0.5)), "--guidance_interval must be LOW,HIGH .*, got 0.5,0.5"),
        (dict(sampler="ddpm", eta=0.5), "--eta goes with --sampler=ddim, got --eta=0.5 with --sampler=ddpm"),
        (dict(sampler="ddim", eta=1.5), "--eta must be from 0 to 1, got 1.5"),
        (dict(sampler="ddim", eta=-0.5), "--eta must be from 0 to 1, got -0.5"),
        (dict(cfg_scale=-1.0), "--cfg_scale must not be negative, got -1.0"),
        (dict(num_steps=0), "--num_steps must be from 1 to 1000, got 0"),
        (dict(num_steps=1001), "--num_steps must be from 1 to 1000, got 1001"),
        (dict(guided_channels=0), "--guided_channels must be from 1 to 1, got 0"),
        (dict(guided_channels=2), "--guided_channels must be from 1 to 1, got 2"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_traced(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(SamplerOptions(**arguments))


def test_guidance_without_a_null_class_is_refused_and_none_is_allowed(params):
    with pytest.raises(ValueError, match="--cfg_scale=2.0 needs a model trained with label dropout"):
        ImageSampler(model, _PROCESS, _CODEC, None, SamplerOptions("ddim", 2, cfg_scale=2.0))
    sample = ImageSampler(model, _PROCESS, _CODEC, None, SamplerOptions("ddim", 2))
    with eagerly():
        assert images_of(sample, params, _LABELS, 0).shape[0] == _N
