"""uint8 survives the way there and back; latents are a draw from the posterior, from images and from stored moments."""

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.latent_scale import STABLE_DIFFUSION, LatentScale
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.codec import HaarCodec, PixelCodec, VaeCodec, scale_pixels, tensors, to_uint8
from dit_tf.runtime.seeds import RowSeeds, Stream

_CODEC = PixelCodec(image_size=16, channels=1)
_GREYS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize("jit", [False, True])
def test_every_grey_level_survives_encoding_and_decoding(jit):
    """Also where the compiler joins the two scalings: (u / 127.5 - 1) 127.5 + 128 is u + 1/2 before truncation."""
    around = tf.function(lambda images: _CODEC.decode([], _CODEC.encode([], images, None)), jit_compile=jit)
    images = around(_GREYS)
    assert images.dtype == tf.uint8
    np.testing.assert_array_equal(images, _GREYS)


def test_pixels_become_the_range_from_minus_one_to_one():
    x = _CODEC.encode([], _GREYS, None)
    assert x.dtype == tf.float32
    np.testing.assert_allclose(np.ravel(x), np.linspace(-1, 1, 256), atol=1e-7)  # one rounding near 1
    assert x.numpy().min() == -1 and x.numpy().max() == 1


@pytest.mark.parametrize("x, grey", [
    (-1.0, 0), (1.0, 255), (0.0, 128),
    (-7.0, 0), (7.0, 255),  # clipped, not wrapped around
    (0.5 / 127.5, 128), (0.99 / 127.5, 128), (1.01 / 127.5, 129), (-0.01 / 127.5, 127),  # truncated, not rounded
])  # fmt: skip
def test_decoding_clips_and_then_truncates(x, grey):
    assert _CODEC.decode([], tf.fill((1, 1, 1, 1), x)).numpy().item() == grey


def test_decoding_follows_the_published_rule_everywhere(rng):
    x = rng.uniform(-1.3, 1.3, (4, 50, 50, 3)).astype(np.float32)
    expected = np.clip(np.float32(127.5) * x + np.float32(128), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(_CODEC.decode([], x), expected)


_HAAR = HaarCodec(image_size=8, channels=3)


@pytest.mark.parametrize("jit", [False, True])
def test_haar_bands_are_an_orthonormal_basis_of_the_pixels(rng, jit):
    """Lengths and grey levels survive: each band is half the sum of four pixels with signs."""
    images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
    encode = tf.function(lambda x: _HAAR.encode([], x, None), jit_compile=jit)
    decode = tf.function(lambda x: _HAAR.decode([], x), jit_compile=jit)
    bands = encode(images)
    decoded = decode(bands)
    assert bands.shape == (5, *_HAAR.input_size, _HAAR.channels) == (5, 4, 4, 12)
    np.testing.assert_array_equal(decoded, images)
    pixels = scale_pixels(images).numpy()
    # Sums of 64 squares in float32.
    np.testing.assert_allclose(np.square(bands).sum((1, 2, 3)), np.square(pixels).sum((1, 2, 3)), rtol=1e-5)
    a, b, c, d = pixels[:, ::2, ::2], pixels[:, ::2, 1::2], pixels[:, 1::2, ::2], pixels[:, 1::2, 1::2]
    expected = np.concatenate([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], axis=-1) / 2
    np.testing.assert_allclose(bands, expected, atol=1e-6)


def test_haar_bands_need_an_even_side():
    with pytest.raises(ValueError, match="--image_size must be divisible by 2 with --haar, got 7"):
        HaarCodec(image_size=7, channels=1)


def test_the_codec_says_what_the_model_works_on():
    codec = PixelCodec(image_size=8, channels=3)
    assert (codec.input_size, codec.channels, codec.bounded) == ((8, 8), 3, True)
    assert codec.image_shape == codec.decode([], tf.zeros((1, *codec.input_size, codec.channels))).shape[1:]


@pytest.fixture(scope="module")
def codec():
    return VaeCodec(16, AutoencoderKL(width=32))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def moments(codec, images):
    return codec.moments(tensors(codec.encoder_variables), images)


_SEEDS = RowSeeds(np.int64(5), np.arange(3, dtype=np.int32))


def test_moments_are_those_of_scaled_pixels(codec, images, moments):
    mean, logvar = codec.vae.moments(scale_pixels(images))
    assert moments.shape == (3, 2, 2, 8)
    np.testing.assert_array_equal(moments, np.concatenate([mean, logvar], axis=-1))


def test_a_latent_is_a_scaled_draw_from_the_posterior(codec, images, moments):
    mean, logvar = np.split(moments.numpy(), 2, axis=-1)
    noise = _SEEDS.normal(Stream.POSTERIOR, (2, 2, 4)).numpy()
    x = codec.encode(tensors(codec.encoder_variables), tf.constant(images), _SEEDS)
    np.testing.assert_allclose(x, 0.18215 * (mean + np.exp(logvar / 2) * noise), rtol=1e-5, atol=1e-6)  # float32


def test_stored_moments_give_the_latents_of_their_images_without_an_autoencoder(codec, images, moments):
    stored = VaeCodec(16)
    assert stored.encoder_variables == stored.decoder_variables == ()
    x = codec.encode(tensors(codec.encoder_variables), tf.constant(images), _SEEDS)
    np.testing.assert_array_equal(stored.encode([], moments, _SEEDS), x)
    half = stored.encode([], tf.cast(moments, tf.bfloat16), _SEEDS)
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, x, rtol=2**-7, atol=2**-8 * np.abs(moments).max())  # moments of 8 bits


