import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers.guidance import condition, guide

_N, _NULL = 3, 10
_X = np.random.default_rng(0).standard_normal((_N, 2, 2, 4)).astype(np.float32)
_T = tf.constant([5, 6, 7])
_LABELS = np.array([1, 2, 3])


def _model(x, t, y):
    """2C channels that tell the rows' inputs apart."""
    row = tf.cast(t + 100 * y, tf.float32)[:, None, None, None]
    return tf.concat([x + tf.sin(row), x * tf.cos(row)], axis=-1)


_CONDITIONAL = condition(_model, _LABELS)(_X, _T).numpy()
_UNCONDITIONAL = condition(_model, np.full(_N, _NULL))(_X, _T).numpy()


def test_guided_channels_extrapolate_from_the_null_label():
    output = guide(_model, _LABELS, _NULL, 4.0)(_X, _T)
    expected = _UNCONDITIONAL + 4.0 * (_CONDITIONAL - _UNCONDITIONAL)
    np.testing.assert_allclose(output[..., :4], expected[..., :4], rtol=1e-6)
    np.testing.assert_array_equal(output[..., 4:], _CONDITIONAL[..., 4:])


def test_only_the_first_channels_are_guided_when_told():
    output = guide(_model, _LABELS, _NULL, 4.0, channels=3)(_X, _T)
    every = guide(_model, _LABELS, _NULL, 4.0)(_X, _T)
    np.testing.assert_array_equal(output[..., :3], every[..., :3])
    np.testing.assert_array_equal(output[..., 3:], _CONDITIONAL[..., 3:])


@pytest.mark.parametrize("scale, expected", [(1.0, _CONDITIONAL), (0.0, _UNCONDITIONAL)])
def test_scales_one_and_zero_are_the_two_predictions(scale, expected):
    output = guide(_model, _LABELS, _NULL, scale)(_X, _T)
    np.testing.assert_allclose(output[..., :4], expected[..., :4], atol=1e-6)  # null + (conditional - null) rounds


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
