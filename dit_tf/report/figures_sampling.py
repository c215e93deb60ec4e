"""Sampling: figure 10 of the paper, guidance (table 2) and guidance of some channels (appendix A)."""

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
)
from dit_tf.report.palette import ACCENTS, model_order, short_name
from dit_tf.report.selections import distinct, sampling_steps, seeds_of
from dit_tf.report.study_data import metrics_of
from dit_tf.report.units import step_name, unit_of

_COLUMNS = 2  # of panels


def sampling_compute(data):
    """Figure 10: quality against MACs x evaluations of the network."""
    rows = sampling_steps(data.rows)
    models = sorted(distinct(rows, "model"), key=model_order)
    if not models:
        return None
    main, (divisor, unit) = metrics_of(rows)[0], unit_of([row["sampling_macs"] for row in rows])
    figure = new_figure(6.6, 4.2)
    axes, values = figure.add_subplot(), []
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        points = []
        for steps in distinct(mine, "num_steps"):
            at = [row for row in mine if row["num_steps"] == steps]
            points.append((at[0]["sampling_macs"] / divisor, seeds_of(at, main.key)))
        error_line(axes, points, **look_of(model))
        values += [found for _, found in points]
    log_axis(axes.xaxis, [row["sampling_macs"] / divisor for row in rows])
    axes.set_xlabel(f"sampling compute of one image ({unit})")
    score_axis(axes, main, [row[main.key] for row in rows])
    model_legend(figure, models)
    steps = ", ".join(map(str, sorted(distinct(rows, "num_steps"))))
    return Drawing(
        figure,
        f"{main.title} against sampling compute, MACs x evaluations of the network, at training step "
        f"{step_name(rows[0]['step'])}; from left to right {steps} steps of the sampler {rows[0]['sampler']}, without "
        f"guidance. {seeds_text(values)}. Paper: figure 10.",
    )


def guidance(data):
    """Table 2's guided rows as curves over the scale."""
    rows = selections.guidance(data.rows)
    models = sorted(distinct(rows, "model"), key=model_order)
    if not models:
        return None
    metrics = metrics_of(rows)
    lines = -(-len(metrics) // _COLUMNS)
    figure = new_figure(7.6, 0.4 + 2.4 * lines)
    panels, values = figure.subplots(lines, _COLUMNS, squeeze=False, sharex=True).ravel(), []
    for axes, metric in zip(panels, metrics):
        for model in models:
            points = _over_scales([row for row in rows if row["model"] == model], metric.key)
            error_line(axes, points, **look_of(model))
            values += [found for _, found in points]
        axes.set_xlabel("guidance scale")
        axes.xaxis.set_tick_params(labelbottom=True)
        score_axis(axes, metric, [row.get(metric.key) for row in rows])
    for axes in panels[len(metrics) :]:
        axes.remove()
    model_legend(figure, models)
    return Drawing(
        figure,
        f"Scores against the scale of classifier-free guidance, {rows[0]['num_steps']} steps of the sampler "
        f"{rows[0]['sampler']}; 1 is no guidance. {seeds_text(values)}. Paper: tables 2 and 3.",
    )


def _over_scales(rows, key):
    scales = sorted(distinct(rows, "cfg_scale"))
    return [(scale, seeds_of([row for row in rows if row["cfg_scale"] == scale], key)) for scale in scales]


def guided_channels(data):
    """Appendix A: three channels at 1 + x beside all at 1 + 3x/4."""
    rows = selections.guided_channels(data.rows)
    if not rows:
        return None
    main, values = metrics_of(rows)[0], []
    figure = new_figure(7.6, 3.3)
    left, right = figure.subplots(1, 2, sharey=True)
    plain = [row for row in rows if row["cfg_scale"] == 1.0]
    channels = distinct([row for row in rows if row["cfg_scale"] != 1.0], "guided_channels")
    for number, colour, marker in zip(sorted(channels, key=lambda n: n or 0), ACCENTS, "os^D"):
        mine = plain + [row for row in rows if row["cfg_scale"] != 1.0 and row["guided_channels"] == number]
        name = "all channels" if number is None else f"the first {number} channels"
        for axes, factor in ((left, 1.0), (right, 1.0 if number is None else 0.75)):
            points = [(1 + factor * (scale - 1), found) for scale, found in _over_scales(mine, main.key)]
            some = (
                {} if number is None else dict(ls="--", mfc="white", ms=7.5, mew=1.3, zorder=3)
            )  # seen where they meet
            look = dict(color=colour, marker=marker, mec=colour, mew=0.5, ecolor=colour) | some
            error_line(axes, points, label=name if axes is left else None, **look)
            values += [found for _, found in points]
    left.set(xlabel="guidance scale", title="as given")
    right.set(xlabel="scale of all channels; 1 + 3x/4 for some", title="rescaled")
    for axes in (left, right):
        score_axis(axes, main, [row[main.key] for row in rows])
    right.set_ylabel("")
    figure.legend(loc="outside lower center", ncols=4)
    return Drawing(
        figure,
        f"{main.title} of {short_name(rows[0]['model'])} ({rows[0]['codec']}) with some or all of its channels guided. "
        "Left against the scale 1 + x; right against 1 + 3x/4 for the former, where the paper finds the two alike. "
        f"{seeds_text(values)}. Paper: appendix A.",
    )
