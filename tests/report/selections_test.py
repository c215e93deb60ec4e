"""Only what differs in nothing but the question is compared, whatever the plan calls its sections."""

from dit_tf.report import selections
from dit_tf.report.selections import (
    at_last_step,
    by_model,
    distinct,
    ladder,
    nested_pairs,
)
from dit_tf.report.study_data import metrics_of
from tests.report.synthetic_study import MODELS, STEPS, make_study


def test_the_ladder_is_the_twelve_models_and_nothing_else(study):
    rows = ladder(study.rows)
    assert sorted(distinct(rows, "model")) == sorted(MODELS) and len(rows) == 3 * len(MODELS) * len(STEPS)
    assert {(r["block"], r["objective"], r["codec"], r["baseline"]) for r in rows} == {
        ("adaln_zero", "ddpm", "pixels", True)
    }


def test_group_and_score_names_do_not_matter(study):
    renamed = [row | {"group": str(i), "score": "x"} for i, row in enumerate(study.rows)]
    assert len(ladder(renamed)) == len(ladder(study.rows))
    assert len(selections.designs(renamed)) == len(selections.designs(study.rows))


def test_the_last_step_is_one_that_half_of_the_trainings_reached(study):
    rows = ladder(study.rows)
    assert {row["step"] for row in at_last_step(rows)} == {STEPS[-1]}
    longer = rows + [row | {"step": 99_999} for row in rows if row["model"] == "DiT-Mi/4"]
    assert {row["step"] for row in at_last_step(longer)} == {STEPS[-1]}
    running = [row for row in rows if row["seed"] == 0 or row["step"] == STEPS[0]]
    assert {row["step"] for row in at_last_step(running)} == {STEPS[0]}
    assert at_last_step([]) == []


def test_pairs_are_neighbours_in_size_or_in_patch(study):
    sizes, patches = nested_pairs(ladder(study.rows))
    assert len(sizes) == 9 and len(patches) == 8
    assert ("DiT-Mi/4", "DiT-Na/4") in sizes and ("DiT-Ti/4", "DiT-Ti/2") in patches
    assert ("DiT-Mi/4", "DiT-Ti/4") not in sizes and ("DiT-Mi/2", "DiT-Na/1") not in sizes + patches


def test_designs_are_of_one_model(study):
    rows = selections.designs(study.rows)
    assert {row["model"] for row in rows} == {"DiT-Ti/2"} and len(distinct(rows, "block")) == 4


def test_sampling_steps_are_of_one_sampler_without_guidance(study):
    rows = selections.sampling_steps(study.rows)
    assert {(row["sampler"], row["cfg_scale"]) for row in rows} == {("ddim", 1.0)}
    assert len(rows) == 3 * len(MODELS) * 6


def test_guidance_begins_at_no_guidance(study):
    rows = selections.guidance(study.rows)
    assert sorted(distinct(rows, "cfg_scale")) == [1.0, 1.25, 1.5, 2.0, 3.0]
    channels = selections.guided_channels(study.rows)
    assert {row["codec"] for row in channels} == {"haar"} and set(distinct(channels, "guided_channels")) == {None, 3}


def test_flow_choices_differ_in_one_thing(study):
    assert {row["path"] for row in selections.flow_choices(study.rows, "prediction")} == {"linear"}
    paths = selections.flow_choices(study.rows, "path")
    assert {(row["prediction"], row["loss_weight"]) for row in paths} == {("velocity", "none")}


def test_discrete_time_is_compared_by_the_same_sampler_where_it_was_used(study):
    discrete, continuous = selections.discrete_and_continuous(study.rows)
    assert {row["sampler"] for row in discrete} == {"ddpm"} and {row["prediction"] for row in continuous} == {"score"}
    ode = dict(sampler="ode", solver="heun", num_steps=25, evaluations=50, baseline=False)
    more = [row | ode for row in discrete]
    assert {row["sampler"] for row in selections.discrete_and_continuous(study.rows + more)[0]} == {"ode"}


def test_values_go_from_the_smallest_model_to_the_largest(study):
    values = by_model(at_last_step(ladder(study.rows)), "fd_pixels")
    assert list(values) == MODELS and list(values["DiT-Mi/4"]) == [0, 1, 2]


def test_a_distance_of_pixels_is_never_called_an_fid(study):
    assert [metric.title for metric in metrics_of(ladder(study.rows))] == [
        "FD-pixels-500", "class agreement", "precision of pixels", "recall of pixels",
    ]  # fmt: skip
    inception = make_study(features="inception", beyond_ladder=False, seeds=(0,)).rows
    fid_50k = [row | {"num_samples": 50_000} for row in inception]
    assert [metric.title for metric in metrics_of(fid_50k)] == [
        "FID-50K", "sFID", "Inception Score", "precision", "recall",
    ]  # fmt: skip


def test_nothing_is_selected_from_nothing():
    assert ladder([]) == [] and selections.designs([]) == [] and selections.guidance([]) == []
    assert selections.flow_samplers([]) == [] and selections.discrete_and_continuous([]) == ([], [])
    assert nested_pairs([]) == ([], []) and metrics_of([]) == ()
