"""Saves that training does not wait for: the state is copied to this host, and a thread writes it."""

import concurrent.futures

import numpy as np
import tensorflow as tf


class BackgroundSaver:
    """One save is under way at most; the next one waits for it. Meanwhile the host holds a copy of the state.

    What is not finite is not written. What goes wrong in the thread is raised by the next `save` or `wait`. A context
    ends when nothing is under way.
    """

    def __init__(self, checkpoints, start=0, dtype=None):
        """start: the step that training begins at, which needs no saving; None where it does. dtype: what variables
        are rounded to; None: saved as they are."""
        self._checkpoints, self._step, self._pending, self._dtype = checkpoints, start, None, dtype
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._thread.shutdown()

    def save(self, step, state, texts):
        """As `Checkpoints.save`. The step that was saved last is not saved again."""
        self.wait()
        if step != self._step:
            copies = {name: self._copy(variable) for name, variable in state.items()}
            self._pending, self._step = self._thread.submit(self._write, step, copies, texts), step

    def wait(self):
        """Until nothing is under way. An interrupt ends the waiting alone."""
        if self._pending is None:
            return
        concurrent.futures.wait([self._pending])
        pending, self._pending = self._pending, None
        if pending.exception() is not None:
            self._step = None
        pending.result()

    def _copy(self, variable):
        return variable.numpy() if self._dtype is None else variable.numpy().astype(self._dtype)

    def _write(self, step, copies, texts):
        for name, value in copies.items():
            if not np.isfinite(value).all():
                raise ValueError(
                    f"What the training holds after step {step} is not finite (the first is {name}): no checkpoint was "
                    "written of it, and those of earlier steps stay. Go on from the newest of them with "
                    "--resume_with=learning_rate and a lower --learning_rate, or with --resume_with=clip_norm."
                )
        with tf.device("/CPU:0"):
            self._checkpoints.save(step, {name: tf.Variable(value) for name, value in copies.items()}, texts)
