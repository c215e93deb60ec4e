"""Weights in fewer bytes are the weights, to the rounding of what they are stored in."""

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.serving.stored_weights import StoredWeights


@pytest.fixture
def weights(rng):
    """A table, a matrix whose outputs differ in size, a convolution, a bias, as the networks have them."""
    shapes = (11, 6), (6, 24), (3, 3, 5, 4), (24,)
    drawn = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    drawn[1] *= 10.0 ** np.linspace(-3, 3, 24, dtype=np.float32)
    return drawn


def test_float32_is_kept_to_the_bit(weights):
    stored = StoredWeights(weights)
    for weight, tensor in zip(weights, stored.tensors(), strict=True):
        np.testing.assert_array_equal(tensor, weight)
    assert stored.nbytes == 4 * sum(weight.size for weight in weights)


def test_bfloat16_rounds_to_eight_bits(weights):
    stored = StoredWeights(weights, "bfloat16")
    for weight, tensor in zip(weights, stored.tensors(), strict=True):
        assert tensor.dtype == tf.float32
        np.testing.assert_allclose(tensor, weight, rtol=2.0**-8)
    assert stored.nbytes == 2 * sum(weight.size for weight in weights)


def test_int8_is_within_half_a_level_of_the_largest_weight_of_an_output(weights):
    stored = StoredWeights(weights, "int8")
    tensors = stored.tensors()
    for weight, tensor in zip(weights[:3], tensors):
        level = np.abs(weight).max(axis=tuple(range(weight.ndim - 1))) / 127
        # Keras adds 1e-7 to the largest weight, which moves those below it by less than a thousandth of a level here.
        assert (np.abs(tensor - weight) <= 0.501 * level).all()
        assert np.abs(tensor - weight).max() > 0
    np.testing.assert_array_equal(tensors[3], weights[3])  # a bias stays float32
    outputs = 6 + 24 + 4
    assert stored.nbytes == sum(weight.size for weight in weights[:3]) + 4 * (outputs + 24)


def test_another_dtype_is_refused(weights):
    with pytest.raises(ValueError, match=r"^--weights_dtype must be one of float32, bfloat16, int8, got 'float16'\.$"):
        StoredWeights(weights, "float16")


def test_they_are_saved_and_loaded_as_they_are(weights, tmp_path):
    stored = StoredWeights(weights, "int8")
    expected = [tensor.numpy() for tensor in stored.tensors()]
    stored.read = tf.function(stored.tensors, input_signature=())
    tf.saved_model.save(stored, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for tensor, weight in zip(loaded.read(), expected, strict=True):
        np.testing.assert_array_equal(tensor, weight)
