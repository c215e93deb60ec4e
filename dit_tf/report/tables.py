"""Tables of a report: the claims, the study's own numbers, and the papers' rows to read them beside."""

from dit_tf.report.document import Table
from dit_tf.report.palette import BLOCKS, model_order
from dit_tf.report.published import TABLE_2, TABLE_3, TABLE_4, TABLE_6
from dit_tf.report.selections import (
    at_last_step,
    compared,
    costs,
    designs,
    grouped,
    ladder,
    sampler_name,
    seeds_of,
)
from dit_tf.report.statistics import AGREES, DISAGREES, short, t_interval
from dit_tf.report.study_data import metrics_of
from dit_tf.report.units import step_name, unit_of

_TRAINED = ("model", "block", "codec", "image_size", "objective", "path", "prediction", "loss_weight")
_SAMPLED = ("sampler", "solver", "diffusion", "num_steps", "cfg_scale", "guided_channels", "num_samples", "features")
_LIKE_THE_BEST = (
    "objective", "path", "prediction", "loss_weight", "block", "codec", "image_size", "step", "sampler", "solver",
    "num_steps", "diffusion", "features", "num_samples",
)  # fmt: skip
_SCORES = ("FID-50K", "sFID", "IS", "precision", "recall")


def claim_table(claims):
    rows = [(claim.source, claim.says, claim.saw[:1].upper() + claim.saw[1:], claim.verdict) for claim in claims]
    note = "Intervals are of 95 %: Student's over seeds, the bootstrap's over seeds and models for rank correlations."
    return Table("The paper says, we saw", ("source", "the paper says", "we saw", "verdict"), rows, note)


def verdict_line(claims):
    """How many claims the study agrees with, and which it does not."""
    counts = [sum(claim.verdict == verdict for claim in claims) for verdict in (AGREES, DISAGREES)]
    undecided = len(claims) - sum(counts)
    line = f"Of {len(claims)} claims the study agrees with {counts[0]}, not with {counts[1]}; {undecided} are open."
    against = [f"{claim.says.rstrip('.')} ({claim.source})" for claim in claims if claim.verdict == DISAGREES]
    return line + (f" It does not agree with: {'; '.join(against)}." if against else "")


def score_tables(data):
    """Every scoring at the last step of its training, a table for each kind of number."""
    rows = [row for group in grouped(data.rows, *_TRAINED, "global_batch_size").values() for row in at_last_step(group)]
    for group in grouped(rows, "features", "num_samples").values():
        metrics = metrics_of(group)
        columns = ("model", "trained", "sampled", "seeds", *(metric.title for metric in metrics))
        lines = grouped(sorted(group, key=_reading_order), *_TRAINED, "global_batch_size", "step", *_SAMPLED).values()
        cells = [
            (same[0]["model"], _training(same[0]), sampler_name(same[0]), str(len(seeds_of(same, metrics[0].key))))
            + tuple(_cell(same, metric) for metric in metrics)
            for same in lines
        ]
        yield Table(f"All scores: {metrics[0].title}", columns, cells, "Means and their intervals over seeds.")


def _reading_order(row):
    return (
        model_order(row["model"]),
        row["objective"],
        not row["baseline"],
        row["sampler"],
        row["num_steps"],
        row["cfg_scale"],
    )


def _training(row):
    how = f"flow {row['path']} {row['prediction']}" if row["objective"] == "flow" else BLOCKS[row["block"]][0]
    if row.get("loss_weight") not in (None, "none"):
        how += f" weighted as {row['loss_weight']}"
    return f"{how}, {row['codec']}, step {step_name(row['step'])}"


def _cell(rows, metric):
    values = seeds_of(rows, metric.key)
    return str(t_interval(values.values())) if values else "–"


