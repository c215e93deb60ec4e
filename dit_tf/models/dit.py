"""DiT: the diffusion transformer of Peebles and Xie (2023) as a Keras 3 model, and its table of sizes."""

import difflib
import re
from typing import NamedTuple

import keras
import tensorflow as tf

from dit_tf.models import blocks
from dit_tf.models.embeddings import LabelEmbedder, PatchEmbedder, TimestepEmbedder, unpatchify
from dit_tf.models.scan import scanned


class Size(NamedTuple):
    depth: int
    width: int
    num_heads: int
    patch_sizes: tuple


SIZES = {
    #          depth width heads patches     MACs at 256px, smallest patch   FID-50K at 400k steps (paper, table 4)
    "XL": Size(28, 1152, 16, (2, 4, 8)),  # 118.64 G                        19.47
    "L": Size(24, 1024, 16, (2, 4, 8)),  #   80.71 G                        23.33
    "B": Size(12, 768, 12, (2, 4, 8)),  #    23.01 G                        43.47
    "S": Size(12, 384, 6, (2, 4, 8)),  #      6.06 G                        68.40
    # A ladder below S for small images; ours.
    "Xs": Size(6, 192, 6, (1, 2, 4)),
    "Ti": Size(4, 128, 4, (1, 2, 4)),
    "Na": Size(3, 96, 3, (1, 2, 4)),
    "Mi": Size(2, 64, 2, (1, 2, 4)),
}

MLP_RATIO = 4.0  # of every published size
RATIOS = {k / part for part in (2, 3) for k in range(part, 8 * part + 1)}
_WHOLE = r"([1-9]\d*)"

BLOCKS = {
    "adaln_zero": blocks.AdaLNZeroBlock,
    "adaln": blocks.AdaLNBlock,
    "cross_attention": blocks.CrossAttentionBlock,
    "in_context": blocks.InContextBlock,
}

# The decoder's modulation starts as its blocks' modulation does; the other two designs have a plain norm there.
_DECODER_MODULATION = {"adaln_zero": "zeros", "adaln": "glorot_uniform"}

NAMES = [f"{family}-{size}/{p}" for family in ("DiT", "SiT") for size, row in SIZES.items() for p in row.patch_sizes]


def size_of(name):
    """"DiT-XL/2" -> keyword arguments of `DiT`. SiT-* are the same rows. "DiT-64x3x4/2", width x depth x heads / patch,
    is a size outside the table, "DiT-64x3x4r2.5/2" one whose MLPs have 2.5 times the width, not 4 times. ValueError
    names the nearest known names."""
    free = re.fullmatch(rf"[DS]iT-{_WHOLE}x{_WHOLE}x{_WHOLE}(?:r(\d\.?\d*))?/{_WHOLE}", name)
    if free:
        width, depth, num_heads, ratio, patch_size = free.groups()
        size = dict(depth=int(depth), width=int(width), num_heads=int(num_heads), patch_size=int(patch_size))
        return size if ratio is None else size | dict(mlp_ratio=_ratio(name, float(ratio)))
    if name not in NAMES:
        lower = {known.lower(): known for known in NAMES}
        near = ", ".join(lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.0))
        raise ValueError(
            f"--model must be one of DiT-{{{','.join(SIZES)}}}/PATCH, or DiT-WIDTHxDEPTHxHEADS[rRATIO]/PATCH, got "
            f"{name!r}; near: {near}."
        )
    size, patch_size = re.fullmatch(r"...-(\w+)/(\d)", name).groups()
    depth, width, num_heads, _ = SIZES[size]
    return dict(depth=depth, width=width, num_heads=num_heads, patch_size=int(patch_size))


def name_of(width, depth, num_heads, patch_size, mlp_ratio=MLP_RATIO, family="DiT"):
    """The name that `size_of` reads, of the table where the size is there."""
    if mlp_ratio != MLP_RATIO:
        return f"{family}-{width}x{depth}x{num_heads}r{mlp_ratio:.3g}/{patch_size}"
    for size, row in SIZES.items():
        if (row.width, row.depth, row.num_heads) == (width, depth, num_heads) and patch_size in row.patch_sizes:
            return f"{family}-{size}/{patch_size}"
    return f"{family}-{width}x{depth}x{num_heads}/{patch_size}"


def mlp_ratio_of(hidden, width):
    """The ratio of MLPs with so many hidden units; ValueError where none of `RATIOS` gives that number."""
    for ratio in sorted(RATIOS, key=lambda ratio: abs(ratio - MLP_RATIO)):
        if int(ratio * width + 1e-6) == hidden:
            return ratio
    raise ValueError(
        f"The MLPs have {hidden} hidden units for a width of {width}: they must have 1 to 8 times as many, in halves "
        "or thirds."
    )


def _ratio(name, rounded):
    """The ratio that a name speaks of, with two decimals where it is a third."""
    ratio = min(RATIOS, key=lambda ratio: abs(ratio - rounded))
    if abs(ratio - rounded) > 0.005:
        raise ValueError(f"--model={name}: the ratio of its MLPs must be 1 to 8 in halves or thirds, got {rounded}.")
    return ratio


