"""What a training adds to its compiled step: `fit` on digits, with the bar, the log and the input, beside the same step
in one loop of the graph on one batch.

    python benchmarks/host_overhead.py

By the recipe of launch/flags/digits.flags. A turn is --executions executions of --steps_per_execution steps of either
kind, one after the other; what counts is the median turn, and for the overhead the median of the ratios within a turn.
Reading and decoding use the same cores as the step where that runs on a CPU, and are part of the overhead, except with
--noread. Where other programs want the same cores, the seconds of CPU time say more than those of the clock.
"""

import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from machine import print_machine

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.data.pipeline import open_dataset, training_batches
from dit_tf.flags import run
from dit_tf.models.costs import training_flops
from dit_tf.runtime.distribution import make_strategy
from dit_tf.runtime.metrics_log import MetricsLog
from dit_tf.training import callbacks
from dit_tf.training.throughput import Throughput


def define_flags(values):
    flags.DEFINE_string("model", "DiT-Ti/2", "As of train.", flag_values=values)
    flags.DEFINE_integer("global_batch_size", 64, "Examples per step.", flag_values=values)
    flags.DEFINE_integer("steps_per_execution", 50, "Steps per call of the compiled function.", flag_values=values)
    flags.DEFINE_bool(
        "read", True, "Read and decode batches, in place of one batch again and again.", flag_values=values
    )
    flags.DEFINE_integer("executions", 2, "Of a turn.", flag_values=values)
    flags.DEFINE_integer("turns", 5, "Of each kind.", flag_values=values)


class Turns(keras.callbacks.Callback):
    """Inside `fit`, after each turn of it, a turn of the step alone. seconds: (turns, 2, 2), of fit and of the step
    alone, by the clock and of the CPU."""

    def __init__(self, steps, alone):
        super().__init__()
        self.steps, self.alone, self.seconds, self.began = steps, alone, [], None

    def on_train_batch_end(self, batch, logs=None):
        if self.model.completed_steps == self.model.steps_per_execution:
            self.alone()  # both are compiled now
        elif (self.model.completed_steps - self.model.steps_per_execution) % self.steps:
            return
        else:
            fit, began = now() - self.began, now()
            self.alone()
            self.seconds.append((fit, now() - began))
        self.began = now()


def now():
    return np.array([time.perf_counter(), time.process_time()])


def main(options):
    if min(options.steps_per_execution, options.executions, options.turns, options.global_batch_size) < 1:
        raise ValueError("--global_batch_size, --steps_per_execution, --executions and --turns must be at least 1.")
    print_machine()
    source, strategy, spe = open_dataset("digits"), make_strategy(), options.steps_per_execution
    config = RunConfig(model=options.model, global_batch_size=options.global_batch_size, image_size=8, channels=1)
    steps = options.executions * spe
    with strategy.scope():
        model = build.make_model(config)
        trainer = build.make_trainer(
            config, model, stop_step=spe + options.turns * steps, steps_per_execution=options.steps_per_execution
        )
    batches = training_batches(
        source, "train", image_size=8, seed=0, first=0, horizontal_flip=False,
        global_batch_size=options.global_batch_size,
    )  # fmt: skip
    (batch,) = strategy.experimental_distribute_dataset(batches.take(1))

    @tf.function(autograph=False)
    def loop(batch):
        """Each step waits for the loss of the one before it, as in training."""

        def body(i, loss):
            logs = strategy.run(trainer.train_step, args=(batch,))
            return i + 1, strategy.experimental_local_results(logs["loss"])[0]

        return tf.while_loop(lambda i, loss: (i < steps) & (loss < 1e9), body, (0, tf.constant(0.0)))[1]

    rates = Throughput(config.global_batch_size, 1, training_flops(model, 1), None)
    turns = Turns(steps, lambda: float(loop(batch)))
    with tempfile.TemporaryDirectory() as workdir:
        log = callbacks.LogMetrics(spe, MetricsLog(workdir, 0), rates)
        input_of_fit = batches if options.read else batches.take(1).cache().repeat()
        trainer.fit(input_of_fit, [rates, callbacks.ProgressBar(rates), callbacks.ReportBadSteps(), log, turns])
    report(options, turns.seconds, steps, rates.rates(rates.latest)["input_wait_share"], trainer.num_traces)


def report(options, seconds, steps, wait, traces):
    def milliseconds(values):
        return f"{np.median(values) / steps * 1e3:.3f} ({np.min(values) / steps * 1e3:.3f} at the least)"

    print(
        f"{options.model}, batches of {options.global_batch_size}, {options.steps_per_execution} steps an execution, "
        f"{'batches read' if options.read else 'one batch'}"
    )
    for name, (fit, alone) in zip(("by the clock", "of the CPU"), np.transpose(seconds, (2, 1, 0))):
        overhead, fastest = np.median(fit / alone - 1), fit.min() / alone.min() - 1
        print(f"{name}, ms a step in fit: {milliseconds(fit)}; of the step alone: {milliseconds(alone)}")
        print(f"{name}, overhead: {overhead:.1%} in the median, {fastest:.1%} between the fastest turns")
    print(f"input wait of the last execution: {wait:.1%}; compilations of the train function: {traces}")


if __name__ == "__main__":
    run(main, define_flags, resumes=False)
