"""A study that agrees with the papers by construction is found to agree, one that does not is found not to."""

import dataclasses

import pytest

from dit_tf.report.claim import claim_of_pairs
from dit_tf.report.claims import claims_of
from dit_tf.report.statistics import AGREES, DISAGREES, ONE_SEED, UNDECIDED
from tests.report.synthetic_study import DESIGNS, MODELS, make_study


@pytest.fixture(scope="module")
def claims(study):
    return claims_of(study)


def claim(claims, source, says=""):
    """The one of a list that is of this source and says so."""
    found = [claim for claim in claims if claim.source == source and says in claim.says]
    assert len(found) == 1, [claim.says for claim in found]
    return found[0]


@pytest.mark.parametrize(
    "source, says",
    [
        ("figure 8, table 4", "FID"),
        ("figure 5, table 4", "best"),
        ("table 4", "order"),
        ("figure 5", "all stages"),
        ("figure 6, top", "wider"),
        ("figure 6, bottom", "patches"),
        ("figure 10", "sampling steps"),
        ("figure 13", "loss"),
        ("section 5", "parameters"),
        ("table 2", "FID better"),
        ("appendix A", "three channels"),
        ("SiT", "predicts the score"),
        ("SiT", "predicts the noise"),
        ("SiT", "equivalent to the velocity"),
        ("SiT", "Linear path is better than VP"),
        ("SiT", "GVP"),
        ("SiT", "Continuous"),
        ("SiT", "than the ODE"),
        ("SiT", "Among diffusion"),
        ("SiT", "same network"),
    ],
)
def test_a_study_like_the_paper_agrees(claims, source, says):
    found = claim(claims, source, says)
    assert found.verdict == AGREES and ("3 seeds" in found.saw or "by seed" in found.saw or "less that" in found.saw)


def test_a_study_in_which_larger_models_are_worse_does_not_agree():
    claims = claims_of(make_study(power=-0.2))
    for source in ("figure 8, table 4", "figure 6, top", "figure 6, bottom", "figure 9", "figure 10", "figure 13"):
        assert claim(claims, source).verdict == DISAGREES, source
    assert "larger with the whole interval for " in claim(claims, "figure 6, top").saw


def test_designs_in_another_order_do_not_agree():
    claims = claims_of(make_study(designs=DESIGNS | {"cross_attention": 0.7}, models=["DiT-Ti/2"]))
    assert claim(claims, "figure 5, table 4").verdict == DISAGREES
    assert claim(claims, "table 4", "order").verdict == DISAGREES
    assert claim(claims, "table 4", "order").saw.startswith("From best to worst: cross-attention")


def test_designs_that_the_seeds_do_not_tell_apart_are_undecided():
    data = make_study(models=["DiT-Ti/2"])
    blur = {0: 0.7, 1: 1.0, 2: 1.4}
    rows = [
        row | {"fd_pixels": row["fd_pixels"] * blur[row["seed"]]} if row["block"] == "adaln" else row
        for row in data.rows
    ]
    assert claim(claims_of(dataclasses.replace(data, rows=rows)), "figure 5, table 4").verdict == UNDECIDED


def test_one_bad_diffusion_does_not_make_the_kl_forms_the_best():
    data = make_study()
    factors = {"constant": 20.0, "sigma": 0.85}
    rows = [row | {"fd_pixels": row["fd_pixels"] * factors.get(row["diffusion"], 1.0)} for row in data.rows]
    found = claim(claims_of(dataclasses.replace(data, rows=rows)), "SiT", "Among diffusion")
    assert found.verdict != AGREES and "of sigma, the best of the others" in found.saw


def test_one_seed_decides_nothing_over_seeds():
    claims = claims_of(make_study(seeds=(0,)))
    assert claim(claims, "figure 5, table 4").verdict == ONE_SEED
    assert "one seed" in claim(claims, "figure 5, table 4").saw
    # the bootstrap still draws models
    assert claim(claims, "figure 8, table 4").verdict == AGREES and "one seed" in claim(claims, "figure 8, table 4").saw


def test_what_was_not_tried_is_not_claimed():
    data = make_study(beyond_ladder=False)
    sources = {found.source for found in claims_of(data)}
    assert "SiT" not in sources and "figure 10" not in sources and "appendix A" not in sources
    assert claims_of(dataclasses.replace(data, rows=[])) == []
    assert not any(found.source.startswith("figure 8") for found in claims_of(make_study(models=MODELS[:2])))


def test_the_smaller_model_has_its_most_steps_and_the_larger_no_more_compute(study):
    # Small models made good by a thousand steps: then more steps do what the paper says that they do not.
    rows = [
        row | {"fd_pixels": 1.0} if row["num_steps"] == 1000 and row["model"].startswith("DiT-Mi") else row
        for row in study.rows
    ]
    found = claim(claims_of(dataclasses.replace(study, rows=rows)), "figure 10")
    assert found.verdict == DISAGREES and "Mi/4 to Na/4" in found.saw


def test_one_wrong_pair_of_many_refutes_a_claim_of_all():
    right, wrong = {0: -0.5, 1: -0.6, 2: -0.55}, {0: 0.2, 1: 0.21, 2: 0.22}
    found = claim_of_pairs("figure 6", "", {"a": right, "b": right, "c": wrong}, "it", "training")
    assert found.verdict == DISAGREES and "larger with the whole interval for c" in found.saw
    assert claim_of_pairs("figure 6", "", {"a": right, "b": right}, "it", "training").verdict == AGREES
    assert claim_of_pairs("figure 6", "", {"a": {}}, "it", "training") is None


def test_every_claim_names_a_figure_that_is_drawn(claims, drawn):
    names = {picture.name for picture in drawn[0]}
    assert {found.picture for found in claims} <= names
