"""WORKDIR/metrics.jsonl, always, and TensorBoard where its package is installed."""

import importlib.util
import json
import os

import tensorflow as tf

from dit_tf.runtime.workdir import writing_to

METRICS = "metrics.jsonl"


class MetricsLog:
    """One JSON object a line: {"step": ..., name: value, ...}, steps ascending.

    Opened at the step a run starts from: lines of steps beyond it, written by a run that was killed after its last
    checkpoint, are dropped, since the run will write them again.
    """

    def __init__(self, workdir, start_step):
        self.workdir, self.path = workdir, os.path.join(workdir, METRICS)
        with writing_to(workdir):
            self._drop_after(start_step)
        # TensorFlow 2.21 no longer brings the tensorboard package, and its tf.summary.scalar fails without it.
        self._writer = tf.summary.create_file_writer(workdir) if importlib.util.find_spec("tensorboard") else None

    def write(self, step, values):
        with writing_to(self.workdir):
            with tf.io.gfile.GFile(self.path, "a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            if self._writer is not None:
                with self._writer.as_default(step=step):
                    for name, value in values.items():
                        tf.summary.scalar(name, value)

    def note(self, step, **values):
        """What is no number, once: a line that a run which was killed soon after left is taken for this one's."""
        line = {"step": step, **values}
        if line not in read_metrics(self.workdir):
            with writing_to(self.workdir), tf.io.gfile.GFile(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")

    def picture(self, step, name, path):
        """A PNG file to TensorBoard, where it is installed."""
        if self._writer is None:
            return
        with writing_to(self.workdir), self._writer.as_default(step=step):
            image = tf.io.decode_png(tf.io.read_file(path))
            tf.summary.image(name, image[None])

    def has(self, step, name):
        """Whether a value of that name was written at that step."""
        return any(line["step"] == step and name in line for line in read_metrics(self.workdir))

    def _drop_after(self, step):
        if not tf.io.gfile.exists(self.path):
            return
        kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= step]
        temporary = f"{self.path}.unfinished"
        with tf.io.gfile.GFile(temporary, "w") as file:
            file.write("".join(kept))
        tf.io.gfile.rename(temporary, self.path, overwrite=True)


def read_metrics(workdir):
    """[{"step": ..., name: value, ...}] of a work directory's metrics.jsonl; none where there is no such file."""
    path = os.path.join(workdir, METRICS)
    return list(map(json.loads, _whole_lines(path))) if tf.io.gfile.exists(path) else []


def _whole_lines(path):
    """Without a last line that a killed run left unfinished."""
    with tf.io.gfile.GFile(path) as file:
        return [line for line in file if line.endswith("}\n")]
