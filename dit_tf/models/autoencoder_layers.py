"""The layers of Stable Diffusion's autoencoder, {place: layer} of either side in the order in which they run.

They are KerasCV's, whose whole networks differ from the published program in three places: every GroupNormalization has
epsilon 1e-5 there and 1e-6 here; the encoder ends in the scaled mean, here in mean and log variance; and the decoder
begins by undoing that scale, which is left to the caller here. Each layer is built alone, which takes less than
a third of the time in which KerasCV's networks trace themselves.
"""

import keras

_GROUPS = 32  # of every normalisation
_WIDEST = 512
_MULTIPLES = (1, 2, 4, 4)  # of the width, at the four levels from the image down
_EPSILON = 1e-6


def encoder(width):
    """(N, H, W, 3) -> (N, H/8, W/8, 8). ValueError where `AutoencoderKL` has one."""
    make = _Makers(width)
    layers = {"conv_in": make.convolution(3, width)}
    channels = width
    for level, multiple in enumerate(_MULTIPLES):
        for block in range(2):
            layers[f"down{level}/block{block}"] = make.resnet(channels, multiple * width)
            channels = multiple * width
        if level < 3:
            layers[f"down{level}/downsample"] = make.convolution(channels, channels, ((0, 1), (0, 1)), strides=2)
    layers |= make.middle(channels)
    layers |= {"norm_out": make.norm(channels), "activation": keras.layers.Activation("swish")}
    return layers | {"conv_out": make.convolution(channels, 8), "quant": make.convolution(8, 8, size=1)}


def decoder(width):
    """(N, h, w, 4) -> (N, 8h, 8w, 3). ValueError where `AutoencoderKL` has one."""
    make = _Makers(width)
    channels = _MULTIPLES[-1] * width
    layers = {"post_quant": make.convolution(4, 4, size=1), "conv_in": make.convolution(4, channels)}
    layers |= make.middle(channels)
    for level, multiple in enumerate(reversed(_MULTIPLES)):
        for block in range(3):
            layers[f"up{level}/block{block}"] = make.resnet(channels, multiple * width)
            channels = multiple * width
        if level < 3:
            layers[f"up{level}/repeat"] = keras.layers.UpSampling2D(2)
            layers[f"up{level}/upsample"] = make.convolution(channels, channels)
    layers |= {"norm_out": make.norm(channels), "activation": keras.layers.Activation("swish")}
    return layers | {"conv_out": make.convolution(channels, 3)}


def parts_of(layer):
    """{attribute: layer} of the layers that a layer holds."""
    return {name: part for name, part in vars(layer).items() if isinstance(part, keras.Layer)}


class _Makers:
    """Built layers, by the channels that come in and those that go out."""

    def __init__(self, width):
        if width not in range(_GROUPS, _WIDEST + 1, _GROUPS):
            raise ValueError(f"The autoencoder's width must be a multiple of {_GROUPS} up to {_WIDEST}, got {width!r}.")
        # Here, because nothing else needs KerasCV and the packages that it brings.
        from keras_cv.src.models import stable_diffusion

        self._parts = stable_diffusion

    def convolution(self, channels, filters, padding=1, size=3, strides=1):
        layer = self._parts.padded_conv2d.PaddedConv2D(filters, size, padding if size > 1 else 0, strides)
        return _built(layer, channels)

    def norm(self, channels):
        return _built(keras.layers.GroupNormalization(_GROUPS), channels)

    def resnet(self, channels, filters):
        return _built(self._parts.resnet_block.ResnetBlock(filters), channels, filters)

    def middle(self, channels):
        return {
            "middle/block0": self.resnet(channels, channels),
            "middle/attention": _built(self._parts.attention_block.AttentionBlock(channels), channels),
            "middle/block1": self.resnet(channels, channels),
        }


def _built(layer, channels, filters=None):
    """The layer with its weights; filters: what goes from a block's first half to its second."""
    shape = (None, None, None, channels)
    if filters is not None:
        layer.build(shape)  # makes the projection beside the block, where it needs one
    for name, part in parts_of(layer).items():
        _built(part, filters if name in ("norm2", "conv2") else channels)
    if isinstance(layer, keras.layers.GroupNormalization):
        layer.epsilon = _EPSILON
    if not layer.built:
        layer.build(shape)
    return layer
