"""Images <-> what the model diffuses: the pixels themselves, their Haar bands, or latents of the autoencoder.

Three stages: images, uint8; examples, which are images or the moments that `dit_tf.encode` stored; x, the diffused.
A codec's weights are arguments, tensors in the order of its variables, so that a compiled program captures nothing.
"""

import keras
import tensorflow as tf

from dit_tf.latent_scale import LatentScale
from dit_tf.models.autoencoder_kl import DOWNSCALING, LATENT_CHANNELS, Posterior
from dit_tf.runtime.seeds import Stream


def scale_pixels(images):
    """uint8 -> float32 in [-1, 1]. Here and in `to_uint8` alone the range of pixels is known."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_uint8(x):
    """float32 -> uint8: clip(127.5 x + 128, 0, 255), truncated (the public sampling scripts' rule)."""
    return tf.cast(tf.clip_by_value(127.5 * x + 128.0, 0.0, 255.0), tf.uint8)


class PixelCodec:
    """The model works on pixels scaled to [-1, 1]."""

    bounded = True  # a prediction of x_0 may be clipped to [-1, 1] while sampling; latents have no such range
    bin_width = 2.0 / 255.0  # between neighbouring values; None for what is continuous
    guided_channels = None  # how many of the first channels guidance is for by default; None: all
    encoder_variables = decoder_variables = ()

    def __init__(self, image_size, channels):
        self.input_size = (image_size, image_size)
        self.channels = channels
        self.image_shape = (image_size, image_size, channels)  # of what decode gives

    def encode(self, weights, examples, seeds):
        """(N, H, W, C) uint8 -> float32 in [-1, 1]; there is no weight and no draw."""
        return scale_pixels(examples)

    def decode(self, weights, x):
        """(N, H, W, C) float32 -> uint8."""
        return to_uint8(x)


class HaarCodec:
    """The model works on the four bands of one level of the orthonormal Haar transform: half the side, four times the
    channels. Noise is white in either basis, so diffusion is that of pixels; what a model sees has channels of
    different meaning, as latents have, without an autoencoder."""

    bounded = False  # the means reach from -2 to 2, the details have another range each
    bin_width = None
    guided_channels = None
    encoder_variables = decoder_variables = ()

    def __init__(self, image_size, channels):
        """ValueError unless 2 divides the size."""
        if image_size % 2:
            raise ValueError(f"--image_size must be divisible by 2 with --haar, got {image_size}.")
        self.input_size = (image_size // 2, image_size // 2)
        self.channels = 4 * channels
        self.image_shape = (image_size, image_size, channels)

    def encode(self, weights, examples, seeds):
        """(N, 2h, 2w, C) uint8 -> (N, h, w, 4C) float32: means, differences of columns, of rows, and of both."""
        x = tf.reshape(scale_pixels(examples), (-1, self.input_size[0], 2, self.input_size[1], 2, self.image_shape[2]))
        x = tf.einsum("nhiwjc,bij->nhwbc", x, tf.constant(_HAAR))
        return tf.reshape(x, (-1, *self.input_size, self.channels))

    def decode(self, weights, x):
        """(N, h, w, 4C) float32 -> uint8."""
        bands = tf.reshape(x, (-1, *self.input_size, 4, self.image_shape[2]))
        return to_uint8(tf.reshape(tf.einsum("nhwbc,bij->nhiwjc", bands, tf.constant(_HAAR)), (-1, *self.image_shape)))


# (band, row, column) of a square of 2 x 2: orthonormal, and its own inverse but for the order of the axes.
_HAAR = [[[0.5, 0.5], [0.5, 0.5]], [[0.5, -0.5], [0.5, -0.5]], [[0.5, 0.5], [-0.5, -0.5]], [[0.5, -0.5], [-0.5, 0.5]]]


class VaeCodec:
    """The model works on latents of the autoencoder, a draw from the posterior times 0.18215 (Peebles and Xie 2023,
    section 4) or as another autoencoder's latents are scaled."""

    bounded = False
    bin_width = None
    guided_channels = 3  # of four; the paper's guided numbers were made so (appendix A)
    channels = LATENT_CHANNELS

    def __init__(self, image_size, vae=None, scale=LatentScale()):
        """vae: an `AutoencoderKL`; without it only stored moments can be encoded, and nothing decoded.

        ValueError unless 8 divides the size.
        """
        if image_size % DOWNSCALING:
            raise ValueError(f"--image_size must be divisible by {DOWNSCALING} with --vae, got {image_size}.")
        self.input_size = (image_size // DOWNSCALING,) * 2
        self.image_shape = (image_size, image_size, 3)  # of what decode gives
        self.vae, self.scale = vae, scale

    @property
    def encoder_variables(self):
        return () if self.vae is None else self.vae.variables_of("encoder")

    @property
    def decoder_variables(self):
        return () if self.vae is None else self.vae.variables_of("decoder")

    def moments(self, weights, images):
        """(N, H, W, 3) uint8 -> (N, h, w, 8) float32, the posterior's mean and log variance, not scaled."""
        with self._holding(self.encoder_variables, weights):
            return tf.concat(self.vae.moments(scale_pixels(images)), axis=-1)

    def encode(self, weights, examples, seeds):
        """Images as for `moments`, or moments of any floating-point type -> x (N, h, w, 4) float32."""
        moments = self.moments(weights, examples) if examples.dtype == tf.uint8 else tf.cast(examples, tf.float32)
        noise = seeds.normal(Stream.POSTERIOR, (*self.input_size, self.channels))
        z = Posterior(*tf.split(moments, 2, axis=-1)).sample(noise)
        return (z - self.scale.offset if self.scale.offset else z) * self.scale.factor

    def decode(self, weights, x):
        """(N, h, w, 4) float32 -> (N, H, W, 3) uint8."""
        with self._holding(self.decoder_variables, weights):
            z = x / self.scale.factor
            return to_uint8(self.vae.decode(z + self.scale.offset if self.scale.offset else z))

    @staticmethod
    def _holding(variables, weights):
        return keras.StatelessScope(state_mapping=zip(variables, weights, strict=True))


def tensors(variables):
    """What Keras variables hold now, as a codec's functions take it."""
    return [tf.convert_to_tensor(v.value) for v in variables]
