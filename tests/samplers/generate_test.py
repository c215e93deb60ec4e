"""Whole images, from a seed to uint8: image i is a function of (seed, i) and its label, whatever the batch it is in."""

import re

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.models.codec import PixelCodec
from dit_tf.samplers.generate import SamplerOptions, image_sampler, in_batches, on_replicas, random_labels

_SIZE, _CLASSES, _STEPS, _N = 4, 3, 8, 12
_NULL = _CLASSES
_PROCESS, _CODEC = GaussianDiffusion(), PixelCodec(_SIZE, 1)
_DDPM = SamplerOptions("ddpm", _STEPS)
_GUIDED = SamplerOptions("ddim", _STEPS, eta=0.5, cfg_scale=2.0)
_LABELS = np.arange(_N) % _CLASSES


@pytest.fixture(scope="module")
def params():
    """An orthogonal matrix of the pixels, and one mean image per class and for the null label, inside [-0.3, 0.3]."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((_SIZE**2, _SIZE**2)))
    means = rng.uniform(-0.3, 0.3, (_CLASSES + 1, _SIZE, _SIZE, 1))
    return [tf.constant(rotation, tf.float32), tf.constant(means, tf.float32)]


def model_of(deviation):
    """call(params, x, t, y): the exact noise where class y is N(mean_y, deviation^2), with the smaller variance.

    A rotation there and back changes nothing but brings matrix products, whose sums depend on the batch size.
    """
    abar = _PROCESS.schedule.alphas_cumprod
    signal, factor = np.sqrt(abar), np.sqrt(1 - abar) / (abar * deviation**2 + 1 - abar)

    def call(params, x, t, y):
        rotation, means = params
        a, b = (tf.gather(tf.constant(table, tf.float32), t)[:, None, None, None] for table in (signal, factor))
        rotated = tf.reshape(x, (-1, _SIZE**2)) @ rotation
        x = tf.reshape(rotated @ tf.transpose(rotation), (-1, _SIZE, _SIZE, 1))
        return tf.concat([b * (x - a * tf.gather(means, y)), -tf.ones_like(x)], axis=-1)

    return call


def sampler(options, deviation=0.5):
    return image_sampler(model_of(deviation), _PROCESS, _CODEC, _NULL, options)


def images_of(sample, params, labels, seed, batch_size):
    return np.concatenate([images for _, images in in_batches(sample, params, labels, seed, batch_size)])


def assert_within_one_grey_level(actual, expected):
    assert np.abs(actual.astype(int) - expected).max() <= 1


def moved(images, others):
    """The number of images that differ by more than a grey level somewhere."""
    return (np.abs(images.astype(int) - others).max(axis=(1, 2, 3)) > 1).sum()


@pytest.fixture(scope="module", params=[_DDPM, _GUIDED], ids=["ddpm", "guided ddim"])
def sample(request):
    return sampler(request.param)


@pytest.fixture(scope="module")
def whole(sample, params):
    """All images from one call, seed 5."""
    images = images_of(sample, params, _LABELS, 5, _N)
    assert images.shape == (_N, _SIZE, _SIZE, 1) and images.dtype == np.uint8
    assert images.std() > 20  # not all black or white
    return images


@pytest.mark.parametrize("options, scale", [(_DDPM, 1.0), (_GUIDED, 2.0), (SamplerOptions("ddpm", 1, 0.0, 1.5), 1.5)])
def test_a_class_of_one_image_is_sampled_as_that_image(params, options, scale):
    """Guided, it is null + scale (image - null): the noise is linear in the image, and so is what remains of it."""
    images = images_of(sampler(options, deviation=0.0), params, _LABELS, 5, _N)
    means = params[1].numpy()
    expected = means[_NULL] + scale * (means[_LABELS] - means[_NULL])
    assert np.abs(expected).max() < 1  # never clipped
    assert_within_one_grey_level(images, (127.5 * expected + 128).astype(int))


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_images_are_the_same_for_every_batch_size(sample, params, whole, batch_size):
    """7 does not divide 12: the last batch is filled up, and only what was asked for comes out."""
    assert_within_one_grey_level(images_of(sample, params, _LABELS, 5, batch_size), whole)


def test_images_are_repeated_bit_for_bit(sample, params, whole):
    np.testing.assert_array_equal(images_of(sample, params, _LABELS, 5, _N), whole)


def test_an_image_depends_on_its_label_and_on_no_other(sample, params, whole):
    labels = _LABELS.copy()
    labels[4] = (labels[4] + 1) % _CLASSES
    images = images_of(sample, params, labels, 5, _N)
    assert moved(images[4:5], whole[4:5]) == 1
    assert_within_one_grey_level(np.delete(images, 4, axis=0), np.delete(whole, 4, axis=0))


def test_another_seed_gives_other_images(sample, params, whole):
    assert moved(images_of(sample, params, _LABELS, 6, _N), whole) == _N
    same_label = whole[_LABELS == 0]
    assert moved(same_label[1:], same_label[:-1]) == len(same_label) - 1


def test_image_i_of_a_short_run_is_image_i_of_a_long_one(sample, params, whole):
    assert_within_one_grey_level(images_of(sample, params, _LABELS[:5], 5, 7), whole[:5])


def test_rows_may_have_seeds_of_their_own(sample, params):
    """As they come to a server: image of (label, seed s) is image 0 of a run with seed s."""
    seeds, labels = [5, -1, 2**40, 5, 8, 9, 10], _LABELS[:7]
    rows = tf.zeros(7, tf.int32)
    images = sample(params, tf.constant(labels, tf.int32), tf.constant(seeds, tf.int64), rows).numpy()
    assert labels[0] == labels[3] and seeds[0] == seeds[3]
    assert_within_one_grey_level(images[:1], images[3:4])  # the same request twice
    for i in range(3):
        assert_within_one_grey_level(images[i : i + 1], images_of(sample, params, labels[i : i + 1], seeds[i], 1))


def test_images_are_the_same_for_every_number_of_replicas(sample, params, whole):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    images = images_of(on_replicas(sample, strategy), params, _LABELS, 5, 8)  # 8 does not divide 12 either
    assert_within_one_grey_level(images, whole)


def test_replicas_take_the_rows_in_order():
    strategy, calls = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), []

    def sample(params, labels, seed, row):
        replica = tf.distribute.get_replica_context()
        calls.append((int(replica.replica_id_in_sync_group), labels.numpy().tolist(), row.numpy().tolist(), int(seed)))
        return tf.reshape(row, (-1, 1, 1, 1))

    images = on_replicas(sample, strategy)(None, tf.constant([7, 8, 9, 6]), tf.constant(3), tf.constant([4, 5, 6, 7]))
    assert sorted(calls) == [(0, [7, 8], [4, 5], 3), (1, [9, 6], [6, 7], 3)]
    assert images.numpy().ravel().tolist() == [4, 5, 6, 7]


def test_there_is_one_trace_for_many_batches_and_seeds(params):
    sample = sampler(SamplerOptions("ddim", 2))
    for seed, labels in ((0, _LABELS), (-1, _LABELS[:7]), (2**40, list(_LABELS))):
        images_of(sample, params, labels, seed, 3)
    assert sample.experimental_get_tracing_count() == 1


def test_the_last_batch_is_filled_up_and_cut_again():
    calls = []

    def sample(params, labels, seed, row):
        calls.append((labels.numpy().tolist(), row.numpy().tolist(), int(seed)))
        return tf.reshape(row, (-1, 1, 1, 1))

    batches = list(in_batches(sample, None, np.array([7, 8, 9, 6, 5]), 2**40, 3))
    assert calls == [([7, 8, 9], [0, 1, 2], 2**40), ([6, 5, 6], [3, 4, 5], 2**40)]
    assert [labels.tolist() for labels, _ in batches] == [[7, 8, 9], [6, 5]]
    assert [images.ravel().tolist() for _, images in batches] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("options", [_DDPM, _GUIDED], ids=["ddpm", "guided ddim"])
def test_compiled_it_is_one_loop_of_known_length_and_static_shapes(params, options):
    arguments = params, tf.constant(_LABELS, tf.int32), tf.constant(0, tf.int64), tf.range(_N)
    hlo = sampler(options).experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    assert re.findall(r" while\(.*known_trip_count\":\{\"n\":\"(\d+)\"", hlo) == [str(_STEPS)]
    assert len(re.findall(r" while\(", hlo)) == 1
    assert not re.search(r"\[[\d,]*<=\d+|\b(infeed|outfeed|send|recv)\(|rng", hlo)  # dynamic shapes, host, randomness


def test_random_labels_are_a_function_of_seed_and_index():
    labels = random_labels(3, 1000, 7)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(random_labels(3, 10, 7), labels[:10])
    assert (random_labels(4, 1000, 7) != labels).mean() > 0.7  # 6/7 expected
    assert scipy.stats.chisquare(np.bincount(labels, minlength=7)).pvalue > 1e-3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(sampler="euler"), "--sampler must be one of ddpm, ddim.*, got 'euler'"),
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
        image_sampler(model_of(0.5), _PROCESS, _CODEC, None, SamplerOptions("ddim", 2, cfg_scale=2.0))
    sample = image_sampler(model_of(0.5), _PROCESS, _CODEC, None, SamplerOptions("ddim", 2))
    assert images_of(sample, params, _LABELS, 0, 3).shape[0] == _N
