"""An average of another length than the one that a training's models have, made of what it tracked."""

import dataclasses

import numpy as np
import tensorflow as tf
import tqdm

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.runtime.checkpoint import Checkpoints, ema_snapshots
from dit_tf.train_history import FILE, History
from dit_tf.training.ema import LARGEST_STD, Exponential, PowerFunction
from dit_tf.training.post_hoc import MOST_ERROR, MOST_NOISE, matches, widths

MOST_BEFORE = 0.01  # of an average, that may lie before the step at which it began to be tracked


@dataclasses.dataclass(frozen=True)
class Average:
    """Of the training in a work directory: of relative width `std`, at the snapshot of `step` (None: the newest), or
    the exponential one of `decay`. ValueError unless one of the two is given."""

    workdir: str
    std: float | None = None
    decay: float | None = None
    step: int | None = None

    def __post_init__(self):
        if not self.workdir:
            raise ValueError("--workdir must be given: the work directory of a training.")
        if (self.std is None) == (self.decay is None):
            raise ValueError("--std or --decay must be given, and not both: the length of the average.")
        if self.std is not None and not 0.0 < self.std < LARGEST_STD:
            raise ValueError(f"--std must be above 0 and below {LARGEST_STD:.4f}, got {self.std}.")
        if self.decay is not None and self.step is not None:
            raise ValueError(f"--step goes with --std, got --step={self.step} with --decay={self.decay}.")

    @property
    def width(self):
        return f"--decay={self.decay}" if self.std is None else f"--std={self.std}"


def averaged(options):
    """An `Average` -> (the network with these weights, its provenance for JSON, how it was made, for people)."""
    config = build.load_config(options.workdir)
    if options.decay is not None or (options.std in config.ema_stds and options.step is None):
        name = tracked(options, config)
        model, provenance = build.make_model(config), dict(decay=options.decay, std=options.std)
        weights = {f"{name}/{v.path}": v.value for v in model.trainable_variables}
        provenance["step"] = Checkpoints(options.workdir).restore(weights, partial=True)
        check_reach(options, config, name, provenance["step"])
        return model, provenance, f"as the checkpoint of step {provenance['step']} has it"
    step, steps = snapshots_of(options, config)
    saved = saved_averages(options, steps)
    found, steps = match(options, saved, step, steps), sorted({other for other, _ in saved})
    model = combine(options.workdir, config, saved, found.coefficients)
    stds = tuple(sorted({std for _, std in saved}))
    provenance = dict(std=options.std, step=step, tracked=stds, snapshots=steps)
    provenance |= dict(profile_error=found.error, float16_noise=found.noise)
    summary = (
        f"at step {step}, of {len(steps)} snapshot(s) of {shown(stds)}: its profile is met to "
        f"{found.error:.2%}, float16 adds {found.noise:.2%} to the weights"
    )
    return model, provenance, summary


def tracked(options, config):
    """The name of an average in checkpoints."""
    if options.decay is None:
        return PowerFunction(options.std).name
    names = {config.ema_decay: "ema"} | {decay: Exponential(decay).name for decay in config.ema_decays}
    if options.decay not in names:
        raise ValueError(
            f"--decay must be one that the training in {options.workdir} tracked ({shown(names)}), got "
            f"{options.decay}: train with --ema_decays, or take --std."
        )
    return names[options.decay]


def check_reach(options, config, name, step):
    """ValueError where an average that is as the checkpoint of `step` has it began so late that it would be another."""
    history = History.read(build.read_text(options.workdir, FILE), step, config.global_batch_size)
    began = history.began(name)
    average = Exponential(options.decay) if options.std is None else PowerFunction(options.std)
    if average.share_before(began, step) > MOST_BEFORE:
        raise ValueError(
            f"{options.width} reaches before step {began}, at which the training in {options.workdir} began to track "
            f"it: {average.share_before(began, step):.0%} of the average at step {step} would lie there, "
            f"{MOST_BEFORE:.0%} is allowed. Train on, or take a shorter one."
        )


