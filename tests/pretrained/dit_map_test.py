"""The lists of public weights: closed forms, round trips, laziness, golden outputs, and what is refused."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from dit_tf.models.dit import DiT
from dit_tf.pretrained import dit_map
from dit_tf.pretrained.dit_map import as_official, load_weights, to_diffusers, to_official, to_ours, weights_by_path
from dit_tf.pretrained.safetensors_file import SafetensorsFile

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
_FLOAT32 = dict(rtol=0, atol=2e-5)  # the project's figure; the public model is up to 4e-6 from its own float64 run


def _arrays(path):
    with np.load(_GOLDENS / path) as arrays:
        return dict(arrays)


def _assert_equal_bits(actual, expected):
    actual, expected = dict(actual), dict(expected)
    assert list(actual) == list(expected)
    for name, a in actual.items():
        assert a.dtype == expected[name].dtype and a.shape == expected[name].shape, name
        assert a.tobytes() == expected[name].tobytes(), name


@pytest.fixture(scope="module")
def state():
    return _arrays("dit/tiny_bare.npz")


@pytest.fixture(scope="module")
def diffusers():
    return dict(SafetensorsFile(_GOLDENS / "hf_dit"))


@pytest.fixture(scope="module")
def make_model():
    def make(**changes):
        config = json.loads((_GOLDENS / "dit/tiny_config.json").read_text())
        return DiT(**{"width": config.pop("hidden_size"), **config, **changes})

    return make


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


def _forward(model, arrays):
    out = model((np.moveaxis(arrays["x"], 1, -1), arrays["t"], arrays["y"]))
    return np.moveaxis(np.asarray(out), -1, 1)


# Closed forms


def test_the_patch_kernel_is_flattened_with_the_channel_fastest(rng):
    theirs = rng.standard_normal((5, 3, 2, 2))
    ours = dit_map.PATCH_KERNEL.read(theirs)
    assert ours.shape == (12, 5)
    for d, c, i, j in np.ndindex(theirs.shape):
        assert ours[(i * 2 + j) * 3 + c, d] == theirs[d, c, i, j]


def test_q_k_and_v_lie_one_below_the_other():
    names = [name for _, names, _ in dit_map.diffusers_map(depth=1) for name in names]
    numbered = {f"transformer_blocks.0.attn1.to_{part}.weight": np.array([[k]]) for k, part in enumerate("qkv")}
    official = as_official({**dict.fromkeys(names, np.zeros((2, 2))), **numbered})
    np.testing.assert_array_equal(official["blocks.0.attn.qkv.weight"], [[0], [1], [2]])


# Round trips


def test_official_weights_return_bit_for_bit_in_their_order(state, model):
    """pos_embed as well: the table in float64, rounded once, is the stored parameter."""
    table = model.patch_embedder.position_table
    back = dict(to_official(dict(to_ours(state)), table, patch_size=2))
    _assert_equal_bits(back, state)
    assert all(a.flags.c_contiguous for a in back.values())


@pytest.mark.parametrize("changes", [{}, dict(patch_size=4, in_channels=3), dict(class_dropout_prob=0.0)])
def test_our_weights_return_bit_for_bit(make_model, rng, changes):
    model = make_model(**changes, depth=1)
    for v in model.trainable_variables:
        v.assign(rng.standard_normal(v.shape))
    ours = {path: v.numpy() for path, v in weights_by_path(model).items()}
    official = dict(to_official(weights_by_path(model), model.patch_embedder.position_table, model.patch_size))
    loaded = make_model(**changes, depth=1)
    load_weights(loaded, official)
    _assert_equal_bits({path: v.numpy() for path, v in weights_by_path(loaded).items()}, ours)
    rows = len(official["y_embedder.embedding_table.weight"])
    assert rows == (10 if changes.get("class_dropout_prob") == 0.0 else 11)


def test_diffusers_weights_return_bit_for_bit(state, diffusers):
    official = as_official(diffusers)
    weights = {name: a for name, a in state.items() if name != "pos_embed"}
    _assert_equal_bits(sorted(official.items()), sorted(weights.items()))
    _assert_equal_bits(sorted(to_diffusers(official)), sorted(diffusers.items()))


@pytest.mark.parametrize("kept", [False, True])
def test_fused_diffusers_weights_are_the_same(state, diffusers, kept):
    """diffusers' fuse_projections adds to_qkv and keeps the three; other programs drop them."""
    fused = dict(to_diffusers(state, fused=True))
    assert "transformer_blocks.1.attn1.to_qkv.bias" in fused and len(fused) == len(diffusers) - 2 * 2 * 2
    both = {**diffusers, **fused} if kept else fused
    _assert_equal_bits(to_ours(both), to_ours(diffusers))
    _assert_equal_bits(sorted(to_diffusers(as_official(fused), fused=True)), sorted(fused.items()))


