"""Checkpoints: one directory per step, of which none is ever half there, each with the checksums of its files.

    WORKDIR/checkpoints/00002000/state.index, state.data-00000-of-00001, run.json, ..., saved_at.txt, SHA256SUMS

On a local disk a checkpoint is written beside its place and renamed into it. On gs:// a directory cannot be renamed at
once: there it is written in its place, and one without SHA256SUMS, the last file written, is unfinished.
"""

import dataclasses
import logging
import os
import re
import sys
import time

import tensorflow as tf

from dit_tf.runtime.checksums import CHECKSUMS, check_checksums, has_checksums, write_checksums
from dit_tf.runtime.cluster import LOST
from dit_tf.runtime.workdir import is_remote, reason, writing_to

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # how TensorFlow ends the names of variables in its files
_UNREADABLE = (tf.errors.OpError, IndexError, AssertionError, ValueError)  # an IndexError is a file cut short
_UNFINISHED = "unfinished-"
_SAVED_AT = "saved_at.txt"  # Unix seconds; the time of a file does not outlive its copying


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    workdir: str
    keep: int = 3  # the newest ones that stay; older ones are deleted
    keep_hours: float | None = None  # one of every so many hours stays besides, for good; None or 0: none
    folder: str = "checkpoints"  # in the work directory

    def __post_init__(self):
        if self.keep < 1:
            raise ValueError(f"--keep_checkpoints must be at least 1, got {self.keep}.")
        if self.keep_hours is not None and not 0 <= self.keep_hours < float("inf"):
            raise ValueError(f"--keep_checkpoint_hours must be a number from 0 on, got {self.keep_hours}.")

    @property
    def directory(self):
        return os.path.join(self.workdir, self.folder)

    def steps(self):
        """The steps that have a finished checkpoint, ascending."""
        return [step for step in self._places() if self._finished(step)]

    def path(self, step):
        return os.path.join(self.directory, f"{step:08d}")

    def save(self, step, state, texts):
        """state: {name: tf.Variable}; texts: {file name: text}, which lie beside the state.

        Needs room for one more checkpoint than are kept. ValueError where it cannot be written: what was there stays.
        """
        with writing_to(self.workdir):
            self._clear()
            place = self.path(step)
            if is_remote(place):
                self._remove(place)
            target = place if is_remote(place) else os.path.join(self.directory, f"{_UNFINISHED}{step:08d}")
            try:
                tf.io.gfile.makedirs(target)
                _write(target, state, texts)
            except Exception:
                _remove_tree(target)  # gives the room back
                raise
            if target != place:
                self._remove(place)
                tf.io.gfile.rename(target, place)
            for old in self._superfluous(step):
                self._remove(self.path(old))

    def restore(self, state, partial=False):
        """Load the newest readable checkpoint into state -> its step, or None where there is no checkpoint at all.

        partial: the state may be a part of what the checkpoint holds. A checkpoint that cannot be read, or whose files
        are not what they were, is reported, and the one before it is used. ValueError where none can be read, and where
        a readable one holds other variables.
        """
        failures = []
        for step in reversed(self.steps()):
            prefix = os.path.join(self.path(step), "state")
            try:
                check_checksums(self.path(step))
                differences = _differences(prefix, state, partial)
                if not differences:
                    tf.train.Checkpoint(state=state).read(prefix).assert_existing_objects_matched().expect_partial()
            except LOST:
                raise  # the disk does not answer, which says nothing of what lies there
            except _UNREADABLE as error:
                failures.append(f"{self.path(step)} ({reason(error)})")
                continue
            if differences:
                raise ValueError(f"{self.path(step)} holds the state of another model: {differences}.")
            if failures:
                message = f"Unreadable: {'; '.join(failures)}. Using {self.path(step)} instead."
                logging.getLogger(__name__).warning(message)
            return step
        if failures:
            raise ValueError(f"No checkpoint under {self.directory} can be read: {'; '.join(failures)}.")
        return None

    def read(self, step, specs):
        """(name, array) of what was saved at a step, one after the other; specs: {name: tf.TensorSpec} of all or some
        of it. ValueError where it holds other variables, or is damaged (each array has its checksum)."""
        prefix = os.path.join(self.path(step), "state")
        try:
            differences = _differences(prefix, specs, partial=True)
            if differences:
                raise ValueError(f"it holds other variables: {differences}")
            reader = tf.compat.v1.train.NewCheckpointReader(prefix)
            keys = {_name(key): key for key in reader.get_variable_to_shape_map() if key.endswith(_VALUE)}
            for name in specs:
                yield name, reader.get_tensor(keys[name])
        except LOST:
            raise
        except _UNREADABLE as error:
            raise ValueError(f"{self.path(step)} cannot be read: {reason(error)}.") from error

    def text_of(self, step, name):
        """The text of that name beside the checkpoint of a step, or None. `restore` has looked at its checksum."""
        path = os.path.join(self.path(step), name)
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path) as file:
            return file.read()

    def read_text(self, name):
        """The text of that name beside the newest checkpoint that has one as it was written, or None."""
        for step in reversed(self.steps()):
            path = os.path.join(self.path(step), name)
            if tf.io.gfile.exists(path):
                try:
                    check_checksums(self.path(step), only=name)
                except LOST:
                    raise
                except _UNREADABLE:
                    continue  # `restore` will report it
                with tf.io.gfile.GFile(path) as file:
                    return file.read()
        return None

    def _places(self):
        if not tf.io.gfile.isdir(self.directory):
            return []
        names = tf.io.gfile.listdir(self.directory)
        return sorted(int(name.rstrip("/")) for name in names if re.match(r"\d{8}/?$", name))

    def _finished(self, step):
        return not is_remote(self.directory) or has_checksums(self.path(step))

    def _clear(self):
        """Remove what interrupted saves and deletions left."""
        for leftover in tf.io.gfile.glob(os.path.join(self.directory, f"{_UNFINISHED}*")):
            tf.io.gfile.rmtree(leftover)
        for step in self._places():
            if not self._finished(step):
                tf.io.gfile.rmtree(self.path(step))

    def _remove(self, path):
        """Delete a checkpoint, if it is there, so that half of it is never taken for one."""
        if not tf.io.gfile.exists(path):
            return
        if is_remote(path):
            if has_checksums(path):
                tf.io.gfile.remove(os.path.join(path, CHECKSUMS))
        else:
            aside = os.path.join(self.directory, f"{_UNFINISHED}deletion-{os.path.basename(path)}")
            tf.io.gfile.rename(path, aside)
            path = aside
        tf.io.gfile.rmtree(path)

    def _superfluous(self, newest):
        """The steps whose checkpoints need not stay. Those beyond the newest could not be read when this run began:
        they count for nothing, and are replaced when it gets there."""
        steps = [step for step in self.steps() if step <= newest]
        stay = set(steps[-self.keep :])
        if self.keep_hours:
            stay |= spaced({step: _saved_at(self.path(step)) for step in steps}, self.keep_hours * 3600)
        return [step for step in steps if step not in stay]


