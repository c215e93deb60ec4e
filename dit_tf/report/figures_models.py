"""Models beside one another at equal steps: figures 2 (left), 8 and 12 of the paper."""

from dit_tf.report.drawing import (
    Drawing,
    error_line,
    log_axis,
    look_of,
    model_legend,
    new_figure,
    score_axis,
    seeds_text,
    spread,
)
from dit_tf.report.palette import colour_of, model_order, patch_of, size_of, size_order
from dit_tf.report.selections import at_last_step, by_model, costs, distinct, ladder
from dit_tf.report.statistics import rank_correlation
from dit_tf.report.study_data import metrics_of
from dit_tf.report.units import step_name, unit_of

_LARGEST = 1500.0  # area of a bubble, in square points


def size_and_patch(data):
    """Figure 2, left: a bubble for each model, its area the multiply-adds."""
    rows = at_last_step(ladder(data.rows))
    if len(distinct(rows, "model")) < 2:
        return None
    main, macs = metrics_of(rows)[0], costs(rows)
    values = by_model(rows, main.key)
    sizes = sorted({size_of(model) for model in values}, key=size_order)
    patches = sorted({patch_of(model) for model in values}, reverse=True)
    figure = new_figure(6.6, 4.0)
    axes = figure.add_subplot()
    for model, found in values.items():
        x = sizes.index(size_of(model)) + 0.24 * (patches.index(patch_of(model)) - (len(patches) - 1) / 2)
        area = _LARGEST * macs[model] / max(macs.values())
        axes.scatter(x, spread(found)[0], s=area, color=colour_of(model), alpha=0.45, linewidths=0)
        error_line(axes, [(x, found)], **look_of(model))
    score_axis(axes, main, [number for found in values.values() for number in found.values()])
    axes.set_xticks(range(len(sizes)), [f"DiT-{size}" for size in sizes])
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.margins(y=0.16)
    axes.grid(axis="x", visible=False)
    model_legend(figure, values)
    return Drawing(
        figure,
        f"{main.title} of every size and patch at step {step_name(rows[0]['step'])}; the area of a bubble is "
        f"proportional to the model's MACs. {seeds_text(values.values())}. Paper: figure 2, left.",
    )


def macs(data):
    """Figure 8: quality against the multiply-adds of one forward pass."""
    rows = at_last_step(ladder(data.rows))
    if len(distinct(rows, "model")) < 3:
        return None
    main = metrics_of(rows)[0]
    figure = new_figure(6.6, 4.0)
    axes = figure.add_subplot()
    values = _against_macs(axes, rows, main)
    found = rank_correlation(costs(rows), by_model(rows, main.key))
    if found is not None:
        axes.set_title(f"Spearman {found}", loc="right", color="#444444", fontsize=8.5)
    model_legend(figure, values)
    return Drawing(
        figure,
        f"{main.title} against the multiply-adds (MACs) of one forward pass, all at step "
        f"{step_name(rows[0]['step'])}. {seeds_text(values.values())}; in brackets the 95 % interval of the rank "
        "correlation over seeds and models. Paper: figure 8.",
    )


def _against_macs(axes, rows, metric):
    values, costs_ = by_model(rows, metric.key), costs(rows)
    divisor, unit = unit_of(costs_.values())
    for model, found in values.items():
        error_line(axes, [(costs_[model] / divisor, found)], **look_of(model, ls="none"))
    log_axis(axes.xaxis, [costs_[model] / divisor for model in values])
    axes.set_xlabel(f"one forward pass ({unit})")
    score_axis(axes, metric, [number for found in values.values() for number in found.values()])
    return values


def other_metrics(data):
    """Figure 12: the other scores, against training compute and against multiply-adds."""
    rows = ladder(data.rows)
    last = at_last_step(rows)
    metrics = metrics_of(last)[1:]
    if len(distinct(last, "model")) < 3 or not metrics:
        return None
    figure = new_figure(7.6, 0.6 + 2.3 * len(metrics))
    grid = figure.subplots(len(metrics), 2, sharey="row", squeeze=False)
    for number, (metric, (left, right)) in enumerate(zip(metrics, grid)):
        compute_curves(left, rows, metric)
        values = _against_macs(right, last, metric)
        right.set_ylabel("")
        if number < len(metrics) - 1:
            left.set_xlabel("")
            right.set_xlabel("")
    grid[0, 0].set_title("all steps")
    grid[0, 1].set_title(f"step {step_name(last[0]['step'])}")
    model_legend(figure, values)
    return Drawing(
        figure,
        "The other scores: left against training compute, right against the MACs of a forward pass at equal steps. "
        f"{seeds_text(values.values())}. Paper: figure 12.",
    )


def training_compute(data):
    """Figure 9: quality against MACs x batch x steps x 3."""
    rows = ladder(data.rows)
    if len(distinct(rows, "model")) < 2 or len(distinct(rows, "step")) < 2:
        return None
    main = metrics_of(rows)[0]
    figure = new_figure(6.6, 4.0)
    values = compute_curves(figure.add_subplot(), rows, main)
    model_legend(figure, values)
    return Drawing(
        figure,
        f"{main.title} against training compute, MACs x batch x steps x 3, which counts a backward pass as two forward "
        f"ones. {seeds_text(values.values())}. Paper: figure 9.",
    )


def compute_curves(axes, rows, metric):
    """A line for each model through its steps -> {model: {seed: number}} of the last of them."""
    divisor, unit = unit_of([row["training_macs"] for row in rows])
    models = sorted(distinct(rows, "model"), key=model_order)
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        points = []
        for step in distinct(mine, "step"):
            at = [row for row in mine if row["step"] == step]
            points += [(at[0]["training_macs"] / divisor, by_model(at, metric.key).get(model, {}))]
        error_line(axes, points, **look_of(model))
    log_axis(axes.xaxis, [row["training_macs"] / divisor for row in rows])
    axes.set_xlabel(f"training compute ({unit})")
    score_axis(axes, metric, [row.get(metric.key) for row in rows])
    return by_model(at_last_step(rows), metric.key)
