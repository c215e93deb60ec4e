import keras
import numpy as np
import pytest
import tensorflow as tf

from dit_tf.models import blocks
from dit_tf.models.blocks import AdaLNBlock, AdaLNZeroBlock, CrossAttentionBlock, InContextBlock

_DESIGNS = [AdaLNZeroBlock, AdaLNBlock, CrossAttentionBlock, InContextBlock]
_N, _T, _D, _HEADS = 2, 6, 16, 4
# Sums of some tens of float32 products of magnitude 1, a few in a row, in another order.
_FLOAT32 = dict(rtol=0, atol=2e-5)


def _built(design, awake=True, dtype="float32", **options):
    """A block; awake: every weight is drawn from a normal distribution."""
    block = design(_D, _HEADS, 4.0, dtype=dtype, **options)
    block.build((None, None, _D))
    rng = np.random.default_rng(2)
    for v in block.trainable_variables if awake else ():
        v.assign(rng.normal(float(v.name in ("gamma", "scale")), 0.25, v.shape))
    return block


def _inputs(rng, conditions=2):
    """x (N, T, D), the condition vector (N, D) and condition tokens (N, S, D)."""
    shapes = (_N, _T, _D), (_N, _D), (_N, conditions, _D)
    return tuple(tf.constant(rng.standard_normal(shape), tf.float32) for shape in shapes)


def _condition(block, vector, tokens):
    return {"vector": vector, "tokens": tokens, None: None}[block.conditions_on]


def _softmax_attention(q, k, v):
    """q (N, T, D), k and v (N, S, D) -> (N, T, D), head by head in float64."""

    def one_head(q, k, v):
        logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True) @ v

    heads = zip(*(np.split(np.float64(a), _HEADS, axis=-1) for a in (q, k, v)))
    return np.concatenate([one_head(*head) for head in heads], axis=-1)


def _affine(dense, x):
    return np.asarray(x) @ dense.kernel.numpy() + dense.bias.numpy()


def test_layer_norm_has_mean_zero_and_the_small_epsilon_of_dit(rng):
    x = rng.standard_normal((4, 3, 512)) * [[[1e-3], [1.0], [50.0]]] + [[[0.1], [-3.0], [2e3]]]
    centred = x - x.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    assert 0.6 < expected[:, 0].std() < 0.8  # where the variance is 1e-6 too, the epsilon shows
    # In float32 x has an error of 2e3 x 6e-8 = 1.2e-4, one part in 4e5 of its deviation.
    np.testing.assert_allclose(blocks.layer_norm(tf.constant(x, tf.float32)), expected, atol=1e-5)


