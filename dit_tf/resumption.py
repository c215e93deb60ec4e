"""Whether a work directory belongs to the training that a command asks for, and what may differ on purpose."""

import dataclasses
import os

from dit_tf import build
from dit_tf.config import RESUMABLE, RunConfig, kind_of
from dit_tf.data.class_names import ClassTable
from dit_tf.train_history import FILE, History, averages_of


def check_names(names):
    for name in names or ():
        if name not in RESUMABLE:
            raise ValueError(f"--resume_with must name some of {', '.join(RESUMABLE)}, got {name!r}.")


def stored_config(checkpoints):
    """The RunConfig of the newest checkpoint, None where there is none."""
    text = checkpoints.read_text(build.RUN)
    if text is None:
        return None
    try:
        return RunConfig.from_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--workdir={checkpoints.workdir} has no configuration that can be read: {error}") from error


def check_same_run(config, classes, checkpoints, resume_with=(), allow_new_data=False):
    """ValueError where the work directory belongs to a training of another configuration, of other classes or data.

    resume_with: names of fields that are meant to differ, see `RESUMABLE`; allow_new_data: the data may too.
    """
    stored, workdir = stored_config(checkpoints), checkpoints.workdir
    if stored is None:
        return
    text = checkpoints.read_text(build.CLASSES)
    difference = text is not None and classes.difference(ClassTable.from_json(text))
    if difference:
        raise ValueError(
            f"--workdir={workdir} holds a run of other classes ({difference}): its labels would mean something else. "
            "Give the data with their old classes, or choose another --workdir (and --init_from)."
        )
    if not allow_new_data:
        _check_data(config, stored, workdir)
    wanted = _comparable(config, stored, resume_with, allow_new_data)
    differences = wanted.differences(stored)
    if differences:
        names = [name for name in wanted.changed(stored) if name in RESUMABLE]
        hint = f"; to go on with another, add --resume_with={','.join(names)}" if names else ""
        raise ValueError(
            f"--workdir={workdir} holds a run of another configuration ({'; '.join(differences)}): repeat "
            f"its flags to resume it, or choose another --workdir{hint}."
        )


def _check_data(config, stored, workdir):
    if stored.data_digest and stored.data_digest != config.data_digest:
        raise ValueError(
            f"--workdir={workdir} holds a run on other data: what --dataset={config.dataset} holds is not what it was "
            f"(SHA-256 {config.data_digest[:16]}... here, {stored.data_digest[:16]}... there). Restore the data, or go "
            "on with the new ones with --allow_new_data."
        )
    here, there = (os.path.realpath(os.path.expanduser(c.dataset.split(":", 1)[-1])) for c in (config, stored))
    if not stored.data_digest and kind_of(config.dataset) != config.dataset and here != there:
        raise ValueError(
            f"--workdir={workdir} holds a run of version 0.1.0 on --dataset={stored.dataset}, which did not record "
            f"what that held: if it is now {config.dataset}, say so with --allow_new_data."
        )


def _comparable(config, stored, resume_with, allow_new_data):
    """The configuration, with what may differ as it was: where the data lie, which is no part of what they are, and
    what was asked for."""
    free = ["data_digest", *(resume_with or ())]
    if allow_new_data or kind_of(config.dataset) == kind_of(stored.dataset):
        free.append("dataset")
    if allow_new_data:
        free += ["split", "folder_reading"]
    return dataclasses.replace(config, **{name: getattr(stored, name) for name in free})


def on_purpose(config, stored):
    """The names of the fields in which a run that goes on is to differ from what it was."""
    names = config.changed(stored)
    if not stored.data_digest or stored.data_digest == config.data_digest:  # at most they have moved
        names = [name for name in names if name not in ("data_digest", "dataset")]
    return names


def resume(config, checkpoints, trainer):
    """Bring the trainer to where its newest checkpoint is -> (that step, the `History` from there on)."""
    state, newest = trainer.checkpoint_state(), stored_config(checkpoints)
    late = averages_of(config) - averages_of(newest) if newest else set()
    there = {name: value for name, value in state.items() if name.split("/")[0] not in late}
    others = newest is not None and averages_of(config) != averages_of(newest)
    start = checkpoints.restore(there, partial=others)
    if start is None:
        return 0, History(0, 0, config.global_batch_size)
    trainer.begin_averages(late)
    stored = RunConfig.from_json(checkpoints.text_of(start, build.RUN))
    history = History.read(checkpoints.text_of(start, FILE), start, stored.global_batch_size)
    if not stored.data_digest:
        print(f"Version 0.1.0 did not record the data of this run: from here on it is what {config.dataset} holds now.")
    return start, history.changed(stored, config, on_purpose(config, stored))
