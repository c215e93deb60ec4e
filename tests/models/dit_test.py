import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from dit_tf.models.costs import count_macs, count_parameters
from dit_tf.models.dit import BLOCKS, NAMES, SIZES, DiT, mlp_ratio_of, name_of, size_of
from dit_tf.models.embeddings import unpatchify
from dit_tf.pretrained.dit_map import weight_map, weights_by_path

_DESIGNS = list(BLOCKS)
_FLOAT32 = dict(rtol=0, atol=2e-5)  # sums of some tens of float32 products of magnitude 1, in another order


def _inputs(n=4, height=8, width=8, channels=4):
    rng = np.random.default_rng(5)
    x = tf.constant(rng.standard_normal((n, height, width, channels)), tf.float32)
    return x, tf.constant(rng.integers(0, 1000, n), tf.int32), tf.constant(np.arange(n) % 11, tf.int32)


# Initialisation


def _assert_drawn_as(weight, kind, bound=None):
    """weight: size, mean, std and absmax of the drawn numbers. Five standard errors of each: one in 10^6 goes wrong."""
    n = weight.size
    if kind == "zeros":
        assert weight.absmax == 0
    elif kind == "xavier_uniform":
        sigma = bound / np.sqrt(3)
        assert abs(weight.mean) < 5 * sigma / np.sqrt(n)
        assert abs(weight.std - sigma) < 5 * sigma * np.sqrt(0.2 / n)  # the fourth moment of a uniform is 9/5 sigma^4
        assert bound * (1 - 20 / n) < weight.absmax <= bound * (1 + 1e-6)  # the largest of n; e^-20 for the lower end
    elif kind == "normal(0, 0.02)":
        assert abs(weight.mean) < 5 * 0.02 / np.sqrt(n)
        assert abs(weight.std - 0.02) < 5 * 0.02 * np.sqrt(0.5 / n)
        assert weight.absmax > 2.5 * 0.02  # not truncated at two deviations, as some normal initialisers are
    else:
        raise AssertionError(kind)


@dataclasses.dataclass
class Drawn:
    size: int
    mean: float
    std: float
    absmax: float

    @classmethod
    def of(cls, variable):
        a = np.float64(variable.numpy())
        return cls(a.size, a.mean(), a.std(), np.abs(a).max())


def test_fresh_weights_are_drawn_as_dit_draws_them(dit_golden):
    recorded = dit_golden("init_stats_DiT-S-2.json")["params"]
    recorded.pop("pos_embed")  # fixed, see embeddings_test.py
    weights = weights_by_path(DiT(**size_of("DiT-S/2"), input_size=32, in_channels=4, num_classes=1000))
    assert len(weights) == len(recorded)
    for ours, theirs, _ in weight_map(depth=12):
        row = recorded[theirs]
        kind, bound = row["kind"], row.get("xavier_bound")
        _assert_drawn_as(Drawn.of(weights[ours]), kind, bound)
        _assert_drawn_as(Drawn(row["numel"], row["mean"], row["std"], row["absmax"]), kind, bound)
        if kind == "xavier_uniform":  # also of the fused q, k, v and of the flattened patches
            assert bound == pytest.approx(np.sqrt(6 / sum(weights[ours].shape)), rel=1e-6)


@pytest.mark.parametrize("block", _DESIGNS)
def test_dense_layers_are_xavier_except_those_that_start_at_zero(block):
    """Of the designs without public code as well; norms start as the plain normalisation."""
    zero = ["decoder/linear/kernel"]
    if block == "adaln_zero":
        zero += ["block0/modulation/dense/kernel", "block1/modulation/dense/kernel", "decoder/modulation/dense/kernel"]
    model = DiT(input_size=8, patch_size=2, in_channels=4, width=64, depth=2, num_heads=4, num_classes=10, block=block)
    for path, v in weights_by_path(model).items():
        if path.endswith("/gamma"):
            np.testing.assert_array_equal(v, np.ones(64))
        elif path in zero or path.endswith(("/bias", "/beta")):
            _assert_drawn_as(Drawn.of(v), "zeros")
        elif path.startswith(("timestep_embedder", "label_embedder")):
            _assert_drawn_as(Drawn.of(v), "normal(0, 0.02)")
        else:
            _assert_drawn_as(Drawn.of(v), "xavier_uniform", np.sqrt(6 / sum(v.shape)))


@pytest.mark.parametrize("block", _DESIGNS)
def test_no_two_weights_are_drawn_from_the_same_numbers(block):
    """An initialiser object that two layers share would give both the same start, up to scale."""
    model = DiT(input_size=8, patch_size=2, in_channels=4, width=32, depth=2, num_heads=4, num_classes=10, block=block)
    drawn = [v.numpy().ravel()[:256] for v in model.trainable_variables if v.numpy().std() > 0]
    assert len(drawn) > 10
    # Of 256 independent pairs the correlation is N(0, 1/16): 0.4 is more than six deviations.
    assert np.abs(np.corrcoef(drawn) - np.eye(len(drawn))).max() < 0.4


