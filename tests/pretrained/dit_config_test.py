"""Configurations from shapes: every published size, both layouts, and the flags that shapes ask for."""

import json
import pathlib

import numpy as np
import pytest

from dit_tf.models.dit import NAMES, DiT, size_of
from dit_tf.pretrained.dit_config import diffusers_arguments, infer
from dit_tf.pretrained.dit_map import to_diffusers, weight_map
from dit_tf.pretrained.safetensors_file import SafetensorsFile

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
_PUBLISHED = [name for name in NAMES if name.startswith("DiT-") and name[4:6] in ("S/", "B/", "L/", "XL")]


def _state(width=384, depth=2, patch_size=2, channels=4, out_channels=8, rows=1001, tokens=256, ratio=4):
    """A state with the shapes of a model and no memory: one zero, repeated."""
    shapes = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, channels, patch_size, patch_size),
        "y_embedder.embedding_table.weight": (rows, width),
        "final_layer.linear.weight": (patch_size**2 * out_channels, width),
    }
    for i in range(depth):
        shapes[f"blocks.{i}.mlp.fc1.weight"] = (ratio * width, width)
    names = ["pos_embed"] + [theirs for _, theirs, _ in weight_map(depth)]
    return {name: np.broadcast_to(np.float32(0), shapes.get(name, (3 * width, width))) for name in names}


# Closed forms


@pytest.mark.parametrize("name", _PUBLISHED)
@pytest.mark.parametrize("learn_sigma", [True, False])
def test_every_published_size_is_recognised(name, learn_sigma):
    size = size_of(name)
    shapes = {key: size[key] for key in ("width", "depth", "patch_size")}
    state = _state(**shapes, out_channels=8 if learn_sigma else 4, tokens=(64 // size["patch_size"]) ** 2)
    assert infer(state) == dict(
        size, input_size=64, in_channels=4, num_classes=1000, mlp_ratio=4.0, class_dropout_prob=0.1,
        learn_sigma=learn_sigma,
    )  # fmt: skip


@pytest.mark.parametrize("rows, told, classes, dropout", [
    (1001, None, 1000, 0.1),
    (11, None, 10, 0.1),
    (11, 10, 10, 0.1),
    (11, 11, 11, 0.0),
    (1000, 1000, 1000, 0.0),
    (1000, 999, 999, 0.1),
    (1001, 1001, 1001, 0.0),
    (1, 1, 1, 0.0),
])  # fmt: skip
def test_rows_of_the_label_table(rows, told, classes, dropout):
    found = infer(_state(rows=rows), num_classes=told)
    assert (found["num_classes"], found["class_dropout_prob"]) == (classes, dropout)


def test_a_grid_that_is_not_square_is_told_by_the_caller():
    assert infer(_state(tokens=128), input_size=(16, 32))["input_size"] == (16, 32)
    assert infer(_state(tokens=256), input_size=(16, 64))["input_size"] == (16, 64)


def test_what_is_told_comes_before_the_published_table():
    assert infer(_state(width=384), num_heads=12)["num_heads"] == 12
    assert infer(_state(width=100), num_heads=5)["num_heads"] == 5
    assert infer(_state(ratio=2))["mlp_ratio"] == 2.0


# Golden files


def _tiny(**changes):
    config = json.loads((_GOLDENS / "dit/tiny_config.json").read_text())
    return {"width": config.pop("hidden_size"), **config, **changes}


def test_the_tiny_model_is_recognised_in_both_layouts():
    with np.load(_GOLDENS / "dit/tiny_bare.npz") as state:
        assert infer(state, num_heads=4) == _tiny()
    config = json.loads((_GOLDENS / "hf_dit/config.json").read_text())
    state = SafetensorsFile(_GOLDENS / "hf_dit")
    found = infer(state, **diffusers_arguments(config))
    assert found == _tiny()
    assert DiT(**found).get_config()["num_classes"] == 10


# What shapes do not hold, and what does not fit


@pytest.mark.parametrize("shapes, told, message", [
    (dict(width=100), {}, "number of heads is not known for width 100: say it by --num_heads"),
    (dict(), dict(num_heads=7), "--num_heads must divide the width 384, got 7"),
    (dict(), dict(num_heads=0), "--num_heads must divide the width 384, got 0"),
    (dict(rows=1000), {}, "1000 rows: say by --num_classes"),
    (dict(rows=1), {}, "1 rows: say by --num_classes"),
    (dict(rows=11), dict(num_classes=12), "--num_classes must be 11, or 10 and the null class, .* got 12"),
    (dict(tokens=200), {}, "200 positions, which are no square: it is a network of images that are not square"),
    (dict(tokens=256), dict(input_size=16), "--input_size=16x16 does not fit patches of 2 and the 256 positions"),
    (dict(tokens=256), dict(input_size=33), "--input_size=33x33 does not fit"),
    (dict(tokens=256), dict(input_size=(0, 8)), "--input_size=0x8 does not fit"),
    (dict(out_channels=12), {}, r"final_layer.linear.weight must have 2\^2 x 4 rows or twice as many, got 48"),
])  # fmt: skip
def test_flags_are_named_where_shapes_do_not_tell(shapes, told, message):
    with pytest.raises(ValueError, match=message):
        infer(_state(**shapes), **told)


@pytest.mark.parametrize("name, shape, message", [
    ("x_embedder.proj.weight", (384, 16), "must have 4 dimensions"),
    ("x_embedder.proj.weight", (384, 4, 2, 1), "square patches"),
    ("x_embedder.proj.weight", (384, 4, 0, 0), "entries in it"),
    ("y_embedder.embedding_table.weight", (384,), "must have 2 dimensions"),
    ("pos_embed", (256, 384), "must have 3 dimensions"),
    ("final_layer.linear.weight", (31, 384), "got 31"),
])  # fmt: skip
def test_impossible_shapes_are_named(name, shape, message):
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        infer({**_state(), name: np.zeros(shape, np.float32)})


def test_left_over_names_are_listed_here_too():
    with pytest.raises(ValueError, match=r"missing \[\], not used \['projector.weight'\]"):
        infer({**_state(), "projector.weight": 0})


def test_a_diffusers_file_without_a_table_asks_for_the_size():
    state = dict(to_diffusers({name: np.zeros(a.shape) for name, a in _state(width=64, rows=11).items()}))
    with pytest.raises(ValueError, match="holds no position table: say by --input_size"):
        infer(state, num_heads=4)
    assert infer(state, num_heads=4, input_size=6)["input_size"] == 6


@pytest.mark.parametrize("field, value", [
    ("norm_type", "layer_norm"),
    ("activation_fn", "gelu"),
    ("sample_size", None),
    ("num_attention_heads", "4"),
    ("num_embeds_ada_norm", 0),
])  # fmt: skip
def test_a_config_of_another_network_is_refused(field, value):
    config = json.loads((_GOLDENS / "hf_dit/config.json").read_text())
    with pytest.raises(ValueError, match=f"config.json: {field} must be"):
        diffusers_arguments({**config, field: value})
