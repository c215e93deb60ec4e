"""The four block designs of DiT (section 3.2, figure 3) and the decoder after them.

Letters: N batch, T tokens, S condition tokens, D width, h heads, d head size. Norms, softmax and modulation are float32
whatever the compute dtype. A design is a class that gives its `parts`; `conditions_on` says what the model hands
it as c.
"""

import functools

import keras
import tensorflow as tf

from dit_tf.models.embeddings import XAVIER, on_tokens
from dit_tf.models.remat import Part, rematerialised

NORM_EPSILON = 1e-6  # Keras' own default is 1e-3


def layer_norm(x):
    """Normalisation over D without affine parameters, in float32."""
    x = tf.cast(x, tf.float32)
    x = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + NORM_EPSILON)


def modulate(x, shift, scale):
    """x (N, T, D) (1 + scale) + shift, with shift and scale (N, D), in float32."""
    return x * (1.0 + tf.cast(scale, tf.float32)[:, None]) + tf.cast(shift, tf.float32)[:, None]


def gated(x, gate, update):
    """x + gate * update, gate (N, D), in x's dtype; the sum is taken in float32."""
    update = tf.cast(gate, tf.float32)[:, None] * tf.cast(update, tf.float32)
    return tf.cast(tf.cast(x, tf.float32) + update, x.dtype)


def attend(q, k, v):
    """softmax(q k^T / sqrt(d)) v: q (N, T, h, d), k and v (N, S, h, d) -> (N, T, h d)."""
    logits = tf.einsum("nthd,nshd->nhts", q * q.shape[-1] ** -0.5, k)
    weights = tf.cast(tf.nn.softmax(tf.cast(logits, tf.float32)), v.dtype)
    out = tf.einsum("nhts,nshd->nthd", weights, v)
    return tf.reshape(out, (-1, out.shape[1], out.shape[2] * out.shape[3]))