@keras.saving.register_keras_serializable(package="dit_tf")
class DiT(keras.Model):
    """(x, t, y) -> prediction: x (N, H, W, C) float, t (N,) times, y (N,) integer labels -> (N, H, W, 2C or C) float32.

    With learn_sigma the channels are doubled: noise first, then what the covariance is interpolated from. The label
    `null_label` (= num_classes, where class_dropout_prob > 0) means unconditional. The call is deterministic: labels
    are dropped by `drop_labels`, from a draw that the caller makes. The output is exactly 0 before the first step.
    """

    def __init__(
        self,
        *,
        input_size,  # pixels or latents: an integer, or (H, W)
        patch_size,
        in_channels,
        width,
        depth,
        num_heads,
        num_classes,
        mlp_ratio=MLP_RATIO,
        class_dropout_prob=0.1,  # 0: no null class, hence no guidance
        learn_sigma=True,
        block="adaln_zero",
        qk_norm=False,  # see `QKNorm`
        name="dit",
        **kwargs,
    ):
        super().__init__(name=name, autocast=False, **kwargs)  # t must not be rounded to bfloat16
        height, width_px = (input_size, input_size) if isinstance(input_size, int) else input_size
        self._config = dict(
            input_size=[height, width_px], patch_size=patch_size, in_channels=in_channels, width=width, depth=depth,
            num_heads=num_heads, num_classes=num_classes, mlp_ratio=mlp_ratio, class_dropout_prob=class_dropout_prob,
            learn_sigma=learn_sigma, block=block, qk_norm=qk_norm,
        )  # fmt: skip
        if block not in BLOCKS:
            raise ValueError(f"--block must be one of {', '.join(BLOCKS)}, got {block!r}.")
        if height % patch_size or width_px % patch_size:
            size = f"{height}x{width_px}"
            raise ValueError(f"The input size must be divisible by the patch size, got {size} and {patch_size}.")
        if width % num_heads:
            raise ValueError(f"The width must be divisible by the number of heads, got {width} and {num_heads}.")
        self.grid = (height // patch_size, width_px // patch_size)
        self.patch_size = patch_size
        policy = self.dtype_policy
        self.patch_embedder = PatchEmbedder(self.grid, patch_size, width, dtype=policy, name="patch_embedder")
        self.timestep_embedder = TimestepEmbedder(width, dtype=policy, name="timestep_embedder")
        self.label_embedder = LabelEmbedder(num_classes, width, class_dropout_prob, dtype=policy, name="label_embedder")
        self.blocks = [
            BLOCKS[block](width, num_heads, mlp_ratio, qk_norm=qk_norm, dtype=policy, name=f"block{i}")
            for i in range(depth)
        ]
        out_channels = in_channels * (2 if learn_sigma else 1)
        self.decoder = blocks.Decoder(
            width, patch_size**2 * out_channels, _DECODER_MODULATION.get(block), dtype=policy, name="decoder"
        )
        self.build((None, height, width_px, in_channels))

    def build(self, shape):
        tokens = (None, None, self._config["width"])
        self.patch_embedder.build(shape)
        self.timestep_embedder.build((None,))
        self.label_embedder.build((None,))
        for block in self.blocks:
            block.build(tokens)
        self.decoder.build(tokens)

    def call(self, inputs, training=False, remat=False, scan=False):
        """remat: gradients compute the activations of each block anew, see `rematerialised`. scan: so do those of the
        blocks as one loop, see `scanned`."""
        x, t, y = inputs
        x = self.patch_embedder(x)  # (N, T, D)
        t_emb, y_emb = self.timestep_embedder(t), self.label_embedder(y)  # (N, D) each
        c = tf.stack([t_emb, y_emb], axis=1)  # (N, 2, D)
        conditions_on = self.blocks[0].conditions_on
        if conditions_on == "vector":
            c = t_emb + y_emb  # (N, D)
        elif conditions_on is None:
            x = tf.concat([c, x], axis=1)  # (N, 2 + T, D)
        if scan:
            x = scanned(self.blocks, x, c)
        else:
            for block in self.blocks:
                x = block(x, c, remat=remat)
        if conditions_on is None:
            x = x[:, 2:]
        x = self.decoder(x, c)  # (N, T, p p out)
        return tf.cast(unpatchify(x, self.grid, self.patch_size), tf.float32)

    def drop_labels(self, y, uniform):
        """Label dropout of training: y (N,) with the null class where uniform (N,) falls below the probability."""
        return self.label_embedder.drop(y, uniform)

    @property
    def null_label(self):
        """The label that means unconditional, or None for a model trained without label dropout."""
        return self.label_embedder.null_label

    @property
    def frozen_parameters(self):
        """Entries of the fixed position table, which the public code counts as parameters."""
        return self.patch_embedder.position_table.size

    def get_config(self):
        return {**super().get_config(), **self._config}

    def build_from_config(self, config):
        """Nothing to do: the constructor builds every weight."""
