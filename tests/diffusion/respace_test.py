import dataclasses
import json
import pathlib

import numpy as np
import pytest

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.diffusion.respace import respaced_betas, shifted_timesteps, space_timesteps
from dit_tf.diffusion.schedules import Schedule, linear_betas

_TABLE = json.loads((pathlib.Path(__file__).parents[1] / "goldens/diffusion/space_timesteps.json").read_text())


def test_no_respacing_keeps_every_timestep():
    np.testing.assert_array_equal(space_timesteps(30, ""), np.arange(30))


def test_a_count_includes_both_ends():
    kept = space_timesteps(1000, "250")
    assert (len(kept), kept[0], kept[-1]) == (250, 0, 999)


def test_sections_share_the_timesteps_and_the_first_take_the_remainder():
    np.testing.assert_array_equal(space_timesteps(8, "2,2,1"), [0, 2, 3, 5, 6])  # sections of 3, 3 and 2


def test_ddim_takes_an_integer_stride_from_zero():
    np.testing.assert_array_equal(space_timesteps(1000, "ddim50"), 20 * np.arange(50))


@pytest.mark.parametrize("respacing", ["1", "7", "ddim25", "10,10,30", "1000"])
def test_the_shorter_chain_has_the_alpha_bar_of_the_steps_it_keeps(respacing):
    alphas_cumprod = Schedule.from_betas(linear_betas()).alphas_cumprod
    kept = space_timesteps(1000, respacing)
    np.testing.assert_allclose(np.cumprod(1 - respaced_betas(alphas_cumprod, kept)), alphas_cumprod[kept], rtol=1e-12)


def test_respacing_twice_keeps_the_original_indices():
    process = GaussianDiffusion().respaced("ddim50").respaced("ddim10")
    np.testing.assert_array_equal(process.timestep_map, 100 * np.arange(10))
    direct = GaussianDiffusion().respaced("ddim10")
    np.testing.assert_allclose(process.betas, direct.betas, rtol=1e-11)  # differences of alpha-bars lose four digits


@pytest.mark.parametrize("row", _TABLE, ids=lambda row: f"{row['num_timesteps']}-{row['section_counts']}")
def test_kept_timesteps_agree_with_dit(row):
    counts = row["section_counts"]
    respacing = counts if isinstance(counts, str) else ",".join(map(str, counts))
    if row["result"] is None:
        with pytest.raises(ValueError, match="1000"):
            space_timesteps(row["num_timesteps"], respacing)
    else:
        np.testing.assert_array_equal(space_timesteps(row["num_timesteps"], respacing), row["result"])


@pytest.mark.parametrize("respacing", ["", "250", "10", "ddim50", "50", "ddim25"])
def test_tables_agree_with_dit(golden, respacing):
    arrays, process = golden("schedules"), GaussianDiffusion().respaced(respacing)
    prefix = respacing or "full"
    np.testing.assert_array_equal(process.timestep_map, arrays[f"{prefix}/timestep_map"])
    for field in dataclasses.fields(process.schedule):
        if field.name != "log_betas":  # no table in DiT
            actual, expected = getattr(process.schedule, field.name), arrays[f"{prefix}/{field.name}"]
            np.testing.assert_allclose(actual, expected, rtol=1e-12, err_msg=field.name)


@pytest.mark.parametrize("respacing", ["ddim", "ten", "10,,10", "0", "-5", "2.5", "ddim0", "ddim1"])
def test_other_texts_are_refused(respacing):
    with pytest.raises(ValueError, match=respacing):
        space_timesteps(1000, respacing)


@pytest.mark.parametrize("shift", [0.25, 2.0, 4.0])
def test_a_shift_moves_the_timesteps_and_keeps_both_ends(shift):
    """u' / (1 - u') = shift u / (1 - u), equation 23 as odds; half a timestep of rounding."""
    kept, u = shifted_timesteps(1000, 50, shift), np.linspace(0, 1, 50)
    assert (kept.dtype, len(kept), kept[0], kept[-1]) == (np.int64, 50, 0, 999)
    odds = shift * u[:-1] / (1 - u[:-1])
    np.testing.assert_allclose(kept[:-1], 999 * odds / (1 + odds), rtol=0, atol=0.5 + 1e-9)
    assert (np.diff(kept) > 0).all()


def test_the_inverse_shift_mirrors_the_timesteps():
    """Exchanging noise and data exchanges shift and 1 / shift."""
    np.testing.assert_array_equal(shifted_timesteps(1000, 50, 0.25), 999 - shifted_timesteps(1000, 50, 4.0)[::-1])


@pytest.mark.parametrize("count", [1, 21, 250, 1000])
def test_a_shift_of_one_is_none(count):
    """21: a plain rounding of the even grid differs from DiT's there."""
    np.testing.assert_array_equal(shifted_timesteps(1000, count, 1), space_timesteps(1000, str(count)))


@pytest.mark.parametrize("shift", [0.0, -2.0, float("nan"), float("inf")])
def test_a_shift_that_is_not_positive_is_refused(shift):
    with pytest.raises(ValueError, match=f"--timestep_shift must be positive and finite, got {shift}"):
        shifted_timesteps(1000, 10, shift)


@pytest.mark.parametrize("shift", [0.1, 10.0])
def test_a_shift_that_merges_timesteps_is_refused(shift):
    with pytest.raises(ValueError, match=f"--timestep_shift must leave .* differ: of 250 .* {shift} on 1000"):
        shifted_timesteps(1000, 250, shift)
