"""What figures show; how they look is for eyes."""

import dataclasses
import struct

import numpy as np
import pytest

from dit_tf.report import figures_samples
from dit_tf.report.drawing import new_figure, spread
from dit_tf.report.figures import FIGURES, draw
from dit_tf.report.figures_training import loss
from dit_tf.report.palette import (
    BLOCKS,
    colour_of,
    marker_of,
    model_order,
    patch_of,
    size_of,
)
from dit_tf.report.units import step_name, unit_of
from tests.report.synthetic_study import IMAGES, MODELS, make_study

PAPER = [f"DiT-{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (8, 4, 2)]


def test_a_whole_study_gives_every_figure(drawn):
    pictures, left_out = drawn
    assert [picture.title for picture in pictures] == [title for _, title, _ in FIGURES] and not left_out
    for picture in pictures:
        width, height = struct.unpack(">II", picture.png[16:24])
        assert picture.png.startswith(b"\x89PNG") and 500 < width < 1600 and 300 < height < 2000
        assert b"<svg" in picture.svg and b"<dc:date>" not in picture.svg


def test_captions_say_how_many_seeds_and_which_figure_of_the_paper(drawn):
    for picture in drawn[0]:
        assert "seed" in picture.caption
        if not picture.name.startswith(("flow", "other_samples")):
            assert "Paper: " in picture.caption, picture.name


def test_what_cannot_be_drawn_is_left_out_with_a_reason():
    data = make_study(beyond_ladder=False, models=MODELS[:2], seeds=(0,))
    pictures, left_out = draw(dataclasses.replace(data, images={}, losses={}))
    assert {picture.name for picture in pictures} == {"training", "size_and_patch", "training_compute"}
    assert len(pictures) + len(left_out) == len(FIGURES)
    assert all("One seed" in picture.caption for picture in pictures)


@pytest.mark.parametrize("models", [MODELS, PAPER])
def test_no_two_models_look_alike(models):
    assert len({(colour_of(model), marker_of(model)) for model in models}) == 12
    assert len({colour_of(model) for model in models}) == 12
    assert sorted(models[::-1], key=model_order) == models
    assert len({look[1:] for look in BLOCKS.values()}) == 4


def test_a_model_of_no_ladder_has_a_look_too():
    assert colour_of("DiT-Huge/16") == "#666666" and marker_of("DiT-Huge/16") == "D"
    assert (size_of("SiT-XL/2"), patch_of("SiT-XL/2")) == ("XL", 2)


def test_bars_reach_from_the_lowest_to_the_highest_seed():
    assert spread({0: 1.0, 1: 2.0, 2: 6.0}) == (3.0, 2.0, 3.0)


def test_units_are_short():
    assert unit_of([5e9, 2e6]) == (1e9, "GMACs") and unit_of([3e6]) == (1e6, "MMACs") and unit_of([9e14])[1] == "TMACs"
    assert [step_name(step) for step in (500, 4000, 400_000)] == ["500", "4000", "400k"]


def test_images_keep_their_places_and_values():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(2, axis=1).repeat(2, axis=2) + 10
    sheet = figures_samples.mosaic(images, 2)
    assert sheet.shape == (5, 5, 3)
    assert sheet[0, 0, 0] == 10 and sheet[0, 3, 1] == 11 and sheet[3, 0, 2] == 12 and sheet[3, 3, 0] == 255


def test_the_sample_grid_is_of_the_seed_with_most_models(study):
    some = {run: images for run, images in study.images.items() if run.endswith("seed=1") or "Mi/4" in run}
    caption = figures_samples.samples(dataclasses.replace(study, images=some)).caption
    assert f"first {IMAGES} samples" in caption and "seed 1:" in caption


def test_a_long_loss_curve_is_thinned_and_a_short_one_is_shown(study):
    long = {run: [(step, 1.0 / step) for step in range(1, 5001)] for run in study.losses}
    figure = loss(dataclasses.replace(study, losses=long)).figure
    assert all(100 < len(line.get_xdata()) < 200 for line in figure.axes[0].lines)
    short = {run: curve[:1] if "Mi/4" in run else curve for run, curve in study.losses.items()}
    assert len(loss(dataclasses.replace(study, losses=short)).figure.axes[0].lines) == len(MODELS)


def test_figures_leave_no_state_behind():
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw(make_study(beyond_ladder=False, models=MODELS[:1], seeds=(0,)))
    assert dict(matplotlib.rcParams) == before
    assert new_figure(1, 1).canvas.manager is None
