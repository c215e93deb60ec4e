import functools

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers.guidance import condition, guide, within

_N, _NULL = 3, 10
_X = np.random.default_rng(0).standard_normal((_N, 2, 2, 4)).astype(np.float32)
_T = np.array([5, 6, 7], np.int32)
_LABELS = np.array([1, 2, 3])


def _model(x, t, y):
    """2C channels that tell the rows' inputs apart."""
    row = tf.cast(t + 100 * y, tf.float32)[:, None, None, None]
    return tf.concat([x + tf.sin(row), x * tf.cos(row)], axis=-1)


@functools.cache
def _conditional():
    return condition(_model, _LABELS)(_X, _T).numpy()


@functools.cache
def _unconditional():
    return condition(_model, np.full(_N, _NULL))(_X, _T).numpy()


def test_guided_channels_extrapolate_from_the_null_label():
    output = guide(_model, _LABELS, _NULL, 4.0)(_X, _T)
    expected = _unconditional() + 4.0 * (_conditional() - _unconditional())
    np.testing.assert_allclose(output[..., :4], expected[..., :4], rtol=1e-6)
    np.testing.assert_array_equal(output[..., 4:], _conditional()[..., 4:])


def test_only_the_first_channels_are_guided_when_told():
    output = guide(_model, _LABELS, _NULL, 4.0, channels=3)(_X, _T)
    every = guide(_model, _LABELS, _NULL, 4.0)(_X, _T)
    np.testing.assert_array_equal(output[..., :3], every[..., :3])
    np.testing.assert_array_equal(output[..., 3:], _conditional()[..., 3:])


@pytest.mark.parametrize("scale, expected", [(1.0, _conditional), (0.0, _unconditional)])
def test_scales_one_and_zero_are_the_two_predictions(scale, expected):
    output = guide(_model, _LABELS, _NULL, scale)(_X, _T)
    np.testing.assert_allclose(output[..., :4], expected()[..., :4], atol=1e-6)  # null + (conditional - null) rounds


def test_a_scale_of_zero_leaves_no_channel_to_the_label():
    """In every row of that scale, whatever is guided otherwise; of the variance channels too."""
    output = guide(_model, _LABELS, _NULL, tf.constant([0.0, 4.0, 0.0]), channels=3)(_X, _T)
    np.testing.assert_array_equal(output[::2], _unconditional()[::2])
    np.testing.assert_array_equal(output[1, ..., 3:], _conditional()[1, ..., 3:])


def test_each_row_may_have_its_own_scale():
    scales = [1.0, 2.5, 7.0]
    together = guide(_model, _LABELS, _NULL, tf.constant(scales))(_X, _T)
    for i, scale in enumerate(scales):
        alone = guide(_model, _LABELS[i : i + 1], _NULL, scale)(_X[i : i + 1], _T[i : i + 1])
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6)


def test_the_batch_is_doubled_with_the_null_label_in_the_second_half():
    seen = []
    guide(lambda *inputs: seen.extend(inputs) or _model(*inputs), _LABELS, _NULL, 2.0)(_X, _T)
    np.testing.assert_array_equal(seen[0], np.concatenate([_X, _X]))
    np.testing.assert_array_equal(seen[1], [5, 6, 7, 5, 6, 7])
    np.testing.assert_array_equal(seen[2], [1, 2, 3, 10, 10, 10])


def test_compiled_equals_eager_and_bfloat16_outputs_are_combined_in_float32():
    model_fn = guide(lambda *inputs: tf.cast(_model(*inputs), tf.bfloat16), _LABELS, _NULL, 4.0, channels=3)
    compiled = tf.function(model_fn, jit_compile=True)(_X, _T)
    assert compiled.dtype == tf.float32
    # Compiled sines round differently: one of bfloat16's units, 2^-7 of up to 4, times the scale.
    np.testing.assert_allclose(compiled, model_fn(_X, _T), atol=0.13)


def test_guidance_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="null_label"):
        guide(_model, _LABELS, None, 4.0)
    with pytest.raises(ValueError, match="channels=0"):
        guide(_model, _LABELS, _NULL, 4.0, channels=0)
    with pytest.raises(ValueError, match="5 channels of 4"):
        guide(_model, _LABELS, _NULL, 4.0, channels=5)(_X, _T)


def _recording(rows):
    def model(x, t, y):
        rows.append(int(tf.shape(x)[0]))
        return _model(x, t, y)

    return model


def test_outside_its_interval_nothing_is_guided_and_the_batch_is_not_doubled():
    """The place between noise and data of timesteps 5, 6, 7 of 10 is 0.5, 0.4, 0.3."""
    rows = []

    def guided(low, high):
        active = within(low, high, lambda t: 1.0 - t / 10.0)
        return guide(_recording(rows), _LABELS, _NULL, 4.0, active=active)(_X, _T)

    everywhere = guide(_model, _LABELS, _NULL, 4.0)(_X, _T)
    np.testing.assert_allclose(guided(0.0, 1.0), everywhere, rtol=1e-6)
    np.testing.assert_array_equal(guided(0.6, 1.0), _conditional())
    some = guided(0.35, 0.45)  # the middle row alone; the others have scale 1 in a doubled batch
    np.testing.assert_allclose(some[1], everywhere[1], rtol=1e-6)
    np.testing.assert_allclose(some[0], _conditional()[0], atol=1e-6)
    np.testing.assert_allclose(some[2], _conditional()[2], atol=1e-6)
    assert rows == [2 * _N, _N, 2 * _N]


def test_an_interval_compiles_to_a_choice(assert_agrees):
    active = within(0.35, 1.0, lambda t: 1.0 - t / 10.0)
    compiled = tf.function(lambda t: guide(_model, _LABELS, _NULL, 4.0, active=active)(_X, t), jit_compile=True)
    for t in (_T, tf.constant([8, 9, 9])):
        assert_agrees(compiled(t), guide(_model, _LABELS, _NULL, 4.0, active=active)(_X, t).numpy())
    assert_agrees(compiled(tf.constant([8, 9, 9])), condition(_model, _LABELS)(_X, tf.constant([8, 9, 9])).numpy())
