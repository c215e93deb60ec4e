"""Checkpoints: one directory per step, written beside its place and renamed into it, so that none is ever half there.

    WORKDIR/checkpoints/00002000/state.index, state.data-00000-of-00001, and texts such as run.json
"""

import dataclasses
import logging
import os
import re

import tensorflow as tf

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"  # how TensorFlow ends the names of variables in its files
_UNREADABLE = (tf.errors.OpError, IndexError, AssertionError, ValueError)  # an IndexError is a file cut short


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    workdir: str
    keep: int = 3  # the newest ones that stay; older ones are deleted

    def __post_init__(self):
        if self.keep < 1:
            raise ValueError(f"--keep_checkpoints must be at least 1, got {self.keep}.")

    @property
    def directory(self):
        return os.path.join(self.workdir, "checkpoints")

    def steps(self):
        """The steps that have a finished checkpoint, ascending."""
        if not tf.io.gfile.isdir(self.directory):
            return []
        names = tf.io.gfile.listdir(self.directory)
        return sorted(int(name.rstrip("/")) for name in names if re.match(r"\d{8}/?$", name))

    def path(self, step):
        return os.path.join(self.directory, f"{step:08d}")

    def save(self, step, state, texts):
        """state: {name: tf.Variable}; texts: {file name: text}, which lie beside the state."""
        for leftover in tf.io.gfile.glob(os.path.join(self.directory, "unfinished-*")):
            tf.io.gfile.rmtree(leftover)
        unfinished = os.path.join(self.directory, f"unfinished-{step:08d}")
        tf.io.gfile.makedirs(unfinished)
        prefix = os.path.join(unfinished, "state")
        tf.train.Checkpoint(state=state).write(prefix)
        if _differences(prefix, state):  # Keras objects drop entries without a word; an explicit dict must not
            raise RuntimeError(f"{prefix} does not hold what was saved: {_differences(prefix, state)}.")
        for name, text in texts.items():
            with tf.io.gfile.GFile(os.path.join(unfinished, name), "w") as file:
                file.write(text)
        if tf.io.gfile.exists(self.path(step)):
            tf.io.gfile.rmtree(self.path(step))
        tf.io.gfile.rename(unfinished, self.path(step))
        for old in self.steps()[: -self.keep]:
            tf.io.gfile.rmtree(self.path(old))

    def restore(self, state, partial=False):
        """Load the newest readable checkpoint into state -> its step, or None where there is no checkpoint at all.

        partial: the state may be a part of what the checkpoint holds. A checkpoint that cannot be read is reported, and
        the one before it is used. ValueError where none can be read, and where a readable one holds other variables.
        """
        failures = []
        for step in reversed(self.steps()):
            prefix = os.path.join(self.path(step), "state")
            try:
                differences = _differences(prefix, state, partial)
                if not differences:
                    tf.train.Checkpoint(state=state).read(prefix).assert_existing_objects_matched().expect_partial()
            except _UNREADABLE as error:
                failures.append(f"{self.path(step)} ({_first_line(error)})")
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

    def read_text(self, name):
        """The text of that name beside the newest checkpoint that has one, or None."""
        for step in reversed(self.steps()):
            path = os.path.join(self.path(step), name)
            if tf.io.gfile.exists(path):
                with tf.io.gfile.GFile(path) as file:
                    return file.read()
        return None


def _differences(prefix, state, partial=False):
    """What keeps a checkpoint file from being that state, or "". Reads names, types and shapes alone."""
    reader = tf.train.load_checkpoint(prefix)
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


def _first_line(error):
    lines = str(getattr(error, "message", error)).strip().splitlines() or ["no message"]
    return lines[0].split("}} ")[-1]  # without TensorFlow's name of the operation
