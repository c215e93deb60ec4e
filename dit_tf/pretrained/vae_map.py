"""Published weights of Stable Diffusion's autoencoder -> ours, named `ours <- theirs, transform`.

Three layouts are in circulation: diffusers (attention named to_q, to_k, to_v, to_out.0), older diffusers (query, key,
value, proj_attn), and the original program, CompVis/latent-diffusion, where attention has 1x1 convolutions in the place
of matrices and the decoder's levels count from the image. The names say which one it is. Both sides must be used up.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dit_tf.pretrained.dit_map import FLOATS, listed

WIDTH = 128  # of the published autoencoders
_MULTIPLES = (1, 2, 4, 4)  # of it, at the four levels from the image down; the encoder has two blocks at each
_LATENT_CHANNELS = 4


def keep(a):
    return a


def convolution(a):
    """(out, in, height, width) -> (height, width, in, out)."""
    return a.transpose(2, 3, 1, 0)


def matrix(a):
    """(out, in) -> (1, 1, in, out), a convolution of one pixel."""
    return a.T[None, None]


class Row(NamedTuple):
    ours: str
    theirs: str
    shape: tuple  # theirs
    transform: Callable


class Layout(NamedTuple):
    """What the places of the network are called. {i} is the level in our order, {up} the decoder's from the image."""

    title: str
    down_block: str = "encoder.down_blocks.{i}.resnets.{j}"
    downsample: str = "encoder.down_blocks.{i}.downsamplers.0.conv"
    up_block: str = "decoder.up_blocks.{i}.resnets.{j}"
    upsample: str = "decoder.up_blocks.{i}.upsamplers.0.conv"
    middle_blocks: tuple = ("mid_block.resnets.0", "mid_block.resnets.1")
    attention: str = "mid_block.attentions.0"
    attention_parts: tuple = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
    attention_is_convolution: bool = False
    shortcut: str = "conv_shortcut"
    norm_out: str = "conv_norm_out"
    prefix: str = ""  # of every name


_COMPVIS = Layout(
    title="CompVis",
    down_block="encoder.down.{i}.block.{j}",
    downsample="encoder.down.{i}.downsample.conv",
    up_block="decoder.up.{up}.block.{j}",
    upsample="decoder.up.{up}.upsample.conv",
    middle_blocks=("mid.block_1", "mid.block_2"),
    attention="mid.attn_1",
    attention_parts=("norm", "q", "k", "v", "proj_out"),
    attention_is_convolution=True,
    shortcut="nin_shortcut",
    norm_out="norm_out",
)
LAYOUTS = (
    Layout(title="diffusers"),
    Layout(title="older diffusers", attention_parts=("group_norm", "query", "key", "value", "proj_attn")),
    _COMPVIS,
    _COMPVIS._replace(title="CompVis, all of Stable Diffusion", prefix="first_stage_model."),
)


def weight_map(layout, width=WIDTH):
    """The whole list of 248 rows for one of `LAYOUTS`, in the order of the network."""
    widths = [multiple * width for multiple in _MULTIPLES]
    deepest, deep = len(widths) - 1, widths[-1]
    rows = _conv("encoder/conv_in", "encoder.conv_in", 3, width)
    channels = width
    for i, width in enumerate(widths):
        for j in range(2):
            theirs = layout.down_block.format(i=i, j=j)
            rows += _resnet(f"encoder/down{i}/block{j}", theirs, channels, width, layout)
            channels = width
        if i < deepest:
            rows += _conv(f"encoder/down{i}/downsample", layout.downsample.format(i=i), width, width)
    rows += _middle("encoder", deep, layout)
    rows += _norm("encoder/norm_out", f"encoder.{layout.norm_out}", deep)
    rows += _conv("encoder/conv_out", "encoder.conv_out", deep, 2 * _LATENT_CHANNELS)
    rows += _conv("encoder/quant", "quant_conv", 2 * _LATENT_CHANNELS, 2 * _LATENT_CHANNELS, size=1)
    rows += _conv("decoder/post_quant", "post_quant_conv", _LATENT_CHANNELS, _LATENT_CHANNELS, size=1)
    rows += _conv("decoder/conv_in", "decoder.conv_in", _LATENT_CHANNELS, deep)
    rows += _middle("decoder", deep, layout)
    for i, width in enumerate(reversed(widths)):
        for j in range(3):
            theirs = layout.up_block.format(i=i, up=deepest - i, j=j)
            rows += _resnet(f"decoder/up{i}/block{j}", theirs, channels, width, layout)
            channels = width
        if i < deepest:
            rows += _conv(f"decoder/up{i}/upsample", layout.upsample.format(i=i, up=deepest - i), width, width)
    rows += _norm("decoder/norm_out", f"decoder.{layout.norm_out}", widths[0])
    rows += _conv("decoder/conv_out", "decoder.conv_out", widths[0], 3)
    return [row._replace(theirs=layout.prefix + row.theirs) for row in rows]


