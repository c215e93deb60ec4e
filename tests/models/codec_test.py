import numpy as np
import pytest
import tensorflow as tf

from dit_tf.models.codec import PixelCodec

_CODEC = PixelCodec(image_size=16, channels=1)
_GREYS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize("jit", [False, True])
def test_every_grey_level_survives_encoding_and_decoding(jit):
    """Also where the compiler joins the two scalings: (u / 127.5 - 1) 127.5 + 128 is u + 1/2 before truncation."""
    around = tf.function(lambda images: _CODEC.decode(_CODEC.encode(images)), jit_compile=jit)
    images = around(_GREYS)
    assert images.dtype == tf.uint8
    np.testing.assert_array_equal(images, _GREYS)


def test_pixels_become_the_range_from_minus_one_to_one():
    x = _CODEC.encode(_GREYS)
    assert x.dtype == tf.float32
    np.testing.assert_allclose(np.ravel(x), np.linspace(-1, 1, 256), atol=1e-7)  # one rounding near 1
    assert x.numpy().min() == -1 and x.numpy().max() == 1


@pytest.mark.parametrize("x, grey", [
    (-1.0, 0), (1.0, 255), (0.0, 128),
    (-7.0, 0), (7.0, 255),  # clipped, not wrapped around
    (0.5 / 127.5, 128), (0.99 / 127.5, 128), (1.01 / 127.5, 129), (-0.01 / 127.5, 127),  # truncated, not rounded
])  # fmt: skip
def test_decoding_clips_and_then_truncates(x, grey):
    assert _CODEC.decode(tf.fill((1, 1, 1, 1), x)).numpy().item() == grey


def test_decoding_follows_the_published_rule_everywhere(rng):
    x = rng.uniform(-1.3, 1.3, (4, 50, 50, 3)).astype(np.float32)
    expected = np.clip(np.float32(127.5) * x + np.float32(128), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(_CODEC.decode(x), expected)


def test_the_codec_says_what_the_model_works_on():
    codec = PixelCodec(image_size=8, channels=3)
    assert (codec.input_size, codec.channels, codec.bounded) == ((8, 8), 3, True)
