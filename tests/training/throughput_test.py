"""What a training logs beside its losses: the loss by quarter of the timestep, rates, and the wait for its input."""

import dataclasses
import json
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build
from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.runtime.metrics_log import MetricsLog
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.training.callbacks import LogMetrics
from dit_tf.training.profile import Profile
from dit_tf.training.quarters import by_quarter, quarter_means
from dit_tf.training.throughput import Span, Throughput
from dit_tf.transport.transport import Transport

_SECONDS = 0.05  # that a batch of the slow input takes


class Known:
    """A process whose row r has the loss 10 r + step, and lies in the first or second quarter; in the fourth too, but
    at steps from 20 on alone, counted from 0. No row is in the third."""

    loss_names = ("loss",)

    def training_losses(self, model_fn, x, seeds):
        untouched = 0.0 * tf.reduce_mean(model_fn(x, tf.zeros(x.shape[:1], tf.int32)), axis=(1, 2, 3))
        return {"loss": 10.0 * tf.cast(seeds.row, tf.float32) + tf.cast(seeds.step, tf.float32) + untouched}

    def quarter(self, seeds):
        return tf.where((seeds.step >= 20) & (seeds.row >= 6), 3, tf.minimum(seeds.row // 3, 1))


@pytest.fixture(scope="module")
def lines(config, batches, tmp_path_factory):
    """The lines of 40 steps in executions of ten and a line for each: the input is fast for 20 steps, then slow."""
    small, workdir = dataclasses.replace(config, model="DiT-8x1x1/4"), tmp_path_factory.mktemp("logged")
    with tf.distribute.OneDeviceStrategy("/CPU:0").scope():
        model = build.make_model(small)
        trainer = build.make_trainer(small, model, stop_step=40, steps_per_execution=10, jit=False)
    trainer.functions.process = Known()

    def slow(step, *batch):
        with tf.control_dependencies([tf.py_function(lambda s: time.sleep(_SECONDS * float(s >= 20)), [step], [])]):
            return tuple(map(tf.identity, batch))

    data = tf.data.Dataset.zip(tf.data.Dataset.counter(), batches().take(1).cache().repeat())
    data = data.map(lambda step, batch: slow(step, *batch)).prefetch(1)
    rates = Throughput(8, 2, 5.0, 1e6)
    log = LogMetrics(10, MetricsLog(str(workdir), 0), rates)
    trainer.fit(data, [Profile(22, 28, str(workdir)), rates, log])
    return [json.loads(line) for line in open(workdir / "metrics.jsonl")], workdir


def test_the_loss_of_each_quarter_is_the_mean_over_the_examples_in_it(lines):
    for i, line in enumerate(lines[0]):
        step = 10 * i + 4.5  # the mean of an execution's steps
        expected = {"loss": 35, "loss_q1": 10, "loss_q2": 50 if i < 2 else 40, "loss_q4": 65}
        if i < 2:
            del expected["loss_q4"]
        found = {name: value - step for name, value in line.items() if name.startswith("loss")}
        assert found == pytest.approx(expected, abs=1e-4)  # float32 sums of some hundreds


def test_a_quarter_without_examples_in_an_execution_changes_no_mean():
    """Two executions: 3 examples of 5 in the last quarter, and none."""
    some = by_quarter(tf.constant([1.0, 2.0, 3.0, 4.0, 6.0]), tf.constant([0, 1, 3, 3, 3]))
    none = by_quarter(tf.constant([9.0, 8.0, 6.0, 6.0, 6.0]), tf.constant([0, 1, 1, 1, 1]))
    means = quarter_means(np.float64(some) + np.float64(none))
    assert means == pytest.approx({"loss_q1": 5.0, "loss_q2": 28 / 5, "loss_q4": 13 / 3}, rel=1e-6)
    assert quarter_means(np.zeros((2, 4))) == {}


@pytest.mark.parametrize("num_timesteps", [1000, 10, 3])
def test_the_quarter_of_a_timestep_is_that_of_the_chain(num_timesteps):
    process = GaussianDiffusion(np.linspace(0.1, 0.5, num_timesteps), variance="fixed_large")
    seeds, seen = RowSeeds(1, tf.range(500), 2), []
    process.training_losses(lambda x, t: seen.append(t.numpy()) or x, tf.zeros((500, 1, 1, 1)), seeds)
    np.testing.assert_array_equal(process.quarter(seeds), np.floor(4 * np.float64(seen[0]) / num_timesteps))
    assert set(process.quarter(seeds).numpy()) == ({0, 1, 2, 3} if num_timesteps > 3 else {0, 1, 2})


@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_the_quarter_of_a_time_is_that_of_the_unit_interval(monkeypatch, times):
    process, seeds, seen = Transport(time_distribution=times), RowSeeds(1, tf.range(500), 2), []
    process.training_losses(lambda x, t: seen.append(t.numpy()) or x, tf.zeros((500, 1, 1, 1)), seeds)
    np.testing.assert_array_equal(process.quarter(seeds), np.floor(4 * np.float64(seen[0])))
    monkeypatch.setattr(Transport, "_training_t", lambda process, seeds: tf.ones(1))
    assert process.quarter(None) == [3]


def test_the_wait_for_the_input_is_measured(lines):
    """Where a batch takes longer to make than a step takes to compute, the devices wait for the rest of the time. In
    the first slow execution there still are batches that were made before."""
    fast, _, slow = lines[0][1:]
    computing = (1 - fast["input_wait_share"]) / fast["steps_per_second"]
    # Other programs run too, and a step is 5 ms of the 50.
    assert slow["input_wait_share"] == pytest.approx(1 - computing * slow["steps_per_second"], abs=0.1)
    assert fast["input_wait_share"] < 0.5 < slow["input_wait_share"]  # fast: 1 ms or so of copying and handing over


def test_rates_follow_from_steps_and_seconds(lines):
    """Eight images a step on what is said to be two replicas, five FLOPs an image, of a million a second."""
    assert "steps_per_second" not in lines[0][0]  # compiling
    for line in lines[0][1:]:
        steps, images = line["steps_per_second"], line["images_per_second"]
        assert images == pytest.approx(8 * steps) and line["images_per_second_per_chip"] == pytest.approx(4 * steps)
        assert line["mfu"] == pytest.approx(images * 5 / 1e6)


def test_a_line_has_the_rates_since_the_line_before_and_no_mfu_without_a_peak():
    rates = Throughput(4, 2, 5.0, None)
    rates.since_line = Span(10, 2.0, 0.5) + Span(10, 3.0, 0.5)
    expected = {"steps_per_second": 4.0, "images_per_second": 16.0, "images_per_second_per_chip": 8.0}
    assert rates.line() == expected | {"input_wait_share": 0.2}
    assert rates.line() == {}


def test_a_trace_of_the_steps_is_written(lines):
    """Of one execution, that of steps 21 to 30, and it names the function that takes the steps."""
    (trace,) = (lines[1] / "profile").rglob("*.xplane.pb")
    assert b"run_steps" in trace.read_bytes()


@pytest.mark.parametrize(
    "resumed_at, traced", [(0, [(40, 60)]), (50, [(50, 60)]), (60, []), (80, [])], ids="from step {}".format
)
def test_executions_that_hold_the_steps_are_traced_and_no_others(monkeypatch, tmp_path, resumed_at, traced):
    """Steps 41 to 55, twenty steps an execution."""
    seen, trainer = [], types.SimpleNamespace(completed_steps=resumed_at)
    trainer.end_of_execution = lambda: trainer.completed_steps // 20 * 20 + 20
    profile = Profile(41, 55, str(tmp_path))
    profile.set_model(trainer)
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda path: seen.append([trainer.completed_steps]))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: seen[-1].append(trainer.completed_steps))
    for _ in range(3):
        profile.on_train_batch_begin(None)
        trainer.completed_steps = trainer.end_of_execution()
        profile.on_train_batch_end(None)
    profile.on_train_end()
    assert list(map(tuple, seen)) == traced


def test_without_a_profiler_one_sentence_says_so(monkeypatch, tmp_path):
    def fail(path):
        raise tf.errors.UnimplementedError(None, None, "no profiler in this build.")

    monkeypatch.setattr(tf.profiler.experimental, "start", fail)
    with pytest.raises(ValueError, match=r"^--profile_steps needs .* \(no profiler in this build\): leave it out\.$"):
        Profile(1, 2, str(tmp_path))