class QKNorm(keras.layers.Layer):
    """q (N, T, h, d), k (N, S, h, d) -> both divided by their root mean square over d, times scales (d,) that are
    learned and that the heads share; in float32.

    As long as the scales are one no logit is beyond sqrt(d), whatever the weights of q and k grow to: attention does
    not collapse onto one token, as it does in large models and at high learning rates (Dehghani et al. 2023, "Scaling
    ViT to 22 billion parameters", section 2, there with a layer norm). The root mean square alone, as in Stable
    Diffusion 3 (Esser et al. 2024, section 5.3.2) and LightningDiT: what bounds a logit is the length, not the mean.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.q = keras.layers.RMSNormalization(epsilon=NORM_EPSILON, dtype="float32", name="q")
        self.k = keras.layers.RMSNormalization(epsilon=NORM_EPSILON, dtype="float32", name="k")

    def build(self, head_size):
        self.q.build((None, None, None, head_size))
        self.k.build((None, None, None, head_size))

    def call(self, q, k):
        return tf.cast(self.q(q), q.dtype), tf.cast(self.k(k), k.dtype)


class SelfAttention(keras.layers.Layer):
    """(N, T, D) -> (N, T, D). One fused D -> 3D matrix, rows [q, k, v], so its Xavier bound is sqrt(6 / 4D)."""

    def __init__(self, width, num_heads, qk_norm=False, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        options = dict(kernel_initializer=XAVIER, dtype=self.dtype_policy)
        self.qkv = keras.layers.Dense(3 * width, name="qkv", **options)
        self.qk_norm = QKNorm(dtype=self.dtype_policy, name="qk_norm") if qk_norm else None
        self.projection = keras.layers.Dense(width, name="projection", **options)

    def build(self, shape):
        self.qkv.build(shape)
        if self.qk_norm is not None:
            self.qk_norm.build(shape[-1] // self.num_heads)
        self.projection.build(shape)

    def call(self, x):
        tokens, width = x.shape[1:]
        qkv = tf.reshape(on_tokens(self.qkv, x), (-1, tokens, 3, self.num_heads, width // self.num_heads))
        q, k, v = tf.unstack(qkv, axis=2)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        return on_tokens(self.projection, attend(q, k, v))


class CrossAttention(keras.layers.Layer):
    """x (N, T, D) attends to condition tokens c (N, S, D) of any number S -> (N, T, D)."""

    def __init__(self, width, num_heads, qk_norm=False, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        options = dict(kernel_initializer=XAVIER, dtype=self.dtype_policy)
        self.q = keras.layers.Dense(width, name="q", **options)
        self.kv = keras.layers.Dense(2 * width, name="kv", **options)
        self.qk_norm = QKNorm(dtype=self.dtype_policy, name="qk_norm") if qk_norm else None
        self.projection = keras.layers.Dense(width, name="projection", **options)

    def build(self, shape):
        self.q.build(shape)
        self.kv.build(shape)
        if self.qk_norm is not None:
            self.qk_norm.build(shape[-1] // self.num_heads)
        self.projection.build(shape)

    def call(self, x, c):
        heads, head_size = self.num_heads, x.shape[-1] // self.num_heads
        q = tf.reshape(on_tokens(self.q, x), (-1, x.shape[1], heads, head_size))
        k, v = tf.unstack(tf.reshape(on_tokens(self.kv, c), (-1, c.shape[1], 2, heads, head_size)), axis=2)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        return on_tokens(self.projection, attend(q, k, v))


class MLP(keras.layers.Layer):
    """(N, T, D) -> (N, T, D) through ratio D hidden units and GELU, tanh form (Keras' default is the exact one)."""

    def __init__(self, width, ratio, **kwargs):
        super().__init__(**kwargs)
        options = dict(kernel_initializer=XAVIER, dtype=self.dtype_policy)
        self.expand = keras.layers.Dense(int(ratio * width + 1e-6), name="expand", **options)
        self.project = keras.layers.Dense(width, name="project", **options)

    def build(self, shape):
        self.expand.build(shape)
        self.project.build((*shape[:-1], self.expand.units))

    def call(self, x):
        return on_tokens(self.project, tf.nn.gelu(on_tokens(self.expand, x), approximate=True))


class Modulation(keras.layers.Layer):
    """c (N, D) -> `chunks` tensors (N, D): SiLU, then one dense layer."""

    def __init__(self, width, chunks, kernel_initializer, **kwargs):
        super().__init__(**kwargs)
        self.chunks = chunks
        self.dense = keras.layers.Dense(
            chunks * width, kernel_initializer=kernel_initializer, dtype=self.dtype_policy, name="dense"
        )

    def build(self, shape):
        self.dense.build(shape)

    def call(self, c):
        return tf.split(self.dense(tf.nn.silu(c)), self.chunks, axis=-1)


class Block(keras.layers.Layer):
    """What the designs share: self-attention and MLP of one width, and that tokens pass one part after the other.
    qk_norm: of every attention, see `QKNorm`."""

    conditions_on = None  # "vector": c (N, D) = t_emb + y_emb; "tokens": c (N, 2, D) = [t_emb, y_emb]; None: neither

    def __init__(self, width, num_heads, mlp_ratio, qk_norm=False, **kwargs):
        super().__init__(**kwargs)
        self.attention = SelfAttention(width, num_heads, qk_norm, dtype=self.dtype_policy, name="attention")
        self.mlp = MLP(width, mlp_ratio, dtype=self.dtype_policy, name="mlp")

    def call(self, x, c=None, remat=False):
        """x (N, T, D) -> (N, T, D). remat: gradients compute each part anew, see `rematerialised`."""
        for part in self.parts(c):
            x = rematerialised(part, x) if remat else part.run(x, *part.conditions)
        return x


def _build(shape, *parts):
    """Every part of a block takes tokens or conditions of width D: shape is (None, None, D)."""
    for part in parts:
        part.build(shape)


def _affine_norm(name):
    """The norm of a plain ViT block, in float32."""
    return keras.layers.LayerNormalization(epsilon=NORM_EPSILON, dtype="float32", name=name)


class InContextBlock(Block):
    """A plain ViT block (pre-norm); the condition stands in the sequence as two tokens more."""

    def __init__(self, width, num_heads, mlp_ratio, **kwargs):
        super().__init__(width, num_heads, mlp_ratio, **kwargs)
        self.norm_msa = _affine_norm("norm_msa")
        self.norm_mlp = _affine_norm("norm_mlp")

    def build(self, shape):
        _build(shape, self.attention, self.mlp, self.norm_msa, self.norm_mlp)

    def parts(self, c):
        yield Part(lambda x: x + self.attention(self.norm_msa(x)), (self.norm_msa, self.attention))
        yield Part(lambda x: x + self.mlp(self.norm_mlp(x)), (self.norm_mlp, self.mlp))


class CrossAttentionBlock(Block):
    """A ViT block with one more attention, to the condition tokens, after the self-attention."""

    conditions_on = "tokens"

    def __init__(self, width, num_heads, mlp_ratio, qk_norm=False, **kwargs):
        super().__init__(width, num_heads, mlp_ratio, qk_norm, **kwargs)
        self.cross_attention = CrossAttention(
            width, num_heads, qk_norm, dtype=self.dtype_policy, name="cross_attention"
        )
        self.norm_msa = _affine_norm("norm_msa")
        self.norm_cross = _affine_norm("norm_cross")
        self.norm_mlp = _affine_norm("norm_mlp")

    def build(self, shape):
        _build(shape, self.attention, self.cross_attention, self.mlp, self.norm_msa, self.norm_cross, self.norm_mlp)

    def parts(self, c):
        yield Part(lambda x: x + self.attention(self.norm_msa(x)), (self.norm_msa, self.attention))
        cross = self.norm_cross, self.cross_attention
        yield Part(lambda x, c: x + self.cross_attention(self.norm_cross(x), c), cross, (c,))
        yield Part(lambda x: x + self.mlp(self.norm_mlp(x)), (self.norm_mlp, self.mlp))


class AdaLNBlock(Block):
    """Adaptive layer norm: shift and scale of both norms are regressed from c. No gates, Xavier initialisation."""

    conditions_on = "vector"

    def __init__(self, width, num_heads, mlp_ratio, **kwargs):
        super().__init__(width, num_heads, mlp_ratio, **kwargs)
        self.modulation = Modulation(width, 4, XAVIER, dtype=self.dtype_policy, name="modulation")

    def build(self, shape):
        _build(shape, self.attention, self.mlp, self.modulation)

    def parts(self, c):
        modulation = self.modulation(c)
        for layer, conditions in ((self.attention, modulation[:2]), (self.mlp, modulation[2:])):
            yield Part(functools.partial(self._residual, layer), (layer,), conditions)

    def _residual(self, layer, x, shift, scale):
        return x + layer(modulate(layer_norm(x), shift, scale))


class AdaLNZeroBlock(Block):
    """adaLN with gates before each residual sum, all zero at the start, so that the block begins as the identity."""

    conditions_on = "vector"

    def __init__(self, width, num_heads, mlp_ratio, **kwargs):
        super().__init__(width, num_heads, mlp_ratio, **kwargs)
        self.modulation = Modulation(width, 6, "zeros", dtype=self.dtype_policy, name="modulation")

    def build(self, shape):
        _build(shape, self.attention, self.mlp, self.modulation)

    def parts(self, c):
        modulation = self.modulation(c)
        for layer, conditions in ((self.attention, modulation[:3]), (self.mlp, modulation[3:])):
            yield Part(functools.partial(self._residual, layer), (layer,), conditions)

    def _residual(self, layer, x, shift, scale, gate):
        return gated(x, gate, layer(modulate(layer_norm(x), shift, scale)))


class Decoder(keras.layers.Layer):
    """Tokens (N, T, D) -> (N, T, out): norm, modulated where the blocks are, and a linear layer that starts at zero."""

    def __init__(self, width, units, modulation_initializer=None, **kwargs):
        super().__init__(**kwargs)
        self.modulation = None
        if modulation_initializer is not None:
            self.modulation = Modulation(
                width, 2, modulation_initializer, dtype=self.dtype_policy, name="modulation"
            )
        self.linear = keras.layers.Dense(units, kernel_initializer="zeros", dtype=self.dtype_policy, name="linear")

    def build(self, shape):
        if self.modulation is not None:
            self.modulation.build(shape)
        self.linear.build(shape)

    def call(self, x, c=None):
        x = layer_norm(x)
        if self.modulation is not None:
            shift, scale = self.modulation(c)
            x = modulate(x, shift, scale)
        return on_tokens(self.linear, x)