def ema_snapshots(workdir):
    """Averages of many steps of a training, beside its checkpoints; all of them stay."""
    return Checkpoints(workdir, keep=sys.maxsize, folder="ema")


def spaced(times, interval):
    """{step: time} -> the steps of which each is at least an interval later than the one before it, from the first."""
    chosen = []
    for step in sorted(times):
        if not chosen or times[step] - times[chosen[-1]] >= interval:
            chosen.append(step)
    return set(chosen)


def _write(directory, state, texts):
    prefix = os.path.join(directory, "state")
    tf.train.Checkpoint(state=state).write(prefix)
    if _differences(prefix, state):  # Keras objects drop entries without a word; an explicit dict must not
        raise RuntimeError(f"{prefix} does not hold what was saved: {_differences(prefix, state)}.")
    for name, text in {**texts, _SAVED_AT: f"{time.time():.0f}\n"}.items():
        with tf.io.gfile.GFile(os.path.join(directory, name), "w") as file:
            file.write(text)
    write_checksums(directory)


def _saved_at(directory):
    """When a checkpoint was saved, in Unix seconds; where that cannot be read, as in older ones, the time of a file."""
    try:
        with tf.io.gfile.GFile(os.path.join(directory, _SAVED_AT)) as file:
            return float(file.read())
    except (tf.errors.NotFoundError, ValueError):
        return tf.io.gfile.stat(directory).mtime_nsec / 1e9


def _remove_tree(path):
    try:
        tf.io.gfile.rmtree(path)
    except tf.errors.OpError:
        pass  # the next save tries again


def _differences(prefix, state, partial=False):
    """What keeps a checkpoint file from being that state, or "". Reads names, types and shapes alone."""
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)  # tf.train.load_checkpoint would guess at directories
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    there = {_name(key): f"{dtypes[key].name} {shapes[key]}" for key in shapes if key.endswith(_VALUE)}
    here = {name: f"{v.dtype.name} {v.shape.as_list()}" for name, v in state.items()}
    found = [
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in (here if partial else here | there)
        if there.get(name) != here.get(name)
    ]
    return "; ".join(found[:3]) + (f"; {len(found) - 3} more" if len(found) > 3 else "")


def _name(key):
    """The name of an entry of the state, from its key in TensorFlow's file, where "." is ".." and "/" is ".S"."""
    return re.sub(r"\.([.S])", lambda m: "/" if m[1] == "S" else ".", key.removeprefix("state/").removesuffix(_VALUE))
