import numpy as np
import pytest
import tensorflow as tf

from dit_tf.models.embeddings import (
    LabelEmbedder,
    PatchEmbedder,
    TimestepEmbedder,
    patchify,
    sincos_position_table,
    timestep_sinusoid,
    unpatchify,
)


def test_a_token_is_one_patch_and_tokens_go_row_by_row(rng):
    x, p = rng.standard_normal((2, 6, 10, 3)).astype(np.float32), 2
    tokens = patchify(tf.constant(x), p).numpy()
    assert tokens.shape == (2, 15, 12)
    for row in range(3):
        for column in range(5):
            patch = x[:, row * p : (row + 1) * p, column * p : (column + 1) * p]
            np.testing.assert_array_equal(tokens[:, row * 5 + column], patch.reshape(2, -1))


@pytest.mark.parametrize("height, width, p, channels", [(6, 10, 2, 3), (4, 12, 4, 8), (3, 5, 1, 2)])
def test_unpatchify_undoes_patchify_and_the_other_way_round(rng, height, width, p, channels):
    x, grid = rng.standard_normal((2, height, width, channels)), (height // p, width // p)
    np.testing.assert_array_equal(unpatchify(patchify(x, p), grid, p), x)
    tokens = rng.standard_normal((2, grid[0] * grid[1], p * p * channels))
    np.testing.assert_array_equal(patchify(unpatchify(tokens, grid, p), p), tokens)


def test_embedding_patches_is_a_convolution_of_that_stride_plus_the_position_table(rng):
    layer, x = PatchEmbedder((3, 5), 2, 8), rng.standard_normal((2, 6, 10, 3)).astype(np.float32)
    layer.build(x.shape)
    kernel, bias = (rng.standard_normal(v.shape).astype(np.float32) for v in layer.trainable_variables)
    layer.projection.set_weights([kernel, bias])
    convolved = tf.nn.conv2d(x, kernel.reshape(2, 2, 3, 8), strides=2, padding="VALID").numpy().reshape(2, 15, 8)
    expected = convolved + bias + sincos_position_table((3, 5), 8)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)  # sums of 12 float32 products, of magnitude below 20


def test_the_position_table_has_its_closed_form_with_the_column_first():
    grid, width = (3, 5), 8
    table = sincos_position_table(grid, width)
    assert table.shape == (15, 8) and table.dtype == np.float64
    frequencies = np.array([1.0, 0.01])  # 10000^(-0/2), 10000^(-1/2)
    for row in range(3):
        for column in range(5):
            parts = [f(place * frequencies) for place in (column, row) for f in (np.sin, np.cos)]
            np.testing.assert_allclose(table[row * 5 + column], np.concatenate(parts), rtol=0, atol=1e-15)


def test_position_tables_agree_with_dit(dit_golden):
    tables = {key: a for key, a in dit_golden("embeddings.npz").items() if key.startswith("pos_embed_2d")}
    assert len(tables) == 5
    for key, expected in tables.items():
        width, grid = (int(text) for text in key.removeprefix("pos_embed_2d_D").split("_grid"))
        # float64 on both sides: the powers may round differently.
        np.testing.assert_allclose(sincos_position_table((grid, grid), width), expected, rtol=0, atol=1e-13)


def test_a_position_table_needs_four_parts():
    with pytest.raises(ValueError, match="divisible by 4, got 66"):
        sincos_position_table((4, 4), 66)


def test_a_time_becomes_cosines_and_then_sines_of_128_frequencies():
    t = np.array([0, 1, 17, 999], np.int32)
    angles = t[:, None] * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    actual = timestep_sinusoid(t)
    assert actual.dtype == tf.float32
    # An angle near 999 is a float32 product of a float32 frequency: it is off by up to 999 x 2^-23 = 1.2e-4.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1.2e-4)
    np.testing.assert_array_equal(actual[0], [1.0] * 128 + [0.0] * 128)


@pytest.mark.parametrize("dim", [256, 64, 33])
def test_timestep_sinusoids_agree_with_dit(dit_golden, dim):
    arrays = dit_golden("embeddings.npz")
    error = np.abs(timestep_sinusoid(arrays["t"], dim) - arrays[f"timestep_embedding_dim{dim}"])
    # Of the size that the models have, the frequencies are PyTorch's to the bit, and an angle's cosine is rounded. Of
    # others the reference's exp may give a neighbour: an angle from 512 to 1024 is then 2^-15 off, below 32 2^-19.
    assert error.max() <= (2.0**-23 if dim == 256 else 2.0**-15)
    assert error[arrays["t"] < 32].max() <= 2.0**-19


def test_an_odd_dimension_ends_in_zero():
    np.testing.assert_array_equal(timestep_sinusoid(np.array([3, 500]), 33)[:, -1], [0, 0])


def _timestep_embedder(rng, dtype):
    layer = TimestepEmbedder(32, dtype=dtype)
    layer.build((None,))
    for v in layer.trainable_variables:
        v.assign(rng.normal(0, v.shape[0] ** -0.5, v.shape))
    return layer


@pytest.mark.parametrize("time_dtype", [tf.int32, tf.float32])
def test_a_time_is_not_rounded_under_bfloat16(time_dtype):
    """bfloat16 has no 999: it would be 1000. The step from one to the other is the float32 one, up to rounding."""
    times = tf.constant([999, 1000], time_dtype)
    steps = {}
    for dtype in ("float32", "mixed_bfloat16"):
        out = tf.cast(_timestep_embedder(np.random.default_rng(0), dtype)(times), tf.float32).numpy()
        steps[dtype] = out[1] - out[0]
    size = np.linalg.norm(steps["float32"])
    assert size > 0.1
    # Embeddings are of magnitude 1 and have 8 bits: 32 entries off by about 2^-9 each, twice, against a step this long.
    assert np.linalg.norm(steps["mixed_bfloat16"] - steps["float32"]) < 0.1 * size


def test_label_dropout_gives_the_table_one_row_more():
    layer, without = LabelEmbedder(10, 8, 0.1), LabelEmbedder(10, 8, 0.0)
    layer.build((None,))
    without.build((None,))
    assert (layer.null_label, tuple(layer.table.shape)) == (10, (11, 8))
    assert (without.null_label, tuple(without.table.shape)) == (None, (10, 8))
    np.testing.assert_array_equal(layer(tf.constant([3, 10])), layer.table.numpy()[[3, 10]])


def test_labels_are_dropped_where_dit_dropped_them(dit_golden):
    layer, arrays = LabelEmbedder(10, 8, 0.1), dit_golden("tiny_train_steps.npz")
    dropped = 0
    for k in (0, 1):
        y, drop = arrays[f"step{k}/y"], arrays[f"step{k}/dropped"]
        expected = np.where(drop, 10, y)
        np.testing.assert_array_equal(layer.drop(tf.constant(y, tf.int32), arrays[f"step{k}/drop_rand"]), expected)
        dropped += drop.sum()
    assert dropped


def test_labels_are_dropped_below_the_probability_alone():
    y, uniform = tf.constant([1, 2, 3, 4]), np.array([0.0, 0.0999, 0.1, 0.99], np.float32)
    np.testing.assert_array_equal(LabelEmbedder(10, 8, 0.1).drop(y, uniform), [10, 10, 3, 4])
    np.testing.assert_array_equal(LabelEmbedder(10, 8, 1.0).drop(y, uniform), [10] * 4)
    np.testing.assert_array_equal(LabelEmbedder(10, 8, 0.0).drop(y, uniform), y)