def test_each_row_has_noise_of_its_own_that_the_batch_does_not_change(codec, moments):
    whole = codec.encode([], moments, _SEEDS)
    last = codec.encode([], moments[2:], RowSeeds(tf.constant(5, tf.int64), tf.range(2, 3)))
    np.testing.assert_array_equal(last, whole[2:])
    repeated = codec.encode([], tf.repeat(moments[:1], 2, axis=0), RowSeeds(tf.constant(5, tf.int64), tf.range(2)))
    assert np.abs(repeated[0] - repeated[1]).max() > 1e-3


def test_decoding_undoes_the_scale_and_ends_in_uint8(codec):
    z = np.random.default_rng(1).normal(size=(1, 2, 2, 4)).astype(np.float32)
    images = codec.decode(tensors(codec.decoder_variables), STABLE_DIFFUSION * z)
    assert images.dtype == tf.uint8 and images.shape == (1, *codec.image_shape) == (1, 16, 16, 3)
    expected = to_uint8(codec.vae.decode(z)).numpy().astype(int)
    assert np.abs(images.numpy() - expected).max() <= 1  # the scale is rounded twice


def test_the_weights_are_arguments(codec, images):
    """Compiled, the program reads no variable: other weights, other results."""
    encode = tf.function(codec.moments, jit_compile=True, autograph=False)
    zeros = [tf.zeros(v.shape) for v in codec.encoder_variables]
    assert not encode.get_concrete_function(zeros, images).captured_inputs
    assert not encode(zeros, images).numpy().any()


def test_latents_need_a_size_that_8_divides():
    assert VaeCodec(256).input_size == (32, 32)
    with pytest.raises(ValueError, match="--image_size must be divisible by 8 with --vae, got 60"):
        VaeCodec(60)


def test_the_digest_names_the_encoder_alone(codec):
    vae = codec.vae
    before = vae.encoder_sha256()
    for side, changes in (("decoder", False), ("encoder", True)):
        bias = vae.by_name[f"{side}/conv_in/bias"]
        kept = bias.numpy()
        bias.assign(kept + 1)
        assert (vae.encoder_sha256() != before) == changes
        bias.assign(kept)


_SCALES = [
    LatentScale(0.13025),
    LatentScale(0.3611, shift_factor=0.1159),
    LatentScale(1.0, latents_mean=(0.5, -1, 2, 0), latents_std=(1, 2, 4, 0.5)),
]


@pytest.mark.parametrize("scale", _SCALES, ids=str)
def test_other_scales_are_those_of_diffusers_formula(codec, scale):
    """(z - shift - mean) factor / std, and its inverse before the decoder."""
    scaled, z = VaeCodec(16, codec.vae, scale), np.random.default_rng(2).normal(size=(2, 2, 2, 4)).astype(np.float32)
    sure = np.concatenate([z, np.full_like(z, -30.0)], axis=-1)  # a deviation of 3e-7
    x = scaled.encode([], tf.constant(sure), RowSeeds(np.int64(5), np.arange(2, dtype=np.int32)))
    mean, std = np.float64(scale.latents_mean or [0] * 4), np.float64(scale.latents_std or [1] * 4)
    np.testing.assert_allclose(x, (z - scale.shift_factor - mean) * scale.scaling_factor / std, atol=1e-5)
    weights = tensors(codec.decoder_variables)
    expected = to_uint8(codec.vae.decode(z)).numpy().astype(int)
    assert np.abs(scaled.decode(weights, x).numpy() - expected).max() <= 1


@pytest.mark.parametrize("fields, message", [
    (dict(scaling_factor=0.0), "scaling_factor must be positive, got 0.0"),
    (dict(scaling_factor=float("nan")), "scaling_factor must be finite"),
    (dict(scaling_factor="1"), "scaling_factor must be finite, got '1'"),
    (dict(latents_std=[1, 2]), "latents_std must be 4 numbers"),
    (dict(latents_mean=3.0), "latents_mean must be 4 numbers, got 3.0"),
    (dict(shift_factor=[1, 2, 3, 4]), "shift_factor must be one"),
])  # fmt: skip
def test_scales_that_are_none_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LatentScale.of(fields)
    assert LatentScale.of(dict(shift_factor=None, unknown=3)) == LatentScale()
