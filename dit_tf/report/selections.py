"""Which rows of a study may be compared with one another: those that differ in nothing but what is asked about.

No selection reads the names of a plan's sections, so a plan may call them what it likes.
"""

import itertools

from dit_tf.report.palette import model_order, patch_of, size_of

_SETTING = ("codec", "image_size", "global_batch_size", "features", "num_samples")
_SAMPLER = ("sampler", "solver", "diffusion", "num_steps", "cfg_scale", "guided_channels")


def grouped(rows, *keys):
    """{(values of the keys): rows}, in the rows' order."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def distinct(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def seeds_of(rows, key):
    """{seed: value} of the rows that have it, the first of a seed."""
    values = {}
    for row in rows:
        if row.get(key) is not None:
            values.setdefault(row["seed"], row[key])
    return dict(sorted(values.items()))


def by_model(rows, key):
    """{model: {seed: value}}, from the smallest model on."""
    models = sorted(distinct(rows, "model"), key=model_order)
    found = {model: seeds_of([row for row in rows if row["model"] == model], key) for model in models}
    return {model: values for model, values in found.items() if values}


def costs(rows, key="macs"):
    return {row["model"]: row[key] for row in rows}


def at_last_step(rows):
    """The rows of the last step that at least half of the trainings have reached: models are compared at equal steps,
    and neither a training that is longer than the others nor one that still runs may decide where."""
    runs = {step: len(set(distinct(group, "run"))) for (step,), group in grouped(rows, "step").items()}
    reached = [step for step, count in runs.items() if 2 * count >= max(runs.values())]
    return [row for row in rows if row["step"] == max(reached)] if rows else []


def _largest(groups, *counts):
    """The group with the most of each count in turn; [] of none."""
    return max(groups, key=lambda rows: [count(rows) for count in counts], default=[])


def _models(rows):
    return len(distinct(rows, "model"))


def compared(rows, objective):
    """Baseline rows of the adaLN-Zero models of an objective at every step, in the setting that has most models, then
    most trainings. For "ddpm": the paper's twelve, or what stands for them."""
    found = [r for r in rows if r["baseline"] and r["objective"] == objective and r["block"] == "adaln_zero"]
    return _largest(grouped(found, *_SETTING).values(), _models, lambda rows: len(set(distinct(rows, "run"))), len)


def ladder(rows):
    """The models of which size and patch alone differ."""
    return compared(rows, "ddpm")


def nested_pairs(rows):
    """[(smaller, larger)]: neighbours in size at one patch, then neighbours in patch at one size. Among these the paper
    finds an order without exception; of any two models it does not (B/8 costs more than S/4 and is worse)."""
    macs = costs(rows)
    pairs = []
    for part in (patch_of, size_of):
        families = {}
        for model in sorted(macs, key=lambda model: (macs[model], model)):
            families.setdefault(part(model), []).append(model)
        pairs.append([pair for _, family in sorted(families.items()) for pair in itertools.pairwise(family)])
    return tuple(pairs)  # (sizes, patches)


def all_pairs(rows):
    """Those of both kinds."""
    return list(itertools.chain(*nested_pairs(rows)))


def designs(rows):
    """Rows of one model in more than one block design, otherwise equal, at every step."""
    found = [row for row in rows if row["baseline"] and row["objective"] == "ddpm"]
    groups = [g for g in grouped(found, "model", *_SETTING).values() if len(distinct(g, "block")) > 1]
    return _largest(groups, lambda rows: len(distinct(rows, "block")), lambda rows: rows[0]["macs"])


def _final(rows, objective):
    found = [row for row in rows if row["objective"] == objective and row["block"] == "adaln_zero"]
    return at_last_step(found)


def _varied(rows, key, *fixed):
    """Of each group of equal `fixed`, the rows, where it has more than one value of the key."""
    return [row for group in grouped(rows, *fixed).values() if len(distinct(group, key)) > 1 for row in group]


def sampling_steps(rows):
    """Unguided rows of the models that one sampler scored with more than one number of steps."""
    found = [row for row in _final(rows, "ddpm") if row["cfg_scale"] == 1.0]
    groups = grouped(found, "sampler", "solver", *_SETTING).values()
    return _largest([_varied(group, "num_steps", "model") for group in groups], _models, len)


