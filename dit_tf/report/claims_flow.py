"""What SiT says of its choices: prediction, time, path, and how to sample."""

import numpy as np

from dit_tf.report.claim import claim_of_difference
from dit_tf.report.published import SIT_XL_2_ODE, SIT_XL_2_SDE, TABLE_2
from dit_tf.report.selections import (
    at_last_step,
    compared,
    discrete_and_continuous,
    distinct,
    flow_choices,
    flow_samplers,
    ladder,
    seeds_of,
    unweighted,
)  # fmt: skip
from dit_tf.report.study_data import metrics_of

PATHS = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}
_KL = ("kl", "kl_eta")


def flow_claims(data):
    """Claims, and None for each that the rows say nothing about."""
    everything = flow_choices(data.rows, "prediction")
    rows = unweighted(everything)
    for other in ("score", "noise"):
        says = f"A model that predicts the velocity is better than one that predicts the {other}."
        yield _chosen(rows, "prediction", ("velocity", "velocity"), (other, other), says)
    yield _weighted(everything)
    rows = flow_choices(data.rows, "path")
    for path in ("linear", "gvp"):
        says = f"The {PATHS[path]} path is better than VP."
        yield _chosen(rows, "path", (path, PATHS[path]), ("vp", PATHS["vp"]), says)
    yield _time(data.rows)
    yield from _samplers(flow_samplers(data.rows))
    yield _objective(data.rows)


def _chosen(rows, key, better, worse, says):
    if not rows:
        return None
    main = metrics_of(rows)[0]
    sides = [(name, seeds_of([row for row in rows if row[key] == value], main.key)) for value, name in (better, worse)]
    return claim_of_difference("SiT", says, *sides, main, "flow_choices")


def _weighted(rows):
    """The score with the weight that makes its loss that of the velocity, beside the score without."""
    score = [row for row in rows if row["prediction"] == "score"]
    weighted = [row for row in score if row.get("loss_weight") == "velocity"]
    if not weighted:
        return None
    main = metrics_of(rows)[0]
    sides = [("the score weighted so", weighted), ("the unweighted score", unweighted(score))]
    says = (
        "The score predicted under the loss weight that makes it equivalent to the velocity is better than unweighted."
    )
    values = [(name, seeds_of(chosen, main.key)) for name, chosen in sides]
    return claim_of_difference("SiT", says, *values, main, "flow_choices")


def _time(rows):
    discrete, continuous = discrete_and_continuous(rows)
    if not continuous:
        return None
    main = metrics_of(continuous)[0]
    sides = ("continuous time", seeds_of(continuous, main.key)), ("DDPM's discrete time", seeds_of(discrete, main.key))
    says = "Continuous time is better than discrete time, both on VP."
    return claim_of_difference("SiT", says, *sides, main, "flow_choices")


def _samplers(rows):
    """The SDE at its most evaluations, the ODE at the number nearest to that."""
    if not rows:
        return
    main, sde = metrics_of(rows)[0], [row for row in rows if row["sampler"] == "sde"]
    most = max(distinct(sde, "evaluations"))
    sde = [row for row in sde if row["evaluations"] == most]
    near = min(distinct([r for r in rows if r["sampler"] == "ode"], "evaluations"), key=lambda n: abs(n - most))
    ode = [row for row in rows if row["sampler"] == "ode" and row["evaluations"] == near]
    best = [row for row in sde if row["diffusion"] in _KL]
    name = "the SDE with a KL diffusion" if best else f"the SDE ({', '.join(distinct(sde, 'diffusion'))})"
    yield claim_of_difference(
        "SiT",
        f"The SDE with the diffusion w^KL or w^(KL,eta) is better than the ODE; of SiT-XL/2 {SIT_XL_2_SDE} against "
        f"{SIT_XL_2_ODE}.",
        (f"{name} at {most:g} evaluations", _mean_of_forms(best or sde, main.key)),
        (f"the ODE at {near:g}", seeds_of(ode, main.key)),
        main,
        "flow_samplers",
    )
    others = [row for row in sde if row["diffusion"] not in _KL]
    if best and others:
        forms = [[row for row in others if row["diffusion"] == form] for form in distinct(others, "diffusion")]
        rival = max(forms, key=lambda form: main.sign * np.mean([row[main.key] for row in form]))
        yield claim_of_difference(
            "SiT",
            "Among diffusion coefficients w^KL and w^(KL,eta) do best.",
            ("the KL forms", _mean_of_forms(best, main.key)),
            (f"{rival[0]['diffusion']}, the best of the others,", seeds_of(rival, main.key)),
            main,
            "flow_samplers",
        )


def _mean_of_forms(rows, key):
    """{seed: the mean over the diffusion forms}."""
    seeds = distinct(rows, "seed")
    return {seed: float(np.mean([row[key] for row in rows if row["seed"] == seed])) for seed in sorted(seeds)}


def _objective(rows):
    """SiT against DiT of one model at one step, each by its baseline's sampler."""
    last = unweighted(at_last_step(compared(rows, "flow")))
    flow = [r for r in last if (r["path"], r["prediction"]) == ("linear", "velocity")]
    for model in distinct(flow, "model"):
        mine = [row for row in flow if row["model"] == model]
        theirs = [row for row in ladder(rows) if row["model"] == model and row["step"] == mine[0]["step"]]
        if theirs:
            main = metrics_of(mine)[0]
            return claim_of_difference(
                "SiT",
                f"Flow matching on the Linear path is better than DDPM on the same network: SiT-XL/2 {SIT_XL_2_SDE}, "
                f"DiT-XL/2 {TABLE_2[-1].fid}.",
                ("SiT", seeds_of(mine, main.key)),
                ("DiT", seeds_of(theirs, main.key)),
                main,
                "flow_choices",
            )
    return None