# One array at a time


class _Counting(dict):
    reads = 0

    def __getitem__(self, name):
        self.reads += 1
        return super().__getitem__(name)


def test_arrays_are_read_one_at_a_time(state, diffusers):
    official = _Counting(state)
    arrays = to_ours(official)
    for expected in range(1, 4):
        next(arrays)
        assert official.reads == expected
    lazy = _Counting(diffusers)
    view = as_official(lazy)
    assert "t_embedder.mlp.0.bias" in view and len(view) == len(state) - 1 and lazy.reads == 0
    view["blocks.1.attn.qkv.weight"]
    assert lazy.reads == 3


def test_a_float32_array_is_not_copied(state):
    arrays = dict(to_ours(state))
    copied = [ours for ours, theirs, _ in dit_map.weight_map(2) if not np.shares_memory(arrays[ours], state[theirs])]
    assert copied == ["patch_embedder/projection/kernel"]  # its axes change places before they are joined


# Golden arrays


def test_the_list_is_that_of_the_reference():
    pairs = json.loads((_GOLDENS / "hf_dit/key_map.json").read_text())["pairs"]
    ours = []
    for official, names, _ in dit_map.diffusers_map(depth=2):
        split = "attn.qkv" in official
        ours += [[n, official, f"rows chunk {k} of 3" if split else "copy"] for k, n in enumerate(names)]
    assert sorted(ours) == sorted(pairs)


def test_diffusers_weights_give_the_official_output(model, diffusers):
    """And not that of diffusers, whose sinusoid divides by 127: it is 0.2 away where the deviation is 0.4."""
    load_weights(model, diffusers)
    arrays = _arrays("hf_dit/io.npz")
    out = _forward(model, arrays)
    np.testing.assert_allclose(out, arrays["out_official"], **_FLOAT32)
    np.testing.assert_allclose(out, arrays["out_diffusers_freq_shift_0_norm_eps_1e_6"], **_FLOAT32)
    documented = json.loads((_GOLDENS / "hf_dit/key_map.json").read_text())["diffs_max_abs_vs_official"]["hf_as_is"]
    assert np.abs(out - arrays["out_diffusers"]).max() == pytest.approx(documented, abs=2e-5)


def test_the_same_weights_in_sit_give_its_output(model, state):
    """Times in [0, 1]; of the doubled channels SiT drops the second half."""
    load_weights(model, state)
    arrays = _arrays("dit/tiny_sit_forward.npz")
    np.testing.assert_allclose(_forward(model, arrays)[:, :4], arrays["out"], **_FLOAT32)


# Half precision, and what is refused


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_are_widened_or_rounded_to_float32(model, state, dtype):
    stored = {name: a.astype(dtype) for name, a in state.items()}
    load_weights(model, stored)
    expected = stored["final_layer.linear.weight"].astype(np.float32).T
    np.testing.assert_array_equal(model.decoder.linear.kernel, expected)


def test_the_layout_follows_from_the_names(state, diffusers):
    assert [dit_map.layout_of(names) for names in (state, diffusers)] == ["official", "diffusers"]
    with pytest.raises(ValueError, match=r"known layout: conv_in.bias, conv_in.weight\."):
        dit_map.layout_of(["conv_in.weight", "conv_in.bias"])