def guidance(rows):
    """Rows of the models that were scored at more than one scale, by the sampler, steps and channels most used; the
    unguided ones among them."""
    groups = grouped(_final(rows, "ddpm"), "sampler", "solver", "num_steps", *_SETTING).values()
    found = []
    for group in groups:
        plain = [row for row in group if row["cfg_scale"] == 1.0]
        for channels in distinct([row for row in group if row["cfg_scale"] != 1.0], "guided_channels"):
            guided = [row for row in group if row["cfg_scale"] != 1.0 and row["guided_channels"] == channels]
            guided = [row for row in guided if row["model"] in distinct(plain, "model")]
            found.append(_varied(plain + guided, "cfg_scale", "model"))
    return _largest(found, lambda rows: len(distinct(rows, "cfg_scale")), _models, len)


def guided_channels(rows):
    """Rows of one model guided on some of its channels and on all of them, the unguided ones among them."""
    groups = grouped(_final(rows, "ddpm"), "model", "sampler", "solver", "num_steps", *_SETTING).values()
    found = []
    for group in groups:
        channels = distinct([row for row in group if row["cfg_scale"] != 1.0], "guided_channels")
        if None in channels and len(channels) > 1 and 1.0 in distinct(group, "cfg_scale"):
            found.append(group)
    return _largest(found, lambda rows: len(distinct(rows, "cfg_scale")), len)


def flow_choices(rows, key):
    """Baseline rows at the last step of one model trained with more than one value of the key, "prediction" or "path",
    and otherwise equally; of predictions also those whose loss is weighted."""
    other = "path" if key == "prediction" else "prediction"
    found = at_last_step(compared(rows, "flow"))
    groups = grouped(found if key == "prediction" else unweighted(found), "model", other).values()
    varied = [group for group in groups if len(distinct(group, key)) > 1]
    usual = ("linear", "velocity")
    return _largest(varied, lambda group: len(distinct(group, key)), lambda group: group[0][other] in usual)


def unweighted(rows):
    """Of flow matching, those whose loss has the same weight at every time."""
    return [row for row in rows if row.get("loss_weight", "none") == "none"]


def discrete_and_continuous(rows):
    """(rows of DDPM, rows of flow matching on VP), of one model at one step, drawn by the same sampler where both were,
    else by the baseline of each. SiT trains the latter on the score; noise is the score times a known factor."""
    continuous = [row for row in unweighted(at_last_step(compared(rows, "flow"))) if row["path"] == "vp"]
    for prediction in ("score", "noise"):
        for (model,), group in grouped([r for r in continuous if r["prediction"] == prediction], "model").items():
            own = [row for row in _final(rows, "ddpm") if row["model"] == model and row["step"] == group[0]["step"]]
            sampler = {key: group[0].get(key) for key in (*_SAMPLER, *_SETTING)}
            alike = [row for row in own if all(row.get(key) == value for key, value in sampler.items())]
            discrete = alike or [row for row in ladder(own) if row["features"] == group[0]["features"]]
            if discrete:
                return discrete, group
    return [], []


def flow_samplers(rows):
    """Unguided rows at the last step of one flow-matching training that ODE and SDE samplers both drew from."""
    found = [row for row in _final(rows, "flow") if row["cfg_scale"] == 1.0]
    groups = grouped(found, "model", "path", "prediction", "loss_weight", *_SETTING).values()
    both = [group for group in groups if {"ode", "sde"} <= set(distinct(group, "sampler"))]
    return _largest(both, lambda group: len(grouped(group, *_SAMPLER)), len)


def sampler_name(row):
    """ "SDE, kl, euler, 250 evaluations, scale 1.5"."""
    diffusion = row["diffusion"] if row["sampler"] == "sde" else None
    parts = [row["sampler"].upper(), diffusion, row.get("solver"), f"{row['evaluations']:g} evaluations"]
    if row["cfg_scale"] != 1.0:
        channels = "" if row["guided_channels"] is None else f" on {row['guided_channels']} channels"
        parts.append(f"scale {row['cfg_scale']:g}{channels}")
    return ", ".join(part for part in parts if part)
