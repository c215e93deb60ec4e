"""Steps whose loss or gradient is not finite: not applied, counted, located, and too many in a row end the run."""

import dataclasses
import functools
import io
import json

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build
from dit_tf.runtime.metrics_log import MetricsLog
from dit_tf.training import callbacks
from dit_tf.training.optimizer import AdamW
from dit_tf.training.throughput import Throughput
from dit_tf.training.train_step import State, TrainStep


class Spoilt:
    """A process whose loss is not finite at the steps in `bad_steps`, counted from 1; 0 is none."""

    def __init__(self, process):
        self.process, self.bad_steps = process, tf.Variable([0] * 5)
        self.loss_names = process.loss_names

    def training_losses(self, model_fn, x, seeds):
        bad = tf.reduce_any(tf.equal(seeds.step + 1, self.bad_steps))
        terms = self.process.training_losses(model_fn, x, seeds)
        return terms | {"loss": terms["loss"] * tf.where(bad, np.nan, 1.0)}

    def quarter(self, seeds):
        return self.process.quarter(seeds)


@pytest.fixture(scope="module")
def make(config, awaken):
    """make(bad_steps, stop_step, steps_per_execution, max_bad_steps) -> a trainer at its beginning; those of one
    max_bad_steps are one trainer, which is traced once."""

    @functools.cache
    def traced(max_bad_steps):
        small = dataclasses.replace(config, model="DiT-8x1x1/4")
        with tf.distribute.OneDeviceStrategy("/CPU:0").scope():
            model = build.make_model(small)
            made = build.make_trainer(small, model, stop_step=0, jit=False, max_bad_steps=max_bad_steps)
        made.functions.process = Spoilt(made.functions.process)
        return made

    def trainer(bad_steps, stop_step=6, steps_per_execution=1, max_bad_steps=10):
        made = traced(max_bad_steps)
        for variable in made.checkpoint_state().values():
            variable.assign(tf.zeros_like(variable))
        awaken(made)
        made.stop_step, made.steps_per_execution = stop_step, steps_per_execution
        made.functions.process.bad_steps.assign(np.resize([*bad_steps, 0], 5))
        return made

    return trainer


@pytest.fixture(scope="module")
def stepwise(make, batches, fit):
    """[(logs, state)] step by step, with steps 3 and 4 of 6 bad."""
    return fit(make([3, 4]), batches())


def test_a_bad_step_changes_the_step_alone(stepwise):
    before, bad, worse, after = (state for _, state in stepwise[1:5])
    for state, step in ((bad, 3), (worse, 4)):
        for name in before:
            np.testing.assert_array_equal(state[name], step if name == "step" else before[name], err_msg=name)
    assert all(np.isfinite(value).all() for value in after.values())
    assert all((after[name] != before[name]).any() for name in before if name.startswith(("params/", "ema/")))


def test_bad_steps_are_counted_and_located(stepwise):
    assert [logs["bad_steps"] for logs, _ in stepwise] == [0, 0, 1, 1, 0, 0]
    assert [logs["first_bad_step"] for logs, _ in stepwise] == [0, 0, 3, 4, 0, 0]
    assert all(np.isfinite(logs["loss"]) == (logs["bad_steps"] == 0) for logs, _ in stepwise)


def test_steps_per_execution_change_nothing_and_means_leave_bad_steps_out(make, batches, fit, stepwise):
    trainer = make([3, 4], steps_per_execution=6)
    ((logs, state),) = fit(trainer, batches())
    for name, value in stepwise[-1][1].items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert (logs["bad_steps"], logs["first_bad_step"]) == (2, 3)
    for name in ("loss", "grad_norm"):
        # A mean of four float32 numbers.
        np.testing.assert_allclose(logs[name], np.mean([stepwise[i][0][name] for i in (0, 1, 4, 5)]), rtol=1e-6)
    assert trainer.num_traces == 1


@pytest.mark.parametrize("steps_per_execution", [1, 4, 10])
def test_too_many_in_a_row_stop_the_run_at_the_last_of_them(make, batches, steps_per_execution):
    """Two and then three: the second row is too long, wherever executions end. The bar is closed all the same."""
    trainer = make([1, 2, 4, 5, 6], stop_step=10, steps_per_execution=steps_per_execution, max_bad_steps=3)
    progress = callbacks.ProgressBar(Throughput(8, 1, 1.0, 1.0))
    with pytest.raises(ValueError, match="3 steps in a row was not finite, from step 4 on.*--clip_norm=1"):
        trainer.fit(batches(), [progress])
    assert progress.bar.disable  # what tqdm is when it is closed
    assert trainer.current_step() == trainer.completed_steps == 6


def test_a_line_of_metrics_and_one_to_stderr_tell_of_bad_steps(make, batches, tmp_path, monkeypatch):
    trainer, stderr = make([3, 4], steps_per_execution=2), io.StringIO()
    monkeypatch.setattr(callbacks.sys, "stderr", stderr)
    rates = Throughput(8, 1, 1.0, 1.0)
    trainer.fit(
        batches(), [rates, callbacks.ReportBadSteps(), callbacks.LogMetrics(2, MetricsLog(str(tmp_path), 0), rates)]
    )
    lines = [json.loads(line) for line in open(tmp_path / "metrics.jsonl")]
    assert ["bad_steps" in line for line in lines] == ["loss" not in line for line in lines] == [False, True, False]
    assert (lines[1]["bad_steps"], lines[1]["first_bad_step"]) == (2, 3)
    assert stderr.getvalue() == "2 step(s) up to 4 not applied: loss or gradient not finite, first at step 3.\n"


@pytest.mark.parametrize("loss, gradient, applied", [(1.0, 1.0, True), (np.inf, 1.0, False), (1.0, np.inf, False)])
def test_loss_and_gradient_must_both_be_finite(loss, gradient, applied):
    step, ones = TrainStep(None, None, None, None, AdamW(), 0.9, clip_norm=1.0), [tf.ones(2)]
    new, _ = step.update(State(*[ones] * 4), {"loss": tf.constant(loss)}, [tf.constant([0.5, gradient])], 1)
    for value in tf.nest.flatten(new):
        assert np.isfinite(value).all() and (value.numpy() != 1.0).all() == applied
