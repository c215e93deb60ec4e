"""What happens between executions of the train function: progress, metrics, checkpoints, pictures.

Each callback fires at the first execution boundary at or after a multiple of its `every` steps.
"""

import sys

import keras
import numpy as np
import tqdm

from dit_tf.runtime.preemption import Preempted
from dit_tf.training.quarters import quarter_means

_COUNTS = ("steps", "bad_steps", "first_bad_step", "waited")  # in the logs beside the means


class _Every(keras.callbacks.Callback):
    """Calls `fire(step, logs)` whenever a multiple of `every` steps has been passed, and at the end; 0 means never."""

    def __init__(self, every):
        super().__init__()
        self.every = every

    def on_train_begin(self, logs=None):
        self.fired_at = self.model.completed_steps

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.completed_steps
        due = self.every and step // self.every > self.fired_at // self.every
        if due or (self.every and step == self.model.stop_step):
            self.fired_at = step
            self.fire(step, logs)


class ProgressBar(keras.callbacks.Callback):
    def __init__(self, throughput):
        super().__init__()
        self.throughput, self.bar = throughput, None

    def on_train_begin(self, logs=None):
        first, total = self.model.completed_steps, self.model.stop_step
        self.bar = tqdm.tqdm(
            total=total, initial=first, unit="step", desc="compiling", dynamic_ncols=True, mininterval=1
        )

    def on_train_batch_end(self, batch, logs=None):
        rates = self.throughput.rates(self.throughput.latest)
        shown = {"loss": f"{float(logs['loss']):.4f}"}
        if rates:
            shown |= {"images/s": f"{rates['images_per_second']:.0f}", "input wait": f"{rates['input_wait_share']:.0%}"}
        if "mfu" in rates:
            shown |= {"MFU": f"{rates['mfu']:.0%}"}
        self.bar.set_description("training", refresh=False)
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(self.model.completed_steps - self.bar.n)

    def on_train_end(self, logs=None):
        if self.bar is not None:
            self.bar.close()


class ReportBadSteps(keras.callbacks.Callback):
    """A line to stderr after an execution in which steps were not applied, because they were not finite."""

    def on_train_batch_end(self, batch, logs=None):
        if logs["bad_steps"]:
            step, count, first = self.model.completed_steps, int(logs["bad_steps"]), int(logs["first_bad_step"])
            message = f"{count} step(s) up to {step} not applied: loss or gradient not finite, first at step {first}."
            tqdm.tqdm.write(message, file=sys.stderr)


class LogMetrics(_Every):
    """The means over the steps since the last line, with rates where they are known, to a `MetricsLog`. Steps that were
    not applied are not in the means: how many they were, and which was the first, stands beside them where there are
    any."""

    def __init__(self, every, metrics_log, throughput):
        super().__init__(every)
        self.metrics_log, self.throughput = metrics_log, throughput
        self._begin()

    def _begin(self):
        self.sums, self.good_steps, self.bad_steps, self.first_bad_step = {}, 0, 0, 0

    def on_train_batch_end(self, batch, logs=None):
        self.first_bad_step = self.first_bad_step or int(logs["first_bad_step"])
        self.bad_steps += int(logs["bad_steps"])
        good_steps = int(logs["steps"]) - int(logs["bad_steps"])
        if good_steps:
            means = {name: np.float64(value) for name, value in logs.items() if name not in _COUNTS}
            self.sums = {name: self.sums.get(name, 0.0) + good_steps * mean for name, mean in means.items()}
            self.good_steps += good_steps
        super().on_train_batch_end(batch, logs)

    def fire(self, step, logs):
        quarters = quarter_means(self.sums.pop("quarters", ()))
        values = {name: float(value / self.good_steps) for name, value in self.sums.items()} | quarters
        if self.bad_steps:
            values |= {"bad_steps": self.bad_steps, "first_bad_step": self.first_bad_step}
        self.metrics_log.write(step, values | self.throughput.line())
        self._begin()


class SaveCheckpoint(_Every):
    def __init__(self, every, save):
        super().__init__(every)
        self.save = save

    def fire(self, step, logs):
        self.save(step)


class SaveSnapshots(SaveCheckpoint):
    """save(step) writes what a later checkpoint does not hold any more, so none may be missing."""

    def catch_up(self, step, stop_step, saved):
        """The snapshot of the step that training resumes from, where a run was killed before it was there; saved: the
        steps of those that are."""
        due = self.every and step and (step % self.every == 0 or step == stop_step)
        if due and step not in saved:
            self.fire(step, None)


class StopWhenAsked(keras.callbacks.Callback):
    """Ends the training at the boundary after a `StopRequest`, before whatever the callbacks behind this one would do.

    Where several hosts train together, a request to one of them ends all at the same boundary. Raises `Preempted`, or
    after Ctrl-C KeyboardInterrupt.
    """

    def __init__(self, request, hosts):
        super().__init__()
        self.request, self.hosts = request, hosts

    def on_train_begin(self, logs=None):
        try:
            self.request.check(self.hosts.gather)
        except (Preempted, KeyboardInterrupt):
            self.hosts.part()
            raise

    def on_train_batch_end(self, batch, logs=None):
        self.on_train_begin()


class DrawSamples(_Every):
    """draw(step) writes a picture of samples from the averaged weights."""

    def __init__(self, every, draw):
        super().__init__(every)
        self.draw = draw

    def fire(self, step, logs):
        self.draw(step)


class Evaluate(_Every):
    """evaluate(step) -> {name: number} of the averaged weights, to a `MetricsLog`; title: one of the names."""

    def __init__(self, every, evaluate, title, metrics_log):
        super().__init__(every)
        self.evaluate, self.title, self.metrics_log = evaluate, title, metrics_log

    def fire(self, step, logs):
        self.metrics_log.write(step, self.evaluate(step))

    def catch_up(self, step, stop_step):
        """The evaluation at the step that training resumes from, where a run was killed in the midst of it."""
        due = self.every and step and (step % self.every == 0 or step == stop_step)
        if due and not self.metrics_log.has(step, self.title):
            self.fire(step, None)