def layout_of(names):
    """The layout of a state with these names.

    ValueError lists what is missing and what is left over, by the layout whose names come nearest. Other parts of a
    checkpoint, such as its loss, must have been taken out.
    """
    wanted = {layout: [row.theirs for row in weight_map(layout)] for layout in LAYOUTS}
    layout = min(LAYOUTS, key=lambda layout: len(set(wanted[layout]) ^ set(names)))
    missing = [name for name in wanted[layout] if name not in names]
    left_over = sorted(map(str, set(names) - set(wanted[layout])))
    if missing or left_over:
        raise ValueError(
            f"The weights are no autoencoder's ({layout.title}): missing {listed(missing)}, left over "
            f"{listed(left_over)}."
        )
    return layout


def check_latents(arrays):
    """ValueError, in one sentence, for an autoencoder whose latents have another number of channels; arrays: in any of
    the layouts."""
    for name in ("decoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight"):
        shape = np.shape(arrays[name]) if name in arrays else ()
        if len(shape) == 4 and shape[1] != _LATENT_CHANNELS:
            raise ValueError(
                f"It is an autoencoder of latents of {shape[1]} channels; DiT and SiT work on those of "
                f"{_LATENT_CHANNELS}, such as sd-vae-ft-ema and sdxl-vae."
            )


def convert(arrays):
    """{their name: array} in any of the layouts -> {our name: array}, for `AutoencoderKL.assign`.

    The first convolution says how wide the network is (`width_of`). ValueError where `layout_of` has one, and lists the
    arrays whose shapes are not those of the network or that are no floating-point numbers.
    """
    layout = layout_of(arrays)
    width = max(np.shape(arrays[f"{layout.prefix}encoder.conv_in.bias"]), default=WIDTH)
    arrays = {row: np.asarray(arrays[row.theirs]) for row in weight_map(layout, width)}
    wrong = [f"{row.theirs} {a.shape} in the place of {row.shape}" for row, a in arrays.items() if a.shape != row.shape]
    if wrong:
        raise ValueError(f"The weights have other shapes ({layout.title}): {', '.join(wrong)}.")
    wrong = [f"{row.theirs} of {a.dtype}" for row, a in arrays.items() if a.dtype not in FLOATS]
    if wrong:
        raise ValueError(f"The weights must be floating-point numbers: {', '.join(wrong)}.")
    return {row.ours: row.transform(a) for row, a in arrays.items()}


def width_of(arrays):
    """The width of the `AutoencoderKL` that {our name: array} belong to."""
    return arrays["encoder/conv_in/bias"].size


def _norm(ours, theirs, channels):
    return [
        Row(f"{ours}/gamma", f"{theirs}.weight", (channels,), keep),
        Row(f"{ours}/beta", f"{theirs}.bias", (channels,), keep),
    ]


def _conv(ours, theirs, channels, filters, size=3):
    return [
        Row(f"{ours}/kernel", f"{theirs}.weight", (filters, channels, size, size), convolution),
        Row(f"{ours}/bias", f"{theirs}.bias", (filters,), keep),
    ]


def _matrix(ours, theirs, channels, filters):
    return [
        Row(f"{ours}/kernel", f"{theirs}.weight", (filters, channels), matrix),
        Row(f"{ours}/bias", f"{theirs}.bias", (filters,), keep),
    ]


def _resnet(ours, theirs, channels, filters, layout):
    rows = _norm(f"{ours}/norm1", f"{theirs}.norm1", channels)
    rows += _conv(f"{ours}/conv1", f"{theirs}.conv1", channels, filters)
    rows += _norm(f"{ours}/norm2", f"{theirs}.norm2", filters)
    rows += _conv(f"{ours}/conv2", f"{theirs}.conv2", filters, filters)
    if channels != filters:
        rows += _conv(f"{ours}/residual_projection", f"{theirs}.{layout.shortcut}", channels, filters, size=1)
    return rows


def _middle(side, width, layout):
    first, second = (f"{side}.{block}" for block in layout.middle_blocks)
    return (
        _resnet(f"{side}/middle/block0", first, width, width, layout)
        + _attention(f"{side}/middle/attention", f"{side}.{layout.attention}", width, layout)
        + _resnet(f"{side}/middle/block1", second, width, width, layout)
    )


def _attention(ours, theirs, width, layout):
    norm, *projections = layout.attention_parts
    rows = _norm(f"{ours}/norm", f"{theirs}.{norm}", width)
    for part, name in zip(("q", "k", "v", "proj_out"), projections):
        arguments = f"{ours}/{part}", f"{theirs}.{name}", width, width
        rows += _conv(*arguments, size=1) if layout.attention_is_convolution else _matrix(*arguments)
    return rows
