"""The autoencoder of Stable Diffusion (Rombach et al. 2022), which DiT and SiT work behind: images <-> latents.

Letters: N batch, H x W pixels, h x w = H/8 x W/8 latents. The layers are those of `autoencoder_layers`, one after the
other.
"""

import hashlib
import types
from typing import NamedTuple

import keras
import tensorflow as tf

from dit_tf.models import autoencoder_layers
from dit_tf.models.autoencoder_layers import parts_of

DOWNSCALING = 8  # pixels per latent, along either side
LATENT_CHANNELS = 4

LOGVAR_RANGE = (-30.0, 20.0)

# Attention as a whole, because KerasCV's takes its softmax in the type of its products; and the ends, which would round
# a result to 8 bits. Together they are a hundredth of the work on 256 x 256 pixels.
_FLOAT32 = ("middle/attention", "norm_out", "activation", "conv_out", "quant", "post_quant")


class Posterior(NamedTuple):
    """q(z | image), independent normal variables: mean and log variance, (N, h, w, 4) float32 each, not scaled."""

    mean: tf.Tensor
    logvar: tf.Tensor

    def sample(self, noise):
        """z = mean + exp(logvar / 2) noise, for standard normal noise of the same shape."""
        return self.mean + tf.exp(0.5 * self.logvar) * noise

    def mode(self):
        return self.mean


@keras.saving.register_keras_serializable(package="dit_tf")
class AutoencoderKL(keras.Model):
    """`moments` encodes, `decode` decodes; eagerly or compiled, for every size, one compilation for each.

    mixed_bfloat16 is the type of the products alone: normalisations, softmax, results and weights are float32. Called
    as a model it takes images to their reconstructions, by the mean of the posterior.
    """

    def __init__(self, dtype="float32", *, width=128, pixels_at_once=8 * 256 * 256, name="autoencoder_kl", **kwargs):
        """The weights are random.

        width: the features of a pixel, a multiple of 32 up to 512; the published autoencoders have 128.
        pixels_at_once: a batch of more goes through in equal slices, to bound memory.

        An image of 256 x 256 takes 0.14 GB beside the weights when a TPU decodes it, and the default is eight of them.
        """
        if dtype not in ("float32", "mixed_bfloat16"):
            raise ValueError(f"The autoencoder's dtype must be float32 or mixed_bfloat16, got {dtype!r}.")
        super().__init__(name=name, autocast=False, **kwargs)
        self._products = dtype
        self.width, self.pixels_at_once = width, pixels_at_once
        self.latent_scale = None  # how its latents are scaled, where its file says so: a `LatentScale`
        sides = dict(encoder=autoencoder_layers.encoder(width), decoder=autoencoder_layers.decoder(width))
        by_name = {}  # name: variable; the names are those of `pretrained.vae_map`
        for side, layers in sides.items():
            for place, layer in layers.items():
                _set_types(layer, dtype if place not in _FLOAT32 else "float32")
                by_name.update(_weights_of(layer, f"{side}/{place}"))
        self.encoder, self.decoder = (list(layers.values()) for layers in sides.values())
        self.by_name = types.MappingProxyType(by_name)  # of a dict Keras would save the variables once more
        self.built = True

    def assign(self, arrays):
        """Set every weight from {name: array}. ValueError lists names that differ, or the first shape that does."""
        if arrays.keys() != self.by_name.keys():
            missing, unused = sorted(self.by_name.keys() - arrays.keys()), sorted(arrays.keys() - self.by_name.keys())
            raise ValueError(f"The autoencoder's weights do not fit: missing {missing}, not used {unused}.")
        for name, variable in self.by_name.items():
            if tuple(variable.shape) != tuple(arrays[name].shape):
                raise ValueError(f"{name} has shape {tuple(variable.shape)}, the array {tuple(arrays[name].shape)}.")
        for name, variable in self.by_name.items():
            variable.assign(arrays[name])

    def variables_of(self, side):
        """The variables of "encoder" or "decoder", in a fixed order."""
        return [variable for name, variable in self.by_name.items() if name.startswith(f"{side}/")]

    def encoder_sha256(self):
        """A name for the space of latents: the published decoders share one encoder, and with it this digest."""
        digest = hashlib.sha256()
        for name, variable in sorted(self.by_name.items()):
            if name.startswith("encoder/"):
                digest.update(name.encode() + variable.numpy().tobytes())
        return digest.hexdigest()

    def call(self, images):
        return self.decode(self.moments(images).mode())

    def get_config(self):
        return {"name": self.name, "dtype": self._products, "width": self.width, "pixels_at_once": self.pixels_at_once}

    def build_from_config(self, config):
        """Nothing to do: the constructor builds every weight."""

    def moments(self, images):
        """(N, H, W, 3) float32 in [-1, 1] -> `Posterior`. ValueError unless 8 divides H and W."""
        images = tf.convert_to_tensor(images, tf.float32)
        height, width = images.shape[1:3]
        if height % DOWNSCALING or width % DOWNSCALING:
            raise ValueError(f"Height and width of images must be divisible by {DOWNSCALING}, got {height}x{width}.")
        moments = _in_slices(self.encoder, images, self.pixels_at_once // (height * width))  # (N, h, w, 8)
        mean, logvar = tf.split(moments, 2, axis=-1)
        return Posterior(mean, tf.clip_by_value(logvar, *LOGVAR_RANGE))

    def decode(self, latents):
        """(N, h, w, 4) float32, not scaled -> (N, H, W, 3) float32, near [-1, 1] but not clipped to it."""
        latents = tf.convert_to_tensor(latents, tf.float32)
        height, width = latents.shape[1:3]
        return _in_slices(self.decoder, latents, self.pixels_at_once // (DOWNSCALING**2 * height * width))


def _set_types(layer, dtype):
    """The type of the products, in a layer and all that it holds."""
    if isinstance(layer, keras.layers.GroupNormalization):
        dtype = "float32"
    layer.dtype_policy = keras.DTypePolicy(dtype)
    for part in parts_of(layer).values():
        _set_types(part, dtype)


def _weights_of(layer, name):
    """{name of its place: variable}; KerasCV's own names count how many layers were made before."""
    weights = {}
    for part_name, part in parts_of(layer).items():
        # A padded convolution is its convolution: no name of its own.
        weights.update(_weights_of(part, name if part_name == "conv2d" else f"{name}/{part_name}"))
    return weights or {f"{name}/{v.name}": v for v in layer.weights}


def _in_slices(layers, x, rows):
    """The layers over x (N, ...), in equal slices of at most `rows` along the batch, the last filled up with zeros.

    A loop, so that memory is that of one slice. N is at least 1, and may be unknown until it runs.
    """

    def run(x):
        for layer in layers:
            x = layer(x)
        return x

    rows, count = max(rows, 1), x.shape[0]
    if count is not None and count <= rows:
        return run(x)
    if count is None:
        count = tf.shape(x)[0]
    slices = -(-count // rows)
    rows = -(-count // slices)
    x = tf.pad(x, [(0, slices * rows - count), (0, 0), (0, 0), (0, 0)])
    out = tf.map_fn(run, tf.reshape(x, (slices, rows, *x.shape[1:])), fn_output_signature=tf.float32)
    return tf.reshape(out, (slices * rows, *out.shape[2:]))[:count]
