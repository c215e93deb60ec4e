"""Figures, axes and marks that look alike in every plot of a report, and their files.

matplotlib without pyplot: no window, no state between figures. Equal data give equal bytes.
"""

import io
import math
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from dit_tf.report.palette import colour_of, marker_of, model_order, short_name
from dit_tf.report.units import plain, step_name

STYLE = {
    "svg.hashsalt": "dit_tf", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9,
    "axes.titlesize": 9.5, "axes.labelsize": 9, "legend.fontsize": 8, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e3e3e3", "grid.linewidth": 0.6, "axes.edgecolor": "#555555", "xtick.color": "#444444",
    "ytick.color": "#444444", "lines.linewidth": 1.5, "lines.markersize": 5.5, "figure.dpi": 160, "savefig.dpi": 160,
}  # fmt: skip
_WIDE_RANGE = 3.0  # of a score: largest to smallest from which on its axis is logarithmic
_TICKS = (  # numbers of a decade, from dense to sparse
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0), (1.0, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,),
)  # fmt: skip
_MOST_TICKS = 6


class Picture(NamedTuple):
    name: str  # of its files
    title: str
    caption: str
    png: bytes
    svg: bytes


class Drawing(NamedTuple):
    figure: Figure
    caption: str


def new_figure(width, height):
    """Inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def picture(name, title, drawing):
    for _ in range(2):  # settled for both files; labels of images, whose shape is fixed, need the second
        drawing.figure.get_layout_engine().execute(drawing.figure)
    drawing.figure.set_layout_engine("none")
    files = []
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        file = io.BytesIO()
        drawing.figure.savefig(file, format=kind, metadata=metadata)
        files.append(file.getvalue())
    return Picture(name, title, drawing.caption, *files)


def spread(values):
    """{seed: number} -> mean, and how far the smallest and the largest seed lie below and above it."""
    numbers = np.array([*values.values()], np.float64)
    mean = numbers.mean()
    return mean, mean - numbers.min(), numbers.max() - mean


def error_line(axes, points, **look):
    """points: [(x, {seed: number})], a line through the means with bars from the smallest to the largest seed."""
    points = sorted((x, *spread(values)) for x, values in points if values)
    if points:
        x, mean, below, above = np.array(points).T
        axes.errorbar(x, mean, yerr=[below, above], capsize=2, elinewidth=0.9, capthick=0.9, **look)


def look_of(model, **more):
    colour = colour_of(model)
    return (
        dict(color=colour, marker=marker_of(model), mec="white", mew=0.5, ecolor=colour, label=short_name(model)) | more
    )


def model_legend(figure, models):
    """To the right of every plot, where it covers nothing."""
    handles = [
        Line2D([], [], color=colour_of(m), marker=marker_of(m), mec="white", mew=0.5, label=short_name(m))
        for m in sorted(models, key=model_order)
    ]
    figure.legend(handles=handles, loc="outside right center")


def log_axis(axis, values, name=plain):
    """A logarithmic axis with as many plain numbers as have room, written by `name`."""
    values = [value for value in values if value > 0]
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    subs = next((subs for subs in _TICKS if _between(subs, min(values), max(values)) <= _MOST_TICKS), _TICKS[-1])
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _between(subs, low, high):
    """How many ticks lie from low to high."""
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return sum(low <= sub * 10.0**decade <= high for decade in decades for sub in subs)


def score_axis(axes, metric, values, axis="y"):
    """Logarithmic for a distance that spans much, with the sense in which it grows better."""
    values = [value for value in values if value is not None]
    target = getattr(axes, f"{axis}axis")
    if metric.lower_is_better and min(values) > 0 and max(values) / min(values) > _WIDE_RANGE:
        log_axis(target, values)
    else:
        target.set_major_locator(MaxNLocator(5))
    target.set_label_text(f"{metric.title} {'↓' if metric.lower_is_better else '↑'}")


def step_axis(axes, steps):
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: step_name(value)))
    axes.set_xlim(0, 1.05 * max(steps))
    axes.set_xlabel("training steps")


def seeds_text(values):
    """ "3 seeds", "2 to 3 seeds" of an iterable of {seed: number}."""
    counts = sorted({len(found) for found in values if found})
    if counts == [1]:
        return "One seed, so no bars"
    few = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[-1]}"
    return f"{few} seeds; points are means, bars reach from the lowest to the highest seed"
