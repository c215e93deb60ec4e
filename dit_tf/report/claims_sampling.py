"""What the paper says of sampling steps and of guidance (figure 10, table 2, appendix A)."""

import numpy as np

from dit_tf.report.claim import claim_of_difference, claim_of_pairs, log, log_ratios
from dit_tf.report.claims_scaling import arrow
from dit_tf.report.palette import short_name
from dit_tf.report.selections import (
    all_pairs,
    by_model,
    distinct,
    guidance,
    guided_channels,
    sampling_steps,
    seeds_of,
)
from dit_tf.report.statistics import paired_difference
from dit_tf.report.study_data import Metric, metrics_of

_SCALE = 1.5  # the paper's


def sampling_claims(data):
    """Claims, and None for each that the rows say nothing about."""
    yield _more_steps(sampling_steps(data.rows))
    yield from _guidance(guidance(data.rows))
    yield _channels(guided_channels(data.rows))


def _more_steps(rows):
    """The smaller of a pair at its most steps; the larger at the most steps that cost no more than that."""
    if not rows:
        return None
    main, ratios = metrics_of(rows)[0], {}
    for small, large in all_pairs(rows):
        mine = [row for row in rows if row["model"] == small]
        mine = [row for row in mine if row["num_steps"] == max(distinct(mine, "num_steps"))]
        theirs = [r for r in rows if r["model"] == large and r["sampling_macs"] <= mine[0]["sampling_macs"]]
        theirs = [row for row in theirs if row["num_steps"] == max(distinct(theirs, "num_steps"))]
        ratios[arrow((small, large))] = log_ratios(seeds_of(mine, main.key), seeds_of(theirs, main.key))
    return claim_of_pairs(
        "figure 10",
        "More sampling steps do not let a smaller model pass a larger one: L/2 with 1000 steps has FID-10K 25.9 at "
        "80.7 TMACs an image, XL/2 with 128 has 23.7 at 15.2.",
        ratios,
        f"The smaller model drawn with its most steps, and the larger at no more compute an image: {main.title} of "
        "the larger",
        "sampling_compute",
    )


def _guidance(rows):
    if not rows:
        return
    scales = [scale for scale in distinct(rows, "cfg_scale") if scale > 1]
    scale = min(scales, key=lambda scale: (abs(scale - _SCALE), scale))
    plain, guided = ([row for row in rows if row["cfg_scale"] == chosen] for chosen in (1.0, scale))
    metrics = metrics_of(plain)
    values, others = by_model(plain, metrics[0].key), by_model(guided, metrics[0].key)
    ratios = {short_name(model): log_ratios(values[model], others[model]) for model in values if model in others}
    yield claim_of_pairs(
        "table 2",
        "Guidance makes FID better: 9.62 without, 2.27 at a scale of 1.5.",
        ratios,
        f"With a scale of {scale:g}, {metrics[0].title}",
        "guidance",
    )
    for metric in metrics:
        if metric.title.startswith("precision"):
            says, higher = "Guidance makes precision higher: 0.67 without, 0.83 at a scale of 1.5.", True
        elif metric.title.startswith("recall"):
            says, higher = "Guidance makes recall lower: 0.67 without, 0.57 at a scale of 1.5.", False
        else:
            continue
        sides = (
            (f"samples at scale {scale:g}", _means(guided, metric.key)),
            ("unguided samples", _means(plain, metric.key)),
        )
        yield claim_of_difference("table 2", says, *sides, metric._replace(lower_is_better=not higher), "guidance")


def _means(rows, key):
    """{seed: the mean over the models}."""
    values = by_model(rows, key).values()
    seeds = set.intersection(*(set(found) for found in values)) if values else ()
    return {seed: float(np.mean([found[seed] for found in values])) for seed in sorted(seeds)}


def _channels(rows):
    """Guidance of three channels at 1 + x, and of all at 1 + 3x/4 and at 1 + x, read off the line between scales."""
    if not rows:
        return None
    main = metrics_of(rows)[0]
    some = [row for row in rows if row["guided_channels"] is not None and row["cfg_scale"] > 1]
    full = [row for row in rows if row["guided_channels"] is None or row["cfg_scale"] == 1.0]
    rescaled, equal = {}, {}
    for row in some:
        curve = sorted((r["cfg_scale"], log(r[main.key])) for r in full if r["seed"] == row["seed"])
        if not curve or row["cfg_scale"] > curve[-1][0] or len(curve) < 2:
            continue
        for found, scale in ((rescaled, 1 + 0.75 * (row["cfg_scale"] - 1)), (equal, row["cfg_scale"])):
            gap = abs(log(row[main.key]) - float(np.interp(scale, *zip(*curve))))
            found.setdefault(row["seed"], []).append(gap)
    gaps = [{seed: float(np.exp(np.mean(logs))) for seed, logs in found.items()} for found in (rescaled, equal)]
    if paired_difference(*gaps) is None:
        return None
    return claim_of_difference(
        "appendix A",
        "Guidance of three channels at a scale of 1 + x is close to guidance of all four at 1 + 3x/4 (2.27 at 1.5, "
        "2.20 at 1.375).",
        ("three channels at 1 + x to all at 1 + 3x/4", gaps[0]),
        ("three channels at 1 + x to all at 1 + x", gaps[1]),
        Metric(main.key, f"The gap in {main.title}, as a factor,", True),
        "guided_channels",
    )
