"""`--profile_steps=100,110`: what the devices and the host do in a few steps, as XProf shows it."""

import os
import sys

import keras
import tensorflow as tf
import tqdm

from dit_tf.runtime.workdir import reason, writing_to


def parse_profile_steps(texts, train_steps):
    """["100", "110"] -> (100, 110), nothing -> None. ValueError where it is no range of steps, or begins behind the
    last step."""
    if not texts:
        return None
    try:
        first, last = map(int, texts)
    except ValueError:
        first, last = 0, 0
    if not 1 <= first <= last:
        raise ValueError(
            f"--profile_steps must be two step numbers FIRST,LAST from 1 on, such as 100,110, got {','.join(texts)!r}."
        )
    if first > train_steps:
        raise ValueError(f"--profile_steps must begin at --train_steps ({train_steps}) at the latest, got {first}.")
    return first, last


class Profile(keras.callbacks.Callback):
    """Traces the executions that hold steps first to last, counted from 1, into WORKDIR/profile.

    A resumed run traces those of the steps that are still to come; where none are, nothing happens.
    """

    def __init__(self, first, last, workdir):
        """ValueError where this TensorFlow has no profiler."""
        super().__init__()
        self.first, self.last, self.workdir = first, last, workdir
        self.directory, self.running = os.path.join(workdir, "profile"), False
        _check_profiler()

    def on_train_batch_begin(self, batch, logs=None):
        step = self.model.completed_steps
        if not self.running and step < self.last and self.model.end_of_execution() >= self.first:
            with writing_to(self.workdir):
                tf.profiler.experimental.start(self.directory)
            self.running, self.began = True, step

    def on_train_batch_end(self, batch, logs=None):
        if self.running and self.model.completed_steps >= self.last:
            self.on_train_end()

    def on_train_end(self, logs=None):
        """Also where training ends in the midst of the steps: what there is of them is written."""
        if not self.running:
            return
        self.running = False
        with writing_to(self.workdir):
            tf.profiler.experimental.stop()
        steps = f"steps {self.began + 1} to {self.model.completed_steps}"
        tqdm.tqdm.write(f"Traced {steps}; package xprof shows them: xprof --logdir={self.directory}", file=sys.stdout)


def _check_profiler():
    try:
        tf.profiler.experimental.start("")
        tf.profiler.experimental.stop(save=False)
    except (AttributeError, ImportError, tf.errors.OpError) as error:
        raise ValueError(
            f"--profile_steps needs TensorFlow's profiler, which cannot be had here ({reason(error)}): leave it out."
        ) from error
