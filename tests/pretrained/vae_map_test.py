"""The list `ours <- theirs` of the autoencoder, in all layouts, against names and shapes recorded from the programs."""

import json
import math
import pathlib

import numpy as np
import pytest

from dit_tf.pretrained.vae_map import LAYOUTS, convert, convolution, matrix, weight_map

_RECORDED = pathlib.Path(__file__).parents[1] / "goldens" / "vae" / "key_map_sd_vae.json"
_COLUMNS = {  # of the recorded rows: names and shapes
    "diffusers": ("diffusers", "shape_diffusers"),
    "older diffusers": ("diffusers_old_names", "shape_diffusers"),
    "CompVis": ("ldm", "shape_ldm"),
    "CompVis, all of Stable Diffusion": ("sd_checkpoint", "shape_ldm"),
}


@pytest.fixture(scope="module")
def recorded():
    return json.loads(_RECORDED.read_text())["rows"]


@pytest.fixture(scope="module")
def states(recorded):
    """{layout: {their name: array}}, the same weights in each: random bits, so that no two arrays are alike."""
    rng = np.random.default_rng(0)
    bits = (rng.integers(0, 2**16, row["shape_diffusers"], dtype=np.uint16) for row in recorded)
    arrays = [(b & 0xBFFF).view(np.float16) for b in bits]  # no exponent of ones only: all are finite
    return {
        title: {row[name]: a.reshape(row[shape]) for row, a in zip(recorded, arrays)}
        for title, (name, shape) in _COLUMNS.items()
    }


def test_a_matrix_is_a_convolution_of_one_pixel(rng):
    weight, pixels = rng.normal(size=(5, 3)), rng.normal(size=(2, 4, 4, 3))
    product = np.einsum("nhwi,oi->nhwo", pixels, weight)
    np.testing.assert_allclose(np.einsum("nhwi,abio->nhwo", pixels, matrix(weight)), product)
    np.testing.assert_array_equal(convolution(weight[:, :, None, None]), matrix(weight))


def test_a_kernel_keeps_rows_and_columns(rng):
    weight = rng.normal(size=(5, 3, 2, 4))
    assert convolution(weight).shape == (2, 4, 3, 5)
    assert convolution(weight)[1, 3, 2, 4] == weight[4, 2, 1, 3]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_names_and_shapes_are_the_recorded_ones(layout, recorded):
    rows, (name, shape) = weight_map(layout), _COLUMNS[layout.title]
    assert {row.theirs: list(row.shape) for row in rows} == {row[name]: row[shape] for row in recorded}
    assert len(rows) == len({row.theirs for row in rows}) == len({row.ours for row in rows}) == 248
    assert sum(math.prod(row.shape) for row in rows) == 83_653_863


def test_the_layouts_give_the_same_weights(states):
    expected = convert(states["diffusers"])
    for title in set(_COLUMNS) - {"diffusers"}:
        converted = convert(states[title])
        assert converted.keys() == expected.keys()
        assert all(np.array_equal(a, expected[name]) for name, a in converted.items())


def test_what_is_missing_and_left_over_is_listed(states):
    state = dict(states["CompVis"])
    del state["decoder.up.3.block.0.conv1.bias"]
    missing = r"\(CompVis\): missing \['decoder.up.3.block.0.conv1.bias'\]"
    with pytest.raises(ValueError, match=missing + r", left over \[\]"):
        convert(state)
    with pytest.raises(ValueError, match=missing + r", left over \['loss.logvar', 'quant_conv.scale'\]"):
        convert({**state, "quant_conv.scale": 0, "loss.logvar": 0})


def test_names_of_two_layouts_do_not_mix(states):
    old, new = (f"encoder.mid_block.attentions.0.{name}.weight" for name in ("query", "to_q"))
    state = dict(states["older diffusers"])
    state[new] = state.pop(old)
    with pytest.raises(ValueError, match=rf"\(older diffusers\): missing \['{old}'\], left over \['{new}'\]"):
        convert(state)


def test_beside_prefixed_names_nothing_else_may_lie(states):
    whole = {**states["CompVis, all of Stable Diffusion"], "model.diffusion_model.out.2.bias": 0}
    with pytest.raises(ValueError, match=r"missing \[\], left over \['model.diffusion_model.out.2.bias'\]"):
        convert(whole)


def test_another_shape_is_refused(states):
    name = "encoder.mid_block.attentions.0.query.weight"
    state = {**states["older diffusers"], name: np.zeros((512, 512, 1, 1))}
    with pytest.raises(ValueError, match=rf"{name} \(512, 512, 1, 1\) in the place of \(512, 512\)"):
        convert(state)


def test_what_is_no_floating_point_number_is_refused(states):
    name = "quant_conv.bias"
    state = {**states["diffusers"], name: np.zeros(8, np.int32)}
    with pytest.raises(ValueError, match=f"must be floating-point numbers: {name} of int32"):
        convert(state)