def test_left_over_names_of_diffusers_are_listed(diffusers):
    less = {name: a for name, a in diffusers.items() if name != "transformer_blocks.1.attn1.to_k.bias"}
    with pytest.raises(ValueError, match=r"missing \['transformer_blocks.1.attn1.to_k.bias'\], not used \['scale'\]"):
        to_ours({**less, "scale": 0})
    half_fused = {**diffusers, "transformer_blocks.1.attn1.to_qkv.bias": 0}
    with pytest.raises(ValueError, match=r"missing \[\], not used \['transformer_blocks.1.attn1.to_qkv.bias'\]"):
        to_ours(half_fused)


def test_left_over_names_of_ours_are_listed(state, model):
    ours = dict(to_ours(state))
    del ours["block1/mlp/expand/bias"]
    with pytest.raises(ValueError, match=r"missing \['block1/mlp/expand/bias'\], not used \['head/kernel'\]"):
        to_official({**ours, "head/kernel": 0}, model.patch_embedder.position_table, 2)
    with pytest.raises(ValueError, match=r"official weights do not fit: missing \[\], not used \['head'\]"):
        to_diffusers({**state, "head": 0})


@pytest.mark.parametrize("part", ["timestep_embedder.linear_2.bias", "class_embedder.embedding_table.weight"])
def test_embedders_must_be_equal_in_all_blocks(model, diffusers, part):
    name = f"transformer_blocks.1.norm1.emb.{part}"
    changed = diffusers[name].copy()
    changed.flat[-1] += 1e-6
    with pytest.raises(ValueError, match=f"{name} is not equal to transformer_blocks.0.norm1.emb.{part}"):
        load_weights(model, {**diffusers, name: changed})


def test_what_was_fused_must_equal_what_was_kept(model, state, diffusers):
    both = {**diffusers, **dict(to_diffusers(state, fused=True))}
    name = "transformer_blocks.1.attn1.to_v.weight"
    with pytest.raises(
        ValueError, match="transformer_blocks.1.attn1.to_qkv.weight is not .*to_q.weight, .*to_k.weight"
    ):
        load_weights(model, {**both, name: -both[name]})


@pytest.mark.parametrize("name, changed, message", [
    ("blocks.0.mlp.fc1.bias", np.zeros(255, np.float32), r"block0/mlp/expand/bias has shape \(256,\), .* \(255,\)"),
    ("blocks.0.mlp.fc1.weight", np.zeros((64, 256), np.float32), r"block0/mlp/expand/kernel has shape \(64, 256\)"),
    ("blocks.0.mlp.fc1.weight", np.zeros(4, np.float32), r"blocks.0.mlp.fc1.weight must have 2 dimensions"),
    ("x_embedder.proj.weight", np.zeros((64, 16), np.float32), r"x_embedder.proj.weight must have 4 dimensions"),
    ("blocks.1.attn.qkv.bias", np.zeros(192, np.int32), "blocks.1.attn.qkv.bias must hold floating-point .* int32"),
    ("pos_embed", np.zeros((1, 16, 64), np.float32), "pos_embed is not the sin-cos table"),
    ("pos_embed", np.full((1, 16, 64), np.nan, np.float32), "pos_embed is not the sin-cos table"),
    ("pos_embed", np.zeros((1, 64, 64), np.float32), "pos_embed is not the sin-cos table"),
])  # fmt: skip
def test_wrong_arrays_are_named(model, state, name, changed, message):
    with pytest.raises(ValueError, match=message):
        load_weights(model, {**state, name: changed})


def test_a_position_table_in_a_diffusers_file_is_checked(model, state, diffusers):
    name = "pos_embed.pos_embed"
    load_weights(model, {**diffusers, name: state["pos_embed"]})
    with pytest.raises(ValueError, match="pos_embed is not the sin-cos table"):
        load_weights(model, {**diffusers, name: state["pos_embed"][:, ::-1]})


def test_another_depth_is_refused(make_model, state):
    with pytest.raises(ValueError, match=r"weights of this model do not fit: missing \['block1/.*not used \[\]"):
        load_weights(make_model(depth=1), state)
    with pytest.raises(ValueError, match=r"missing \[\], not used \['block2/"):
        load_weights(make_model(depth=3), state)
