"""Over training: figures 5, 6 and 13 of the paper."""

import numpy as np

from dit_tf.report import selections
from dit_tf.report.drawing import (
    Drawing,
    error_line,
    log_axis,
    look_of,
    model_legend,
    new_figure,
    score_axis,
    seeds_text,
    step_axis,
)
from dit_tf.report.palette import (
    BLOCKS,
    colour_of,
    model_order,
    patch_of,
    size_of,
    size_order,
)
from dit_tf.report.selections import by_model, distinct, ladder, seeds_of
from dit_tf.report.study_data import metrics_of
from dit_tf.report.units import plain, step_name

_POINTS = 100  # of a loss curve, evenly in steps and as many in their logarithm; more would not be seen


def designs(data):
    """Figure 5: the four block designs."""
    rows = selections.designs(data.rows)
    if not rows:
        return None
    main, steps = metrics_of(rows)[0], distinct(rows, "step")
    figure = new_figure(6.6, 3.6)
    axes, last = figure.add_subplot(), []
    for block in (block for block in BLOCKS if block in distinct(rows, "block")):
        title, colour, marker = BLOCKS[block]
        mine = [row for row in rows if row["block"] == block]
        points = [(step, seeds_of([r for r in mine if r["step"] == step], main.key)) for step in steps]
        cost = mine[0]["macs"] / 1e6
        label = f"{title} ({cost:.3g} MMACs)" if cost < 1000 else f"{title} ({cost / 1000:.4g} GMACs)"
        error_line(axes, points, color=colour, marker=marker, mec="white", mew=0.5, ecolor=colour, label=label)
        last.append(dict(points)[max(step for step, values in points if values)])
    step_axis(axes, steps)
    score_axis(axes, main, [row[main.key] for row in rows])
    figure.legend(loc="outside right center")
    return Drawing(
        figure,
        f"{main.title} of {rows[0]['model']} with each block design over training, otherwise equal. "
        f"{seeds_text(last)}. Paper: figure 5.",
    )


def training(data):
    """Figure 6: sizes at one patch above, patches at one size below."""
    rows = ladder(data.rows)
    models = sorted(distinct(rows, "model"), key=model_order)
    if len(models) < 2 or len(distinct(rows, "step")) < 2:
        return None
    main = metrics_of(rows)[0]
    patches = sorted({patch_of(model) for model in models}, reverse=True)
    sizes = sorted({size_of(model) for model in models}, key=size_order)
    figure = new_figure(8.6, 5.4)
    cells = np.lcm(len(patches), len(sizes))
    grid, shared = figure.add_gridspec(2, cells), None
    for place, (families, part) in enumerate(((patches, patch_of), (sizes, size_of))):
        width = cells // len(families)
        for column, family in enumerate(families):
            slot = grid[place, column * width : (column + 1) * width]
            axes = figure.add_subplot(slot, sharex=shared, sharey=shared)
            shared = shared or axes
            for model in (model for model in models if part(model) == family):
                error_line(axes, _over_steps(rows, model, main.key), **look_of(model))
            axes.set_title(f"patch {family}" if part is patch_of else f"DiT-{family}")
            step_axis(axes, distinct(rows, "step"))
            score_axis(axes, main, [row[main.key] for row in rows])
            if column:
                axes.set_ylabel("")
                axes.tick_params(labelleft=False)
            if place == 0:
                axes.set_xlabel("")
    model_legend(figure, models)
    final = by_model([row for row in rows if row["step"] == max(distinct(rows, "step"))], main.key)
    return Drawing(
        figure,
        f"{main.title} over training. Above: sizes at one patch; below: patches at one size. "
        f"{seeds_text(final.values())}. Paper: figure 6.",
    )


def _over_steps(rows, model, key):
    mine = [row for row in rows if row["model"] == model]
    return [(step, seeds_of([r for r in mine if r["step"] == step], key)) for step in distinct(mine, "step")]


def loss(data):
    """Figure 13: the training loss, mean over seeds."""
    rows = [row for row in ladder(data.rows) if data.losses.get(row["run"])]
    models = sorted(distinct(rows, "model"), key=model_order)
    if len(models) < 2:
        return None
    figure = new_figure(8.6, 4.0)
    whole, late = figure.subplots(1, 2)
    curves = {}
    for model in models:
        runs = distinct([row for row in rows if row["model"] == model], "run")
        curves[model] = curve = _mean_curve([data.losses[run] for run in runs])
        for axes in (whole, late):
            axes.plot(*curve, color=colour_of(model), lw=1.2)
    everything = np.concatenate([curve[1] for curve in curves.values()])
    end = max(curve[0][-1] for curve in curves.values())
    start = min(curve[0][0] for curve in curves.values())
    log_axis(whole.xaxis, [start, end], step_name)
    log_axis(whole.yaxis, everything)
    whole.set(xlabel="training steps", ylabel="training loss ↓", title="all steps")
    tails = np.concatenate([curve[1][curve[0] >= end / 2] for curve in curves.values()])
    step_axis(late, [end])
    late.set(xlim=(end / 2, end), ylim=_around(tails), title="second half")
    seeds = sorted({len(set(distinct([r for r in rows if r["model"] == model], "seed"))) for model in models})
    model_legend(figure, models)
    return Drawing(
        figure,
        f"Training loss of every size and patch up to step {step_name(end)}, mean over "
        f"{' to '.join(map(plain, dict.fromkeys((seeds[0], seeds[-1]))))} seed{'s' if seeds[-1] > 1 else ''}. "
        "Paper: figure 13.",
    )


def _around(values):
    margin = 0.06 * (values.max() - values.min()) or 0.1
    return values.min() - margin, values.max() + margin


def _mean_curve(runs):
    """[[(step, loss), ...], ...] -> steps, means of the runs that got there, thinned to means of stretches."""
    losses = {}
    for run in runs:
        for step, value in run:
            losses.setdefault(step, []).append(value)
    steps = np.array(sorted(losses), np.float64)
    means = np.array([np.mean(losses[step]) for step in steps])
    last = len(steps) - 1  # stretches that are short at the beginning, and none long at the end
    ends = {*np.geomspace(1, last + 1, _POINTS).astype(int), *np.linspace(1, last + 1, _POINTS).astype(int)}
    parts = [part for part in np.split(np.arange(last + 1), sorted(ends)) if len(part)]
    return np.array([steps[part].mean() for part in parts]), np.array([means[part].mean() for part in parts])