def published_tables(data):
    """Tables 4, 2, 3 and 6, our rows at their end where they are of the same kind, and beside them where not."""
    last = at_last_step(ladder(data.rows))
    main = metrics_of(last)[:1]
    others = [row for row in at_last_step(designs(data.rows)) if row["block"] != "adaln_zero"]
    others = [row for row in others if row["features"] == last[0]["features"]] if last else []
    rows = [*sorted(last, key=_reading_order), *others]
    ours = [
        (model, BLOCKS[block][0], str(same[0]["image_size"]), f"{same[0]['parameters'] / 1e6:.3g}",
         f"{same[0]['macs'] / 1e9:.3g}", step_name(same[0]["step"]), _cell(same, main[0]))
        for (model, block), same in grouped(rows, "model", "block").items()
    ]  # fmt: skip
    columns = ("model", "block", "pixels", "parameters (M)", "GMACs", "steps")
    if ours:
        yield Table("Ours, as table 4", (*columns, main[0].title), ours, "")
    paper = [
        (row.model, BLOCKS[row.block][0], str(row.image_size), str(row.parameters), f"{row.gflops:.2f}",
         f"{row.steps}k", f"{row.fid:.2f}")
        for row in TABLE_4
    ]  # fmt: skip
    note = "Without guidance, 250 DDPM steps, ft-MSE decoder. The paper's Gflops are multiply-adds."
    yield Table("Table 4 of the paper", (*columns, "FID-50K"), paper, note)
    yield from _comparisons(data)
    yield from _unets(last)


def _comparisons(data):
    """Our largest model's baselines and guided samples, under the rows of the same resolution if they are FID-50K."""
    rows, name = _best(data.rows), "Ours, as tables 2 and 3"
    for number, size, table in ((2, 256, TABLE_2), (3, 512, TABLE_3)):
        lines = [(row.model, *(_number(value) for value in row[1:])) for row in table]
        same = [
            r for r in rows if r["features"] == "inception" and r["image_size"] == size and r["num_samples"] == 50_000
        ]
        lines += [(f"ours: {title}", *cells) for title, cells in _lines(same)]
        yield Table(f"Table {number} of the paper: ImageNet {size} x {size}", ("model", *_SCORES), lines, "")
        rows = [row for row in rows if row not in same]
    if rows:
        titles = [metric.title for metric in metrics_of(rows)]
        note = "" if rows[0]["features"] == "inception" else (
            f"{titles[0]} is a Fréchet distance of pixels and no FID: it has nothing in common with the numbers above "
            "but the formula. Class agreement, the share of samples that show the class asked for, is in the Inception "
            "Score's place."
        )  # fmt: skip
        yield Table(name, ("model", *titles), [(title, *cells) for title, cells in _lines(rows)], note)


def _best(rows):
    """Of each objective the largest model, and guided ones beside themselves unguided, by the baseline's sampler."""
    found = []
    for objective in ("ddpm", "flow"):
        last = at_last_step(compared(rows, objective))
        if last:
            best = max(last, key=lambda row: (row["macs"], row["path"] == "linear", row["prediction"] == "velocity"))
            alike = [row for row in rows if all(row.get(key) == best.get(key) for key in _LIKE_THE_BEST)]
            models = {row["model"] for row in alike if row["cfg_scale"] != 1.0} | {best["model"]}
            found += sorted((row for row in alike if row["model"] in models), key=_reading_order)
    return [row for row in found if row["features"] == found[0]["features"]]


def _lines(rows):
    for same in grouped(rows, *_TRAINED, *_SAMPLED).values():
        name = same[0]["model"].replace("DiT", "SiT") if same[0]["objective"] == "flow" else same[0]["model"]
        guided = f"-G (cfg={same[0]['cfg_scale']:.2f})" if same[0]["cfg_scale"] != 1.0 else ""
        yield f"{name}{guided}", tuple(_cell(same, metric) for metric in metrics_of(rows))


def _unets(last):
    columns = ("model", "pixels", "base (GMACs)", "upsampler (GMACs)", "total (GMACs)")
    lines = [(r.model, str(r.image_size), str(r.base), str(r.upsampler or "–"), str(r.total)) for r in TABLE_6]
    for model, macs in sorted(costs(last).items(), key=lambda pair: pair[1]):
        total = f"{macs / 1e9:.3g}"
        lines.append((f"ours: {model}", str(last[0]["image_size"]), total, "–", total))
    yield Table("Table 6 of the paper: U-Nets, and ours", columns, lines, "One forward pass of one image.")


def _number(value):
    return "–" if value is None else f"{value:.2f}"


def fact_table(data):
    """What the study ran with; its plan is shown apart."""
    rows = [(name.replace("_", " "), _fact(value)) for name, value in data.facts.items() if name != "plan"]
    total = sum(max(row["training_macs"] for row in group) for group in grouped(data.rows, "run").values())
    if total:
        divisor, unit = unit_of([total])
        rows.append(("training compute", f"{short(total / divisor)} {unit}"))
    return Table("The study", ("", ""), rows, "")


def _fact(value):
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
