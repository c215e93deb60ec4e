"""SiT's choices: what to predict, on which path, in which time, and how to sample."""

import numpy as np

from dit_tf.report import selections
from dit_tf.report.claims_flow import PATHS
from dit_tf.report.drawing import Drawing, new_figure, score_axis, seeds_text, spread
from dit_tf.report.palette import ACCENTS, short_name
from dit_tf.report.selections import discrete_and_continuous, grouped, seeds_of
from dit_tf.report.study_data import metrics_of

_ROW = 0.3  # inches
_NAMES = {
    "kl": "$w^{KL}$", "kl_eta": "$w^{KL,\\eta}$", "sbdm": "SBDM", "increasing_decreasing": "increasing-decreasing",
    "heun": "Heun", "euler": "Euler",
}  # fmt: skip


def flow_choices(data):
    """Predictions, paths, and discrete against continuous time, each a block of lines."""
    blocks, rows = [], []
    for key, names in (("prediction", {}), ("path", PATHS)):
        found = selections.flow_choices(data.rows, key)
        if found:
            other = found[0]["path" if key == "prediction" else "prediction"]
            lines = []
            for (value, weight), group in grouped(sorted(found, key=_order(key)), key, "loss_weight").items():
                weighted = "" if weight in (None, "none") else f", weighted as {weight}"
                lines.append((f"{names.get(value, value)}{weighted}", group))
            blocks.append((f"{key} ({PATHS.get(other, other)})", lines))
            rows += found
    discrete, continuous = discrete_and_continuous(data.rows)
    if continuous:
        name = f"continuous, {continuous[0]['prediction']}"
        blocks.append(("time (VP)", [(name, continuous), ("discrete, DDPM", discrete)]))
        rows += discrete + continuous
    if not blocks:
        return None
    main = metrics_of(rows)[0]
    figure, values = _dot_plot(blocks, main)
    return Drawing(
        figure,
        f"{main.title} of {short_name(rows[0]['model'])} with each choice of SiT, otherwise equal within a block. "
        f"{seeds_text(values)}; small circles are seeds. SiT: velocity, continuous time, Linear and GVP do better.",
    )


def flow_samplers(data):
    """ODE against SDE with each diffusion coefficient, from one training."""
    rows = selections.flow_samplers(data.rows)
    if not rows:
        return None
    main, blocks = metrics_of(rows)[0], []
    for kind in ("ode", "sde"):
        found = grouped([row for row in rows if row["sampler"] == kind], "diffusion", "solver", "evaluations")
        shared, lines = _named(found, kind)
        title = ", ".join([kind.upper(), *shared])
        blocks.append((title, sorted(lines, key=lambda line: np.mean([row[main.key] for row in line[1]]))))
    figure, values = _dot_plot(blocks, main)
    path = PATHS.get(rows[0]["path"], rows[0]["path"])
    return Drawing(
        figure,
        f"{main.title} of {short_name(rows[0]['model'])} ({path}, {rows[0]['prediction']}) drawn by the ODE and the "
        f"SDE with each diffusion coefficient, best first. {seeds_text(values)}; small circles are seeds. SiT: the "
        "SDE is better, with w^KL or w^(KL,η).",
    )


def _named(groups, kind):
    """{(diffusion, solver, evaluations): rows} -> what all share, [(what tells a group from the others, rows), ...]."""
    texts = [
        [_NAMES.get(d, d) if kind == "sde" else None, _NAMES.get(s, s), f"{e:g} evaluations"] for d, s, e in groups
    ]
    same = [len(set(column)) == 1 and len(texts) > 1 for column in zip(*texts)]
    shared = [text for text, common in zip(texts[0], same) if common and text]
    names = [", ".join(t for t, common in zip(line, same) if t and not common) for line in texts]
    return shared, list(zip(names, groups.values()))


def _order(key):
    known = ["velocity", "score", "noise", *PATHS]
    return lambda row: (known.index(row[key]) if row[key] in known else len(known), row.get("loss_weight") != "none")


def _dot_plot(blocks, metric):
    """blocks: [(title, [(name, rows), ...]), ...], from the top down -> figure, [{seed: number}]."""
    count = sum(len(lines) for _, lines in blocks)
    figure = new_figure(6.8, 0.9 + _ROW * (count + 0.8 * len(blocks)))
    axes = figure.add_subplot()
    names, places, values, y = [], [], [], 0.0
    for (title, lines), colour in zip(blocks, ACCENTS):
        axes.text(0.0, y, f" {title}", transform=axes.get_yaxis_transform(), va="center", weight="bold", color=colour)
        y += 0.9
        for name, rows in lines:
            found = seeds_of(rows, metric.key)
            mean, below, above = spread(found)
            axes.errorbar(mean, y, xerr=[[below], [above]], fmt="o", color=colour, mec="white", mew=0.5, capsize=2)
            axes.plot([*found.values()], [y] * len(found), "o", ms=3, mfc="none", mec=colour, mew=0.7, alpha=0.7)
            names.append(name)
            places.append(y)
            values.append(found)
            y += 1.0
        y += 0.1
    axes.set_yticks(places, names)
    axes.set_ylim(y - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    score_axis(axes, metric, [number for found in values for number in found.values()], axis="x")
    return figure, values
