"""A study that was never run: scores by formulas, so that a test knows what the report has to find."""

import zlib

import numpy as np

from dit_tf.report.study_data import StudyData

SIZES = {"Mi": (64, 2), "Na": (96, 3), "Ti": (128, 4), "Xs": (192, 6)}  # width, depth
MODELS = [f"DiT-{size}/{patch}" for size in SIZES for patch in (4, 2, 1)]
STEPS = (1000, 2000, 4000)
DESIGNS = {"adaln_zero": 1.0, "adaln": 1.25, "cross_attention": 1.4, "in_context": 1.9}
DIFFUSIONS = {"kl": 0.90, "kl_eta": 0.91, "constant": 1.1, "sigma": 1.05, "linear": 1.15}
IMAGES = 10


def macs_of(model):
    size, patch = model.removeprefix("DiT-").split("/")
    width, depth = SIZES[size]
    tokens = (8 // int(patch)) ** 2
    return tokens * depth * (18 * width**2 + 2 * tokens * width) + tokens * int(patch) ** 2 * 3 * width


def parameters_of(model):
    width, depth = SIZES[model.removeprefix("DiT-").split("/")[0]]
    return 18 * depth * width**2 + 600 * width


def training(run, model, seed, **more):
    """Fields of a row that the training fixes."""
    fields = dict(
        run=run, group=run.split("/")[0], seed=seed, model=model, block="adaln_zero", codec="pixels", image_size=8,
        objective="ddpm", path="", prediction="noise", loss_weight="none", global_batch_size=128,
        parameters=parameters_of(model), macs=macs_of(model),
    )  # fmt: skip
    return fields | more


def scoring(fields, step, distance, *, baseline=True, num_steps=50, cfg_scale=1.0, features="pixels", **more):
    """A row; agreement, precision and recall follow from the distance."""
    row = fields | dict(
        score="base" if baseline else "other", baseline=baseline, step=step, loss=0.1 + 0.02 * distance**0.5,
        training_macs=3 * fields["macs"] * fields["global_batch_size"] * step, sampler="ddpm", solver=None,
        num_steps=num_steps, evaluations=num_steps, cfg_scale=cfg_scale, guided_channels=None, diffusion="sigma",
        num_samples=500, features=features, provenance={},
    )  # fmt: skip
    row |= more
    row["sampling_macs"] = row["macs"] * row["evaluations"] * (1 if row["cfg_scale"] == 1.0 else 2)
    near = 1 / (1 + 0.05 * distance)
    guided = 0.15 * (row["cfg_scale"] - 1)
    if features == "inception":
        scores = dict(fid=distance, sfid=2 * distance, inception_score=100 * near, precision=near, recall=near)
    else:
        scores = dict(
            fd_pixels=distance, class_agreement=min(1.0, near + 0.02), precision_pixels=min(1.0, near + guided),
            recall_pixels=max(0.0, 0.9 * near - guided),
        )  # fmt: skip
    return row | scores


def distance_of(model, step, seed, power=0.35):
    """Falls with MACs and steps; model, step and seed give a factor near 1, the same on every machine."""
    noise = 1 + 0.01 * (zlib.crc32(f"{model},{step},{seed}".encode()) % 9 - 4)
    return 200 * (macs_of(model) / 1e5) ** -power * (step / 1000) ** -0.6 * noise


def make_study(*, seeds=(0, 1, 2), models=MODELS, power=0.35, designs=DESIGNS, features="pixels", beyond_ladder=True):
    """power: by which the distance falls with MACs; designs: {block: factor of its distance}."""
    rows = []
    for seed in seeds:
        for model in models:
            fields = training(f"sizes/{model},seed={seed}", model, seed)
            rows += [scoring(fields, s, distance_of(model, s, seed, power), features=features) for s in STEPS]
        if beyond_ladder:
            rows += _beyond_ladder(seed, designs, power)
    runs = list(dict.fromkeys(row["run"] for row in rows))
    losses = {run: _loss(next(row["macs"] for row in rows if row["run"] == run)) for run in runs}
    images = {run: _images(number) for number, run in enumerate(runs)}
    facts = dict(dit_tf="0.1.0", tensorflow="2.20.0", seeds=list(seeds), seconds=1234.5, plan="[sizes]\nmodel=DiT-Mi/4")
    return StudyData("Digits in miniature", facts | {"rows_planned": len(rows)}, rows, losses, images)


def _beyond_ladder(seed, designs, power):
    model = "DiT-Ti/2"
    ladder = training(f"sizes/{model},seed={seed}", model, seed)
    for block, factor in designs.items():
        if block != "adaln_zero":
            fields = training(f"designs/{block},seed={seed}", model, seed, block=block)
            yield from (scoring(fields, s, factor * distance_of(model, s, seed, power)) for s in STEPS)
    for other in MODELS:
        fields, last = training(f"sizes/{other},seed={seed}", other, seed), STEPS[-1]
        for count in (16, 32, 64, 128, 256, 1000):
            distance = distance_of(other, last, seed, power) * (1 + 8 / count)
            yield scoring(fields, last, distance, baseline=False, sampler="ddim", num_steps=count, evaluations=count)
    for scale in (1.25, 1.5, 2.0, 3.0):
        distance = distance_of(model, STEPS[-1], seed, power) * (0.7 + 0.5 * (scale - 1.5) ** 2)
        yield scoring(ladder, STEPS[-1], distance, baseline=False, cfg_scale=scale)
    yield from _channels(seed)
    yield from _flow(seed, model, power)


def _channels(seed):
    """Exactly the paper's rule: three channels at 1 + x are all at 1 + 3x/4."""
    fields = training(f"channels/haar,seed={seed}", "DiT-Mi/1", seed, codec="haar")
    yield scoring(fields, STEPS[-1], 20.0 + seed)
    for scale in (1.375, 1.75, 2.5):
        yield scoring(fields, STEPS[-1], 20.0 + seed + 12 * (scale - 1), baseline=False, cfg_scale=scale)
    for scale in (1.5, 2.0):
        distance = 20.0 + seed + 12 * 0.75 * (scale - 1)
        yield scoring(fields, STEPS[-1], distance, baseline=False, cfg_scale=scale, guided_channels=3)


def _flow(seed, model, power):
    choices = {("linear", "velocity"): 0.8, ("gvp", "velocity"): 0.82, ("vp", "velocity"): 1.0}
    choices |= {("linear", "score"): 1.1, ("linear", "noise"): 1.05, ("vp", "score"): 0.95}
    ode = dict(sampler="ode", solver="heun", num_steps=25, evaluations=50)
    named = {(*choice, "none"): factor for choice, factor in choices.items()} | {("linear", "score", "velocity"): 0.85}
    for (path, prediction, weight), factor in named.items():
        run = f"flow/{path},{prediction},{weight},seed={seed}"
        choice = dict(objective="flow", path=path, prediction=prediction, loss_weight=weight)
        fields = training(run, model, seed, **choice)
        yield from (scoring(fields, s, factor * distance_of(model, s, seed, power), **ode) for s in STEPS)
        if (path, prediction) == ("linear", "velocity"):
            for form, better in DIFFUSIONS.items():
                distance = factor * better * distance_of(model, STEPS[-1], seed, power)
                sde = dict(sampler="sde", solver="euler", num_steps=50, evaluations=50, diffusion=form)
                yield scoring(fields, STEPS[-1], distance, baseline=False, **sde)


def _loss(macs):
    return [(step, 0.05 + (macs / 1e5) ** -0.15 * step**-0.3) for step in range(100, STEPS[-1] + 1, 100)]


def _images(number):
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8)
