"""Checkpoints: one directory per step, written beside its place and renamed into it, so that none is ever half there.

    WORKDIR/checkpoints/00002000/state.index, state.data-00000-of-00001, config.json
"""

import dataclasses
import os
import re

import tensorflow as tf
from absl import logging

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    workdir: str
    keep: int = 3  # the newest ones that stay; older ones are deleted

    @property
    def directory(self):
        return os.path.join(self.workdir, "checkpoints")

    def steps(self):
        """The steps that have a finished checkpoint, ascending."""
        if not tf.io.gfile.isdir(self.directory):
            return []
        return sorted(int(name.rstrip("/")) for name in tf.io.gfile.listdir(self.directory) if re.match(r"\d{8}/?$", name))

    def path(self, step):
        return os.path.join(self.directory, f"{step:08d}")

    def save(self, step, state, config):
        """state: {name: tf.Variable}; config: the run's configuration, JSON text that lies beside the state."""
        unfinished = os.path.join(self.directory, f"unfinished-{step:08d}")
        for leftover in (unfinished, self.path(step)):
            if tf.io.gfile.exists(leftover):
                tf.io.gfile.rmtree(leftover)
        tf.io.gfile.makedirs(unfinished)
        prefix = os.path.join(unfinished, "state")
        tf.train.Checkpoint(state=state).write(prefix)
        written = len([name for name, _ in tf.train.list_variables(prefix) if name.endswith("VARIABLE_VALUE")])
        if written != len(state):  # Keras objects drop entries without a word; an explicit dict must not
            raise RuntimeError(f"{prefix} holds {written} of {len(state)} variables.")
        with tf.io.gfile.GFile(os.path.join(unfinished, CONFIG), "w") as file:
            file.write(config)
        tf.io.gfile.rename(unfinished, self.path(step))
        for old in self.steps()[: -self.keep]:
            tf.io.gfile.rmtree(self.path(old))

    def restore(self, state, partial=False):
        """Load the newest readable checkpoint into state -> its step, or None where there is no checkpoint at all.

        partial: the state may be a part of what the checkpoint holds. A checkpoint that cannot be read is reported, and the one before it is used. ValueError where none can be read.
        """
        failures = []
        for step in reversed(self.steps()):
            try:
                reader = tf.train.Checkpoint(state=state).read(os.path.join(self.path(step), "state"))
                reader.assert_existing_objects_matched()
                reader.expect_partial() if partial else reader.assert_consumed()
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                failures.append(f"{self.path(step)} ({_first_line(error)})")
                continue
            if failures:
                logging.warning("Unreadable: %s. Using %s instead.", "; ".join(failures), self.path(step))
            return step
        if failures:
            raise ValueError(f"No checkpoint under {self.directory} can be read: {'; '.join(failures)}.")
        return None

    def read_config(self):
        """The configuration text of the newest checkpoint that has one, or None."""
        for step in reversed(self.steps()):
            path = os.path.join(self.path(step), CONFIG)
            if tf.io.gfile.exists(path):
                with tf.io.gfile.GFile(path) as file:
                    return file.read()
        return None


def _first_line(error):
    return (str(getattr(error, "message", error)).strip().splitlines() or ["no message"])[0]