@pytest.mark.parametrize("block", _DESIGNS)
def test_qk_normalisation_adds_scales_of_one_to_every_attention_and_no_products(block):
    shape = dict(input_size=8, patch_size=2, in_channels=4, width=32, depth=2, num_heads=4, num_classes=10)
    plain, normalised = DiT(**shape, block=block), DiT(**shape, block=block, qk_norm=True)
    weights = weights_by_path(normalised)
    attentions = ["attention", "cross_attention"][: 2 if block == "cross_attention" else 1]
    added = {f"block{i}/{a}/qk_norm/{x}/scale" for i in range(2) for a in attentions for x in "qk"}
    assert weights.keys() - weights_by_path(plain).keys() == added and weights_by_path(plain).keys() < weights.keys()
    assert all(np.array_equal(weights[path], np.ones(8)) for path in added)
    assert count_macs(normalised) == count_macs(plain)


@pytest.mark.parametrize("block", _DESIGNS)
def test_the_output_is_exactly_zero_before_the_first_step(block):
    model = DiT(input_size=8, patch_size=2, in_channels=4, width=32, depth=1, num_heads=4, num_classes=10, block=block)
    np.testing.assert_array_equal(model(_inputs()), np.zeros((4, 8, 8, 8)))


# Shapes and conditions


@pytest.mark.parametrize("block", _DESIGNS)
def test_a_grid_need_not_be_square(tiny, block):
    """Shifted content moves with its patch once positions are silent, so that rows and columns are not mixed up."""
    model = tiny(block, input_size=(4, 12), learn_sigma=False)
    assert model.grid == (2, 6)
    x, t, y = _inputs(height=4, width=12)
    assert model((x, t, y)).shape == (4, 4, 12, 4)
    model.patch_embedder.position_table = 0 * model.patch_embedder.position_table
    rolled = model((tf.roll(x, (2, 4), (1, 2)), t, y))
    np.testing.assert_allclose(rolled, tf.roll(model((x, t, y)), (2, 4), (1, 2)), **_FLOAT32)


@pytest.mark.parametrize("block", _DESIGNS)
def test_time_label_position_and_image_all_matter(tiny, block):
    model, (x, t, y) = tiny(block), _inputs()
    out = model((x, t, y))
    for changed in [(x + 0.1, t, y), (x, t + 1, y), (x, t, (y + 1) % 10), (tf.roll(x, 2, axis=1), t, y)]:
        difference = np.abs(model(changed) - out).max(axis=(1, 2, 3))
        assert (difference > 1e-3).all()


@pytest.mark.parametrize("block, conditions_on", [("cross_attention", "tokens"), ("in_context", None)])
def test_the_condition_is_two_tokens(tiny, block, conditions_on):
    """Of time and label; their order cannot matter, as they carry no position."""
    model, inputs = tiny(block), _inputs()
    t_emb, y_emb = model.timestep_embedder(inputs[1]), model.label_embedder(inputs[2])
    assert model.blocks[0].conditions_on == conditions_on
    tokens, c = model.patch_embedder(inputs[0]), tf.stack([t_emb, y_emb], axis=1)
    sequence = tokens if conditions_on else tf.concat([c, tokens], axis=1)
    for layer in model.blocks:
        sequence = layer(sequence, c)
    expected = unpatchify(model.decoder(sequence[:, -16:]), (4, 4), 2)
    np.testing.assert_allclose(model(inputs), expected, **_FLOAT32)


def test_in_context_tokens_are_removed_before_the_decoder(tiny):
    """With silent blocks each token reaches the decoder in its own place, and the condition nowhere."""
    model, (x, t, y) = tiny("in_context"), _inputs()
    for layer in model.blocks:
        for dense in (layer.attention.projection, layer.mlp.project):
            dense.set_weights([0 * w for w in dense.get_weights()])
    expected = unpatchify(model.decoder(model.patch_embedder(x)), (4, 4), 2)
    np.testing.assert_allclose(model((x, t, y)), expected, **_FLOAT32)


@pytest.mark.parametrize("block", _DESIGNS)
def test_a_row_does_not_depend_on_its_batch(tiny, block):
    model, inputs = tiny(block), _inputs()
    whole = model(inputs)
    for i in (0, 3):
        # Products of another size may be summed in another order.
        np.testing.assert_allclose(model([a[i : i + 1] for a in inputs]), whole[i : i + 1], **_FLOAT32)


def test_the_null_class_is_the_row_after_the_last_class(tiny):
    model, y = tiny(num_classes=7), tf.constant([0, 1, 2, 3])
    assert model.null_label == 7
    dropped = model.drop_labels(y, np.array([0.05, 0.5, 0.0999, 0.1], np.float32))
    np.testing.assert_array_equal(dropped, [7, 1, 7, 3])
    assert dropped.dtype == y.dtype


def test_a_model_without_label_dropout_has_no_null_class(tiny):
    model, y = tiny(class_dropout_prob=0.0), tf.constant([0, 1, 2, 9])
    assert model.null_label is None
    assert tuple(model.label_embedder.table.shape) == (10, 32)
    np.testing.assert_array_equal(model.drop_labels(y, np.zeros(4, np.float32)), y)


