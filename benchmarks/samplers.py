"""Every sampler on the digits: class agreement and pixel Frechet distance against function evaluations.

    python benchmarks/samplers.py --workdir=runs/samplers --output=docs/samplers

trains a DDPM and a flow model per seed with the recipe of launch/flags/digits.flags, the same number of steps for both,
draws 5,000 labelled samples from each by every sampler, and writes the table OUTPUT.md, its plot OUTPUT.png and the
picture OUTPUT-digits.png. Interrupted, it goes on. Needs the extra `benchmark`. The samplers that are compared by a bar
run on every seed, the others on the first.
"""

import dataclasses
import io
import os
import statistics
import subprocess
import sys
import time

import matplotlib
import numpy as np
import tqdm
from absl import flags
from machine import print_machine
from matplotlib import pyplot

from dit_tf import build, score_digits
from dit_tf.data.pipeline import open_dataset
from dit_tf.evaluation.class_agreement import class_agreement, train_classifier
from dit_tf.flags import run
from dit_tf.runtime.output_files import replace_file
from dit_tf.runtime.partial_results import PartialResults
from dit_tf.samplers.generate import in_batches
from dit_tf.samplers.options import SamplerOptions

matplotlib.use("Agg")
RECIPE = "launch/flags/digits.flags"
BATCH = 250


@dataclasses.dataclass(frozen=True)
class Row:
    """One sampler of one family of models; every_seed: whether a bar compares it."""

    objective: str
    name: str
    options: SamplerOptions
    every_seed: bool = False


def _row(objective, name, every_seed=False, **options):
    return Row(objective, name, SamplerOptions(**options), every_seed)


ROWS = [
    _row("ddpm", "DDPM-250", True, sampler="ddpm", num_steps=250),
    _row("ddpm", "DDIM-50", sampler="ddim", num_steps=50),
    _row("ddpm", "DDIM-20", sampler="ddim", num_steps=20),
    _row("ddpm", "DPM-Solver++-20", True, sampler="dpmpp", num_steps=20),
    _row("ddpm", "DPM-Solver++-20, shift 0.3", True, sampler="dpmpp", num_steps=20, timestep_shift=0.3),
    _row("ddpm", "DPM-Solver++-10, shift 0.3", sampler="dpmpp", num_steps=10, timestep_shift=0.3),
    _row("ddpm", "ODE-Heun-12", sampler="ode", num_steps=12),
    _row("flow", "ODE-Heun-12", True, sampler="ode", num_steps=12),
    _row("flow", "ODE-Heun-6", sampler="ode", num_steps=6),
    _row("flow", "ODE-Euler-24", sampler="ode", solver="euler", num_steps=24),
    _row("flow", "ODE-dopri5", sampler="ode", solver="dopri5"),
    _row("flow", "SDE-50", sampler="sde", num_steps=50),
    _row("flow", "SDE-250", sampler="sde", num_steps=250),
]


HEADER = f"""# Samplers on the digits

Made by `python benchmarks/samplers.py`. DiT-Ti/2 on 8x8 digits by the recipe of [{RECIPE}](../{RECIPE}),
once with `--objective=ddpm` and once with `--objective=flow` for as many steps. Evaluations are those of the network
per image; with guidance each has two rows. Scores are those of `dit_tf.score_digits`.
"""
PICTURED = [
    ("ddpm", "DDPM-250"),
    ("ddpm", "DDIM-50"),
    ("ddpm", "DPM-Solver++-20"),
    ("flow", "ODE-Heun-12"),
    ("flow", "SDE-250"),
]


def define_flags(values):
    flags.DEFINE_string("workdir", "runs/samplers", "Where models and results go.", flag_values=values)
    flags.DEFINE_string("output", "docs/samplers", "OUTPUT.md and OUTPUT.png are written.", flag_values=values)
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of trainings and of their samples.", flag_values=values)
    flags.DEFINE_integer("num_samples", 5000, "Per sampler and seed, labels in turn.", flag_values=values)
    flags.DEFINE_list("rows", None, "Names of samplers, such as DDIM-20; default: all.", flag_values=values)
    flags.DEFINE_float("cfg_scale", 1.5, "Classifier-free guidance of every sampler.", flag_values=values)


def main(options):
    print_machine()
    digits = open_dataset("digits")
    (train, train_labels), (test, test_labels) = (score_digits.real_features(digits, s) for s in ("train", "test"))
    judge, real = train_classifier(train, train_labels), np.concatenate([train, test])
    held_out, halves = class_agreement(judge, test, test_labels), score_digits.frechet_pixels(real[1::2], real[::2])
    key = dict(num_samples=options.num_samples, cfg_scale=options.cfg_scale, recipe=open(RECIPE).read())
    results = PartialResults(os.path.join(options.workdir, "results.jsonl"), key)
    rows = chosen(options.rows)
    wanted = [(row, seed) for seed in options.seeds for row in rows if row.every_seed or seed == options.seeds[0]]
    done = {(record["objective"], record["name"], record["seed"]) for record in results.batches}
    for row, seed in wanted:
        if (row.objective, row.name, seed) in done:
            continue
        path = trained(options.workdir, row.objective, seed)
        guided = dataclasses.replace(row.options, cfg_scale=options.cfg_scale)
        images, labels, record = drawn(path, guided, options.num_samples, seed)
        features = score_digits.pixel_features(images)
        record |= dict(
            objective=row.objective,
            name=row.name,
            seed=seed,
            class_agreement=class_agreement(judge, features, labels),
            frechet_pixels=score_digits.frechet_pixels(real, features),
        )
        results.append(record)
        print(record, flush=True)
    table = summary(results.batches)
    title = f"{options.num_samples} samples, guidance {options.cfg_scale:g}"
    title += f"; real digits: {held_out:.3f} (held-out) and {halves:.3f} (one half to the other)"
    page = markdown(table, title) + f"\n![Both scores against evaluations]({os.path.basename(options.output)}.png)\n"
    replace_file(options.output + ".md", page.encode())
    plot(table, options.output + ".png", title.split(";")[0])
    picture(options, rows, options.output + "-digits.png")
    print(markdown(table, title))


