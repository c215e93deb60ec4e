"""Samples from the same noise and labels: figure 7 of the paper."""

import numpy as np

from dit_tf.report.claims_flow import PATHS
from dit_tf.report.drawing import Drawing, new_figure
from dit_tf.report.palette import (
    BLOCKS,
    model_order,
    patch_of,
    short_name,
    size_of,
    size_order,
)
from dit_tf.report.selections import costs, distinct, ladder

_PAPER = 255  # grey of the gaps between images
_COLUMNS = 5  # of images in a cell of figure 7
_CELL, _WIDTH = 2.6, 8.6  # inches at most, of a cell and of all


def samples(data):
    """Figure 7: a cell for each model, sizes to the right and patches downwards; image i has one noise everywhere."""
    rows = [row for row in ladder(data.rows) if row["run"] in data.images]
    models = {seed: {row["model"] for row in rows if row["seed"] == seed} for seed in sorted(distinct(rows, "seed"))}
    seed = max(models, key=lambda seed: len(models[seed]), default=None)
    runs = {row["model"]: row["run"] for row in rows if row["seed"] == seed}
    if len(runs) < 2:
        return None
    sizes = sorted({size_of(model) for model in runs}, key=size_order)
    patches = sorted({patch_of(model) for model in runs}, reverse=True)
    shown = {(patch_of(model), size_of(model)): data.images[run] for model, run in runs.items()}
    example_images = data.images[next(iter(runs.values()))]
    example = mosaic(example_images, _COLUMNS)
    width = min(_CELL, _WIDTH / len(sizes))
    figure = new_figure(
        width * len(sizes) + 0.2, 0.4 + len(patches) * (width * example.shape[0] / example.shape[1] + 0.06)
    )
    figure.get_layout_engine().set(wspace=0.05)
    grid = figure.subplots(len(patches), len(sizes), squeeze=False)
    for line, patch in zip(grid, patches):
        for axes, size in zip(line, sizes):
            _bare(axes)
            if (patch, size) in shown:
                _show(axes, mosaic(shown[patch, size], _COLUMNS))
            if patch == patches[0]:
                axes.set_title(f"DiT-{size}")
            if size == sizes[0]:
                axes.set_ylabel(f"patch {patch}")
    return Drawing(
        figure,
        f"The first {len(example_images)} samples of every size, to the right, and patch, downwards, of the trainings "
        f"with seed {seed}: image i has the same noise and label in every cell. "
        "Paper: figure 7.",
    )


def other_samples(data):
    """The same images of the trainings beside the ladder: block designs, SiT's choices, codecs."""
    models = set(costs(ladder(data.rows)))
    known = {row["run"] for row in ladder(data.rows)}
    shown = [row for row in data.rows if row["run"] in data.images and row["baseline"]]
    varied = {row["model"] for row in shown if row["run"] not in known}
    lines = {}
    for row in sorted((row for row in shown if row["model"] in varied), key=_order):
        lines.setdefault(_title(row), {}).setdefault(row["seed"], row["run"])
    if not lines or not models:
        return None
    seed = min(seed for runs in lines.values() for seed in runs)
    strips = {title: data.images[runs[seed]] for title, runs in lines.items() if seed in runs}
    first = mosaic(next(iter(strips.values())), 10)
    height = 5.6 * first.shape[0] / first.shape[1] + 0.06
    figure = new_figure(7.4, 0.2 + height * len(strips))
    for axes, (title, images) in zip(figure.subplots(len(strips), 1, squeeze=False).ravel(), strips.items()):
        _bare(axes)
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        _show(axes, mosaic(images, 10))
    return Drawing(
        figure,
        f"Samples of the other trainings with seed {seed}, beside the model that they are variants of; image i has the "
        "same noise and label in every line.",
    )


def _order(row):
    """The model as it is in the ladder, then other blocks, then flow matching."""
    return (
        model_order(row["model"]),
        row["objective"] == "flow",
        row["codec"] != "pixels",
        [*BLOCKS].index(row["block"]),
    )


def _title(row):
    parts = [short_name(row["model"])]
    if row["objective"] == "flow":
        parts += [PATHS.get(row["path"], row["path"]), row["prediction"]]
        parts += [] if row.get("loss_weight") in (None, "none") else [f"weighted as {row['loss_weight']}"]
    else:
        parts.append(BLOCKS[row["block"]][0])
    return ", ".join(parts + ([row["codec"]] if row["codec"] not in ("pixels", "vae") else []))


def mosaic(images, columns):
    """uint8 (K, H, W, 1 or 3) -> (h, w, 3), row by row with a gap of at least a pixel between images."""
    count, height, width = images.shape[:3]
    gap, columns = max(1, width // 16), min(columns, count)
    lines = -(-count // columns)
    sheet = np.full((lines * (height + gap) - gap, columns * (width + gap) - gap, 3), _PAPER, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _bare(axes):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)


def _show(axes, sheet):
    axes.imshow(sheet, interpolation="nearest", aspect="equal")