@pytest.mark.parametrize("block", _DESIGNS)
def test_under_bfloat16_the_output_is_float32_and_999_is_not_1000(tiny, block):
    """bfloat16 rounds 999 to 1000. What the step does to the output must be what it does in float32, up to rounding."""
    x, _, y = _inputs()
    step, out, times = {}, {}, (999.0, 1000.0)  # floats, as a flow has them; Keras would cast these to bfloat16
    for dtype in ("float32", "mixed_bfloat16"):
        model = tiny(block, dtype=dtype)
        out[dtype], later = (model((x, tf.fill((4,), t), y)) for t in times)
        assert out[dtype].dtype == tf.float32
        step[dtype] = later - out[dtype]
    norm = np.linalg.norm
    # An output is off by about 1 % (8 bits, two dozen products), and a step is a difference of two, 3 to 10 % of them.
    assert norm(out["mixed_bfloat16"] - out["float32"]) < 0.03 * norm(out["float32"])
    assert norm(step["mixed_bfloat16"] - step["float32"]) < 0.5 * norm(step["float32"])


# Configuration and files


def test_a_model_is_rebuilt_from_its_configuration(tiny):
    model = tiny("adaln", input_size=(4, 12), learn_sigma=False, class_dropout_prob=0.0, mlp_ratio=2.0,
                 qk_norm=True, dtype="mixed_bfloat16")  # fmt: skip
    again = DiT.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert [(v.path, v.shape) for v in again.weights] == [(v.path, v.shape) for v in model.weights]


@pytest.mark.parametrize("block", _DESIGNS)
def test_a_saved_model_computes_the_same_bits(tiny, block, tmp_path):
    model, inputs = tiny(block), _inputs()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is DiT and loaded.null_label == 10
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


# Names and bad input


def test_every_name_has_a_size_and_sit_is_the_same_table():
    assert len(NAMES) == len(set(NAMES)) == 2 * 3 * len(SIZES)
    for name in NAMES:
        size = size_of(name)
        assert size["width"] % size["num_heads"] == 0 and size["width"] % 4 == 0
        assert size == size_of(name.replace("SiT", "DiT"))
    assert size_of("DiT-XL/2") == dict(depth=28, width=1152, num_heads=16, patch_size=2)
    assert size_of("SiT-Mi/1") == dict(depth=2, width=64, num_heads=2, patch_size=1)


@pytest.mark.parametrize("name, near", [
    ("DiT-XL/3", "DiT-XL/2"),
    ("dit-b/4", "DiT-B/4"),
    ("DiT-S2", "DiT-S/2"),
    ("?", "/"),
])  # fmt: skip
def test_an_unknown_name_is_refused_with_near_ones(name, near):
    with pytest.raises(ValueError, match="--model must be one of") as refusal:
        size_of(name)
    assert repr(name) in str(refusal.value) and near in str(refusal.value).split("near: ")[1]


@pytest.mark.parametrize("changes, message", [
    (dict(block="adaln-zero"), "one of adaln_zero, adaln, cross_attention, in_context, got 'adaln-zero'"),
    (dict(input_size=9), "divisible by the patch size, got 9x9 and 2"),
    (dict(input_size=(8, 7)), "divisible by the patch size, got 8x7 and 2"),
    (dict(num_heads=5), "divisible by the number of heads, got 32 and 5"),
    (dict(width=30, num_heads=3), "divisible by 4, got 30"),
])  # fmt: skip
def test_sizes_that_cannot_be_are_refused(tiny, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize("text, ratio", [("2.5", 2.5), ("2.67", 8 / 3), ("1", 1.0), ("8", 8.0), ("1.33", 4 / 3)])
def test_the_ratio_of_mlps_is_part_of_a_name(text, ratio):
    """int(ratio D) hidden units, as the public program has them; the counts follow."""
    name = f"DiT-96x1x2r{text}/3"
    size = size_of(name)
    assert size == dict(width=96, depth=1, num_heads=2, patch_size=3, mlp_ratio=ratio) and name_of(**size) == name
    model = DiT(**size, input_size=6, in_channels=1, num_classes=2)
    assert model.blocks[0].mlp.expand.units == int(ratio * 96 + 1e-6)
    assert mlp_ratio_of(model.blocks[0].mlp.expand.units, 96) == ratio
    four = DiT(**size_of("DiT-96x1x2/3"), input_size=6, in_channels=1, num_classes=2)
    fewer = (384 - model.blocks[0].mlp.expand.units) * (2 * 96 + 1)
    assert count_parameters(four)[0] - count_parameters(model)[0] == fewer


@pytest.mark.parametrize("name, rule", [
    ("DiT-96x1x2r2.2/3", "must be 1 to 8 in halves or thirds, got 2.2"), ("DiT-96x1x2r0.5/3", "1 to 8"),
    ("DiT-96x1x2r9/3", "1 to 8"), ("DiT-96x1x2r/3", "must be one of DiT-"), ("DiT-XLr2/2", "must be one of DiT-"),
])  # fmt: skip
def test_other_ratios_are_refused(name, rule):
    with pytest.raises(ValueError, match=rule):
        size_of(name)
