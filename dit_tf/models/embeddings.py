"""What enters the transformer: patches, positions, times and labels (DiT, section 3.2; models.py of the public code).

Letters: N batch, T tokens, D width, C channels, H x W grid of tokens, p patch size.
"""

import math

import keras
import numpy as np
import tensorflow as tf

XAVIER = "glorot_uniform"


def normal_002():
    """N(0, 0.02). A new one per weight: an initializer object that is used twice draws the same numbers twice."""
    return keras.initializers.RandomNormal(stddev=0.02)


def patchify(x, patch_size):
    """(N, H p, W p, C) -> (N, T, p p C): row-major tokens, each (p, p, C) with the channel fastest."""
    p = patch_size
    height, width, channels = x.shape[1] // p, x.shape[2] // p, x.shape[3]
    x = tf.reshape(x, (-1, height, p, width, p, channels))
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * width, p * p * channels))


def unpatchify(tokens, grid, patch_size):
    """(N, T, p p C) -> (N, H p, W p, C), the inverse of `patchify`."""
    (height, width), p = grid, patch_size
    channels = tokens.shape[-1] // (p * p)
    x = tf.reshape(tokens, (-1, height, width, p, p, channels))
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * p, width * p, channels))


def sincos_position_table(grid, width):
    """Fixed 2-D sin-cos table of an H x W grid, (H W, D) float64; D must be divisible by 4.

    The first half of the channels encodes the column and the second half the row, each as [sin, cos] with frequencies
    10000^(-i / (D/4)) (matches DiT, whose meshgrid puts the column first).
    """
    if width % 4:
        raise ValueError(f"A 2-D sin-cos table needs a width divisible by 4, got {width}.")
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")

    def encode(position):
        angles = position.reshape(-1, 1) * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    return np.concatenate([encode(columns), encode(rows)], axis=1)


def sinusoid_frequencies(dim=256, max_period=10000.0):
    """float32 (dim//2,): w_i = max_period^(-i / (dim//2)), to the bit those of DiT's program."""
    half = dim // 2
    # The exponents are rounded to float32 before the power is taken (matches DiT, where an angle near 1,000 shows it).
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    if (dim, max_period) == (256, 10000.0):
        # PyTorch's exp, with which the published weights were trained, is one step above the nearest float32 here: at
        # t = 999 the angle differs by 3e-5, the largest of all distances to the original.
        frequencies[12] = np.nextafter(frequencies[12], np.float32(1))
    return frequencies


def timestep_sinusoid(t, dim=256, max_period=10000.0):
    """(N,) times, integer or fractional -> (N, dim) float32: cos(t w_i), sin(t w_i); w_i as `sinusoid_frequencies`.

    An odd dim ends in a zero column. (Transformer positions, Vaswani et al. 2017, with the cosine first as in DiT.)
    """
    angles = tf.cast(t, tf.float32)[:, None] * tf.constant(sinusoid_frequencies(dim, max_period))
    return tf.pad(tf.concat([tf.cos(angles), tf.sin(angles)], axis=1), ((0, 0), (0, dim % 2)))


def on_tokens(dense, x):
    """dense(x), x (N, T, D) -> (N, T, units), as one product of N T rows. Left to itself it is tf.tensordot, which
    works out shapes at run time where N is unknown, as in a served program: 8 % of a step of one small image."""
    rows = dense(tf.reshape(x, (-1, x.shape[-1])))
    return tf.reshape(rows, (-1, x.shape[1], dense.units))


class PatchEmbedder(keras.layers.Layer):
    """x (N, H p, W p, C) -> tokens (N, T, D): one dense product per flattened patch, plus the fixed position table."""

    def __init__(self, grid, patch_size, width, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.position_table = sincos_position_table(grid, width)
        self.projection = keras.layers.Dense(
            width, kernel_initializer=XAVIER, dtype=self.dtype_policy, name="projection"
        )

    def build(self, shape):
        self.projection.build((None, None, self.patch_size**2 * shape[-1]))

    def call(self, x):
        tokens = on_tokens(self.projection, patchify(x, self.patch_size))  # (N, T, D)
        return tokens + tf.constant(self.position_table, tokens.dtype)


class TimestepEmbedder(keras.layers.Layer):
    """t (N,) -> (N, D): sinusoid of 256 in float32, then Dense, SiLU, Dense."""

    frequency_size = 256

    def __init__(self, width, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.expand = keras.layers.Dense(
            width, activation="silu", kernel_initializer=normal_002(), dtype=self.dtype_policy, name="expand"
        )
        self.project = keras.layers.Dense(
            width, kernel_initializer=normal_002(), dtype=self.dtype_policy, name="project"
        )

    def build(self, shape):
        self.expand.build((None, self.frequency_size))
        self.project.build((None, self.expand.units))

    def call(self, t):
        return self.project(self.expand(timestep_sinusoid(t, self.frequency_size)))


class LabelEmbedder(keras.layers.Layer):
    """y (N,) integer labels -> (N, D). With label dropout there is one row more, the null class `num_classes`."""

    def __init__(self, num_classes, width, dropout_prob, **kwargs):
        super().__init__(**kwargs)
        self.dropout_prob = dropout_prob
        self.null_label = num_classes if dropout_prob > 0 else None
        self.table_shape = (num_classes + (self.null_label is not None), width)

    def build(self, shape):
        self.table = self.add_weight(shape=self.table_shape, initializer=normal_002(), name="table")

    def drop(self, y, uniform):
        """Labels with the null class wherever uniform (N,), drawn from [0, 1), is below the dropout probability."""
        if self.null_label is None:
            return y
        return tf.where(uniform < self.dropout_prob, tf.constant(self.null_label, y.dtype), y)

    def call(self, y):
        return tf.gather(tf.convert_to_tensor(self.table), y)