def test_modulation_scales_by_one_more_and_shifts(rng):
    x, shift, scale = (tf.constant(rng.standard_normal(s), tf.float32) for s in [(_N, _T, _D), (_N, _D), (_N, _D)])
    expected = x.numpy() * (1 + scale.numpy()[:, None]) + shift.numpy()[:, None]
    np.testing.assert_allclose(blocks.modulate(x, shift, scale), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(blocks.modulate(x, 0 * shift, 0 * scale), x)


def test_attention_without_a_preference_averages_and_with_a_strong_one_selects(rng):
    k, v = (tf.constant(rng.standard_normal((_N, 5, _HEADS, 4)), tf.float32) for _ in range(2))
    average = blocks.attend(tf.zeros((_N, _T, _HEADS, 4)), k, v)
    np.testing.assert_allclose(average, np.repeat(np.mean(v, axis=1).reshape(_N, 1, -1), _T, axis=1), **_FLOAT32)
    keys = tf.tile(200.0 * tf.eye(4)[None, :, None], (_N, 1, _HEADS, 1))  # the logits differ by 100: e^-100
    selected = blocks.attend(tf.eye(4)[None, ::-1, None] + tf.zeros((_N, 4, _HEADS, 4)), keys, v[:, :4])
    np.testing.assert_allclose(selected, np.reshape(v[:, 3::-1], (_N, 4, -1)), **_FLOAT32)


def test_self_attention_is_softmax_attention_with_one_fused_matrix(rng):
    """Columns of the matrix: q, k, v, and in each head by head."""
    layer, (x, _, _) = _built(InContextBlock).attention, _inputs(rng)
    mixed = _softmax_attention(*np.split(_affine(layer.qkv, x), 3, axis=-1))
    np.testing.assert_allclose(layer(x), _affine(layer.projection, mixed), **_FLOAT32)


@pytest.mark.parametrize("conditions", [1, 2, 7])
def test_cross_attention_takes_any_number_of_condition_tokens_in_any_order(rng, conditions):
    layer, (x, _, c) = _built(CrossAttentionBlock).cross_attention, _inputs(rng, conditions)
    mixed = _softmax_attention(_affine(layer.q, x), *np.split(_affine(layer.kv, c), 2, axis=-1))
    np.testing.assert_allclose(layer(x, c), _affine(layer.projection, mixed), **_FLOAT32)
    np.testing.assert_allclose(layer(x, c[:, ::-1]), layer(x, c), **_FLOAT32)


def _normalised(norm, x):
    """x (N, T, D), each head divided by its root mean square and scaled, in float64."""
    heads = np.reshape(np.float64(x), (*x.shape[:2], _HEADS, -1))
    heads = heads / np.sqrt((heads**2).mean(axis=-1, keepdims=True) + 1e-6) * norm.scale.numpy()
    return heads.reshape(x.shape)


def test_qk_normalisation_is_softmax_attention_of_normalised_heads(rng):
    """Of the self-attention and of the one to the condition; the heads share their scales."""
    block, (x, _, c) = _built(CrossAttentionBlock, qk_norm=True), _inputs(rng)
    for layer, found, q, k, v in [
        (block.attention, block.attention(x), *np.split(_affine(block.attention.qkv, x), 3, axis=-1)),
        (
            block.cross_attention, block.cross_attention(x, c), _affine(block.cross_attention.q, x),
            *np.split(_affine(block.cross_attention.kv, c), 2, axis=-1),
        ),
    ]:  # fmt: skip
        norm = layer.qk_norm
        mixed = _softmax_attention(_normalised(norm.q, q), _normalised(norm.k, k), v)
        np.testing.assert_allclose(found, _affine(layer.projection, mixed), **_FLOAT32)


@pytest.mark.parametrize("dtype, rounding", [("float32", 1e-5), ("mixed_bfloat16", 0.02)])
def test_with_unit_scales_no_logit_is_beyond_the_root_of_the_head_size(rng, dtype, rounding):
    norm = blocks.QKNorm(dtype=dtype)
    norm.build(64)
    q = tf.constant(1e4 * rng.standard_normal((_N, _T, _HEADS, 64)) + 1e4, norm.compute_dtype)
    normalised, same = norm(q, q)
    assert normalised.dtype == same.dtype == q.dtype
    logits = np.einsum("nthd,nshd->nhts", *(np.float64(a) for a in (normalised, same))) / np.sqrt(64)
    assert logits.max() <= 8 * (1 + rounding)
    np.testing.assert_allclose(np.einsum("nhtt->nht", logits), 8, rtol=rounding)  # of a token and itself


@pytest.mark.parametrize("design", _DESIGNS)
def test_with_qk_normalisation_the_length_of_the_query_and_key_weights_does_not_matter(rng, design):
    x, vector, tokens = _inputs(rng)
    for qk_norm in (True, False):
        block = _built(design, qk_norm=qk_norm)
        c = _condition(block, vector, tokens)
        before = block(x, c)
        attentions = [(block.attention.qkv, 2 * _D)]
        if design is CrossAttentionBlock:
            attentions += [(block.cross_attention.q, _D), (block.cross_attention.kv, _D)]
        for dense, columns in attentions:
            factor = np.where(np.arange(dense.units) < columns, 16.0, 1.0)  # of v stays what it is
            dense.set_weights([factor * w for w in dense.get_weights()])
        # The epsilon is 1e-6 of a mean square that is about 1.
        assert np.allclose(block(x, c), before, rtol=0, atol=1e-4) == qk_norm


def test_the_mlp_has_gelu_in_its_tanh_form():
    layer, x = blocks.MLP(1, 1.0), np.linspace(-4, 4, 81)
    layer.build((None, None, 1))
    layer.set_weights([np.ones((1, 1)), np.zeros(1)] * 2)
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    exact = tf.nn.gelu(x, approximate=False).numpy()
    assert np.abs(expected - exact).max() > 4e-4  # the two forms can be told apart
    np.testing.assert_allclose(np.ravel(layer(x.reshape(1, -1, 1))), expected, rtol=0, atol=1e-6)


def test_the_condition_passes_silu_before_it_modulates(rng):
    layer, c = blocks.Modulation(_D, 3, "glorot_uniform"), rng.standard_normal((_N, _D))
    layer.build((None, _D))
    chunks = layer(tf.constant(c, tf.float32))
    expected = (c / (1 + np.exp(-c))) @ layer.dense.kernel.numpy()
    np.testing.assert_allclose(np.concatenate(chunks, axis=-1), expected, **_FLOAT32)
    assert len(chunks) == 3


@pytest.mark.parametrize("design", _DESIGNS)
def test_a_block_does_not_know_where_a_token_stands(rng, design):
    """Positions enter through the table alone: permuted tokens come out permuted."""
    block, (x, vector, tokens) = _built(design), _inputs(rng)
    c, order = _condition(block, vector, tokens), [3, 1, 5, 0, 4, 2]
    expected = tf.gather(block(x, c), order, axis=1)
    assert not np.allclose(expected, tf.gather(x, order, axis=1), atol=0.1)
    np.testing.assert_allclose(block(tf.gather(x, order, axis=1), c), expected, **_FLOAT32)


def test_an_adaln_zero_block_begins_as_the_identity_and_an_adaln_block_does_not(rng):
    x, vector, _ = _inputs(rng)
    np.testing.assert_array_equal(_built(AdaLNZeroBlock, awake=False)(x, vector), x)
    assert np.abs(_built(AdaLNBlock, awake=False)(x, vector) - x).max() > 0.1


# adaLN-Zero is compared with the public program; the other designs follow from it, each in one step.


def _copy_shared(source, target):
    """Self-attention and MLP of one block into another."""
    for part in ("attention", "mlp"):
        getattr(target, part).set_weights(getattr(source, part).get_weights())


def test_adaln_zero_with_open_gates_is_adaln(rng):
    x, vector, _ = _inputs(rng)
    zero, plain = _built(AdaLNZeroBlock), _built(AdaLNBlock)
    _copy_shared(plain, zero)
    kernel, bias = plain.modulation.dense.get_weights()
    closed, opened = np.zeros((_D, _D)), np.ones(_D)
    k, b = np.split(kernel, 4, axis=1), np.split(bias, 4)
    zero.modulation.dense.set_weights([
        np.concatenate([k[0], k[1], closed, k[2], k[3], closed], axis=1),
        np.concatenate([b[0], b[1], opened, b[2], b[3], opened]),
    ])  # fmt: skip
    np.testing.assert_allclose(zero(x, vector), plain(x, vector), **_FLOAT32)


def test_adaln_of_a_constant_modulation_is_the_plain_block_with_affine_norms(rng):
    """Scale and shift that ignore the condition are gamma - 1 and beta."""
    x, vector, _ = _inputs(rng)
    adaptive, plain = _built(AdaLNBlock), _built(InContextBlock)
    _copy_shared(plain, adaptive)
    msa, mlp = plain.norm_msa, plain.norm_mlp
    bias = np.concatenate([msa.beta, msa.gamma - 1, mlp.beta, mlp.gamma - 1])
    adaptive.modulation.dense.set_weights([np.zeros((_D, 4 * _D)), bias])
    np.testing.assert_allclose(adaptive(x, vector), plain(x), **_FLOAT32)


def test_a_cross_attention_block_adds_one_attention_between_the_other_two_parts(rng):
    x, _, tokens = _inputs(rng, conditions=7)
    cross, plain = _built(CrossAttentionBlock), _built(InContextBlock)
    _copy_shared(cross, plain)
    for name in ("norm_msa", "norm_mlp"):
        getattr(plain, name).set_weights(getattr(cross, name).get_weights())
    between = x + cross.attention(cross.norm_msa(x))
    between += cross.cross_attention(cross.norm_cross(between), tokens)
    expected = between + cross.mlp(cross.norm_mlp(between))
    np.testing.assert_allclose(cross(x, tokens), expected, **_FLOAT32)
    cross.cross_attention.projection.set_weights([np.zeros((_D, _D)), np.zeros(_D)])
    np.testing.assert_allclose(cross(x, tokens), plain(x), **_FLOAT32)


@pytest.mark.parametrize("design", _DESIGNS)
@pytest.mark.parametrize("qk_norm", [False, True])
def test_norms_and_softmax_stay_in_float32_when_products_are_in_bfloat16(design, qk_norm):
    """Read off the traced graph: a mean, root, exponential or softmax in bfloat16 would have 8 bits."""
    block = _built(design, dtype="mixed_bfloat16", qk_norm=qk_norm)
    specs = [tf.TensorSpec((_N, _T, _D), tf.bfloat16), tf.TensorSpec((_N, _D)), tf.TensorSpec((_N, 2, _D))]
    call = tf.function(lambda x, v, s: block(x, _condition(block, tf.cast(v, x.dtype), tf.cast(s, x.dtype))))
    graph = call.get_concrete_function(*specs).graph
    kinds = {}
    for op in graph.get_operations():
        kinds.setdefault(op.type, set()).update(t.dtype for t in op.outputs)
    delicate = {"Softmax", "Rsqrt", "Mean", "Sum", "Exp", "Square", "SquaredDifference", "Max"} & kinds.keys()
    assert {"Rsqrt", "Mean"} <= delicate and {"Softmax", "Exp"} & delicate
    assert {kind: kinds[kind] for kind in delicate} == {kind: {tf.float32} for kind in delicate}
    products = {"MatMul", "BatchMatMulV2", "Einsum"} & kinds.keys()
    assert products and {dtype for kind in products for dtype in kinds[kind]} == {tf.bfloat16}


@pytest.mark.parametrize("design", _DESIGNS)
def test_parameters_are_float32_and_the_block_keeps_its_compute_dtype(rng, design):
    block, (x, vector, tokens) = _built(design, dtype="mixed_bfloat16"), _inputs(rng)
    assert {v.dtype for v in block.trainable_variables} == {"float32"}
    x, c = tf.cast(x, tf.bfloat16), _condition(block, tf.cast(vector, tf.bfloat16), tf.cast(tokens, tf.bfloat16))
    assert block(x, c).dtype == tf.bfloat16


def test_the_decoder_begins_at_zero_and_is_modulated_where_the_blocks_are(rng):
    x, vector, _ = _inputs(rng)
    for initializer in (None, "zeros", "glorot_uniform"):
        decoder = blocks.Decoder(_D, 12, initializer)
        decoder.build((None, None, _D))
        np.testing.assert_array_equal(decoder(x, vector), np.zeros((_N, _T, 12)))
        decoder.linear.kernel.assign(keras.random.normal((_D, 12), seed=1))
        normed = blocks.layer_norm(x)
        if initializer is not None:
            shift, scale = decoder.modulation(vector)
            assert (np.abs(shift).max() == 0) == (initializer == "zeros")
            normed = blocks.modulate(normed, shift, scale)
        np.testing.assert_allclose(decoder(x, vector), normed @ decoder.linear.kernel, **_FLOAT32)
