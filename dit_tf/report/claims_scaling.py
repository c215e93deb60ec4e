"""What the paper says of block designs, sizes, patches and compute (figures 2, 5, 6, 8, 9, 12 and 13)."""

import itertools

import numpy as np

from dit_tf.report.claim import Claim, claim_of_pairs, log, log_ratios
from dit_tf.report.palette import BLOCKS, short_name
from dit_tf.report.published import TABLE_4, twelve
from dit_tf.report.selections import (
    all_pairs,
    at_last_step,
    by_model,
    costs,
    designs,
    distinct,
    ladder,
    nested_pairs,
    seeds_of,
)  # fmt: skip
from dit_tf.report.statistics import (
    correlation_difference,
    rank_correlation,
    short,
    spearman,
    t_interval,
    verdict,
)
from dit_tf.report.study_data import metrics_of
from dit_tf.report.units import step_name

_PUBLISHED = {row.block: row.fid for row in TABLE_4 if (row.model, row.image_size, row.steps) == ("DiT-XL/2", 256, 400)}


def scaling_claims(data):
    """Claims, and None for each that the rows say nothing about."""
    rows = ladder(data.rows)
    last = at_last_step(rows)
    yield from _correlations(last)
    yield from _designs(designs(data.rows))
    if not last:
        return
    main = metrics_of(last)[0]
    values = by_model(last, main.key)
    for pairs, source, says in zip(
        nested_pairs(last),
        ("figure 6, top", "figure 6, bottom"),
        ("At one patch size, a deeper and wider model is better.", "At one size, smaller patches are better."),
    ):
        ratios = {arrow(pair): log_ratios(*(values.get(model, {}) for model in pair)) for pair in pairs}
        what = f"{main.title} of the {'larger model' if 'top' in source else 'finer patches'}"
        yield claim_of_pairs(source, says, ratios, what, "training")
    yield _training_compute(rows, last)


def arrow(pair):
    return " to ".join(short_name(model) for model in pair)


def _designs(rows):
    last = at_last_step(rows)
    blocks = [block for block in BLOCKS if block in distinct(last, "block")]
    if len(blocks) < 2 or "adaln_zero" not in blocks:
        return
    main = metrics_of(last)[0]

    def ratios(pairs, chosen):
        values = {b: seeds_of([r for r in chosen if r["block"] == b], main.key) for b in blocks}
        return {f"{_title(b)} to {_title(a)}": log_ratios(values[b], values[a]) for a, b in pairs}

    best = claim_of_pairs(
        "figure 5, table 4",
        "adaLN-Zero is the best of the four designs at the last step ("
        + ", ".join(f"{_title(block)} {_PUBLISHED[block]:.2f}" for block in blocks)
        + ").",
        ratios([("adaln_zero", block) for block in blocks[1:]], last),
        f"{main.title} of adaLN-Zero",
        "designs",
        every=True,
    )
    yield best
    order = claim_of_pairs(
        "table 4",
        f"The order of quality is {', '.join(_title(block) for block in blocks)}.",
        ratios(itertools.pairwise(blocks), last),
        f"{main.title} of the better of two neighbours in that order",
        "designs",
        every=True,
    )
    if order is not None:
        means = {b: t_interval(seeds_of([r for r in last if r["block"] == b], main.key).values()) for b in blocks}
        seen = ", ".join(f"{_title(block)} {means[block]}" for block in sorted(blocks, key=lambda b: means[b].mean))
        yield order._replace(saw=f"From best to worst: {seen}. {order.saw}")
    stages = {}
    for step in sorted(distinct(rows, "step")):
        others = [("adaln_zero", block) for block in blocks if block in ("cross_attention", "in_context")]
        found = ratios(others, [row for row in rows if row["step"] == step])
        stages |= {f"{name} at step {step_name(step)}": logs for name, logs in found.items()}
    if len(distinct(rows, "step")) > 1:
        yield claim_of_pairs(
            "figure 5",
            "adaLN-Zero is better than cross-attention and in-context conditioning at all stages of training.",
            stages,
            f"{main.title} of adaLN-Zero",
            "designs",
            every=True,
        )


def _title(block):
    return BLOCKS[block][0]


def _correlations(last):
    """Of the last step's scores and loss with the logarithm of MACs; ranks do not see the logarithm."""
    models = costs(last)
    if len(models) < 3:
        return
    paper = spearman([row.gflops for row in twelve()], [row.fid for row in twelve()])
    for number, metric in enumerate(metrics_of(last)):
        found = rank_correlation(models, by_model(last, metric.key))
        if found is None:
            continue
        first = number == 0
        says = f"Gflops and FID are strongly correlated; its twelve models have a rank correlation of {short(paper)}."
        yield Claim(
            "figure 8, table 4" if first else "figure 12",
            says if first else f"What holds of FID holds of {metric.title}: it is better with more Gflops.",
            f"{metric.title} and MACs of {found.models} models at step {step_name(last[0]['step'])}: {found}",
            verdict(found.interval, metric.sign),
            "macs" if first else "other_metrics",
        )
    main = metrics_of(last)[0]
    difference = correlation_difference(models, costs(last, "parameters"), by_model(last, main.key))
    if difference is not None:
        yield Claim(
            "section 5",
            "Gflops decide how good a model is, parameters do not: patches change the one and hardly the other.",
            f"The size of the rank correlation of {main.title} with MACs, less that with parameters, is {difference}",
            verdict(difference, 1),
            "macs",
        )
    losses = rank_correlation(models, by_model(last, "loss"))
    if losses is not None:
        yield Claim(
            "figure 13",
            "Models of more Gflops reach a lower training loss.",
            f"Loss and MACs at step {step_name(last[0]['step'])}: {losses}",
            verdict(losses.interval, -1),
            "loss",
        )


def _training_compute(rows, last):
    """At the compute that the smaller of a pair has used in the end, the larger read off its curve, a line in logs."""
    main, ratios = metrics_of(last)[0], {}
    for pair in all_pairs(last):
        curves = [_curves([row for row in rows if row["model"] == model], main.key) for model in pair]
        logs = {}
        for seed in curves[0].keys() & curves[1].keys():
            (compute, distance), (larger_compute, larger_distance) = (curve[seed] for curve in curves)
            if larger_compute[0] <= compute[-1] <= larger_compute[-1]:
                logs[seed] = float(np.interp(compute[-1], larger_compute, larger_distance)) - distance[-1]
        ratios[arrow(pair)] = dict(sorted(logs.items()))
    return claim_of_pairs(
        "figure 9",
        "Larger models use training compute better: a smaller one that trains longer falls behind.",
        ratios,
        f"At the compute that the smaller model has used in the end, {main.title} of the larger",
        "training_compute",
    )


def _curves(rows, key):
    """{seed: (log training MACs, log distance)}, from the first step on."""
    curves = {}
    for row in sorted(rows, key=lambda row: row["step"]):
        curves.setdefault(row["seed"], []).append((log(row["training_macs"]), log(row[key])))
    return {seed: np.array(points).T for seed, points in curves.items()}