def chosen(names):
    """The rows of these names, in the order of ROWS; None: all."""
    unknown = set(names or ()) - {row.name for row in ROWS}
    if unknown:
        known = "; ".join(dict.fromkeys(row.name for row in ROWS))
        raise ValueError(f"--rows must be among {known}, got {', '.join(sorted(unknown))}.")
    return [row for row in ROWS if not names or row.name in names]


def trained(workdir, objective, seed):
    """The work directory of one training, which runs, or goes on, if it is not finished."""
    path = os.path.join(workdir, f"{objective}-{seed}")
    if not os.path.exists(os.path.join(path, "model.keras")):
        command = [sys.executable, "-m", "dit_tf.train", f"--flagfile={RECIPE}", "--sample_every=0"]
        subprocess.run([*command, f"--objective={objective}", f"--seed={seed}", f"--workdir={path}"], check=True)
    return path


def drawn(path, options, count, seed):
    """(images, labels, {"evaluations", "seconds"}) of so many samples with these options, labels 0, 1, ... in turn."""
    config = build.load_config(path)
    model = build.load_model(path)
    sampler = build.make_sampler(config, model, options)
    labels, parts, work = np.arange(count) % config.num_classes, [], []
    began = time.perf_counter()
    with tqdm.tqdm(total=count, unit="image", desc=f"{config.objective} {options.sampler}", dynamic_ncols=True) as bar:
        for _, batch in in_batches(sampler, build.weights_of(model), labels, int(seed), min(BATCH, count)):
            parts.append(batch.images)
            work.append(batch.work.evaluations)
            bar.update(len(batch.images))
    cost = dict(evaluations=float(np.concatenate(work).mean()), seconds=time.perf_counter() - began)
    return np.concatenate(parts), labels, cost


def summary(records):
    """Per sampler, in the order of ROWS: evaluations, and (mean, least, largest) of both scores over its seeds."""
    table = []
    for row in ROWS:
        mine = [r for r in records if (r["objective"], r["name"]) == (row.objective, row.name)]
        if not mine:
            continue
        scores = {
            score: [statistics.mean(values), min(values), max(values)]
            for score in ("class_agreement", "frechet_pixels")
            for values in [[r[score] for r in mine]]
        }
        evaluations = statistics.mean(r["evaluations"] for r in mine)
        table.append(dict(objective=row.objective, name=row.name, evaluations=evaluations, seeds=len(mine), **scores))
    return table


def markdown(table, title):
    columns = ["model", "sampler", "evaluations", "class agreement", "pixel Fréchet distance", "seeds"]
    lines = [HEADER, f"{title}. Means over seeds (least to largest).\n"]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table:
        scores = [f"{m:.3f} ({a:.3f} to {b:.3f})" for m, a, b in (row["class_agreement"], row["frechet_pixels"])]
        if row["seeds"] == 1:
            scores = [score.split(" ")[0] for score in scores]
        cells = [row["objective"], row["name"], f"{row['evaluations']:.0f}", *scores, str(row["seeds"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_figure(figure, path):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    replace_file(path, buffer.getvalue())
    pyplot.close(figure)


def picture(options, rows, path):
    """The ten digits from one seed, a sampler a row: those of PICTURED, if any are among the rows, else all."""
    shown = [row for name in PICTURED for row in rows if (row.objective, row.name) == name] or rows
    size = (8, 0.75 * len(shown))
    figure, axes = pyplot.subplots(len(shown), 10, figsize=size, layout="constrained", squeeze=False)
    for row, cells in zip(shown, axes):
        ten = dataclasses.replace(row.options, cfg_scale=options.cfg_scale)
        images, _, cost = drawn(trained(options.workdir, row.objective, options.seeds[0]), ten, 10, options.seeds[0])
        for cell, image in zip(cells, images):
            cell.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
            cell.set(xticks=[], yticks=[])
        label = f"{row.name}\n{row.objective}, {cost['evaluations']:.0f} evaluations"
        cells[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    write_figure(figure, path)


def plot(table, path, title):
    """Both scores against evaluations, the latter on a logarithmic axis."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axis, score, label in zip(
        axes, ("class_agreement", "frechet_pixels"), ("class agreement", "pixel Fréchet distance")
    ):
        for objective, marker in (("ddpm", "o"), ("flow", "s")):
            mine = [row for row in table if row["objective"] == objective]
            middle = np.array([row[score] for row in mine]).reshape(-1, 3)
            evaluations = [row["evaluations"] for row in mine]
            spread = np.abs(middle[:, :1] - middle[:, 1:]).T
            axis.errorbar(evaluations, middle[:, 0], spread, fmt=marker, capsize=3, label=objective, alpha=0.8)
            for i, (row, y) in enumerate(zip(mine, middle[:, 0])):
                side = dict(xytext=(-7, -3), ha="right") if i % 2 else dict(xytext=(7, -3))  # in turn, not to overlap
                point = row["evaluations"], y
                axis.annotate(row["name"], point, textcoords="offset points", fontsize=7, **side)
        axis.set_xlim(2, 900)
        axis.set(xscale="log", xlabel="function evaluations per image", ylabel=label)
        axis.legend()
    figure.suptitle(title)
    write_figure(figure, path)


if __name__ == "__main__":
    run(main, define_flags)