def snapshots_of(options, config):
    """(the step that the average ends at, those of all snapshots up to it)."""
    if not config.ema_stds and options.step is None:
        raise ValueError(
            f"--std needs what a training with --ema_stds=0.05,0.1 leaves; the one in {options.workdir} had none."
        )
    steps = ema_snapshots(options.workdir).steps()
    if not steps:
        raise ValueError(
            f"--std={options.std} needs snapshots, of which {options.workdir} has none: train with "
            f"--ema_snapshot_every, or take a width that was tracked ({shown(config.ema_stds)}) at its newest step."
        )
    step = steps[-1] if options.step is None else options.step
    if step not in steps:
        near = sorted(sorted(steps, key=lambda other: abs(other - step))[:4])
        raise ValueError(f"--step must be that of a snapshot, near it {shown(near)}, got {step}.")
    return step, [other for other in steps if other <= step]


def saved_averages(options, steps):
    """[(step, std), ...] of what the snapshots hold, less what began too late to be an average of all steps."""
    snapshots, saved, began = ema_snapshots(options.workdir), [], 0
    for step in steps:
        config = RunConfig.from_json(snapshots.text_of(step, build.RUN))
        history = History.read(snapshots.text_of(step, FILE), step, config.global_batch_size)
        for std in config.ema_stds:
            average = PowerFunction(std)
            start = history.began(average.name)
            began = max(began, start)
            if average.share_before(start, step) <= MOST_BEFORE:
                saved.append((step, std))
    if not saved:
        raise ValueError(
            f"--std={options.std} reaches before step {began}, at which the training in {options.workdir} began to "
            "track averages: no snapshot so far holds one of all steps. Train on, or take a later --step."
        )
    return saved


def match(options, saved, step, steps):
    (found,) = matches(saved, step, [options.std])
    if not found.good:
        possible = widths(saved, step)
        stds = sorted({std for _, std in saved})
        what = f"from {possible[0]} to {possible[-1]}" if possible else f"of {shown(stds)} alone"
        why = f"its profile would be met to {found.error:.0%} only, {MOST_ERROR:.0%} is asked for"
        if found.error <= MOST_ERROR:
            why = f"rounding would add {found.noise:.1%} to the weights, {MOST_NOISE:.1%} is allowed"
        raise ValueError(
            f"--std={options.std} cannot be made of the {len(steps)} snapshot(s) up to step {step} ({why}): take one "
            f"{what}."
        )
    return found


def combine(workdir, config, saved, coefficients):
    """A model whose weights are the linear combination of what is saved, [(step, std), ...].

    Snapshots are read one after the other; the sums are float64, two more copies of the model."""
    model, snapshots = build.make_model(config), ema_snapshots(workdir)
    sums = {v.path: np.zeros(v.shape) for v in model.trainable_variables}
    shares = {}  # {step: {name of an average: coefficient}}
    for (step, std), coefficient in zip(saved, coefficients, strict=True):
        shares.setdefault(step, {})[PowerFunction(std).name] = coefficient
    length = 2 * len(saved) * sum(total.size for total in sums.values())
    with tqdm.tqdm(total=length, unit="B", unit_scale=True, desc="snapshots", dynamic_ncols=True) as bar:
        for step, share in shares.items():
            parts = ((f"{name}/{path}", total.shape) for name in share for path, total in sums.items())
            specs = {name: tf.TensorSpec(shape, tf.float16) for name, shape in parts}
            try:
                for key, array in snapshots.read(step, specs):
                    name, path = key.split("/", 1)
                    sums[path] += share[name] * array
                    bar.update(array.nbytes)
            except ValueError as error:
                raise ValueError(f"{str(error).rstrip('.')}: without that directory the others are used.") from error
    for variable in model.trainable_variables:
        variable.assign(sums[variable.path])
    return model


def shown(numbers):
    return ", ".join(map(str, numbers))
