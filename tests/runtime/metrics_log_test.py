"""metrics.jsonl reads as if the run had never been killed."""

import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.metrics_log import MetricsLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_object_a_line_with_its_step(tmp_path):
    log = MetricsLog(str(tmp_path), 0)
    log.write(10, {"loss": 0.1, "images_per_second": 300})
    log.write(20, {"loss": 1 / 3})
    assert lines(tmp_path) == [{"step": 10, "loss": 0.1, "images_per_second": 300}, {"step": 20, "loss": 1 / 3}]


@pytest.mark.parametrize("torn", ["", '{"step": 40, "lo', '{"step": 40, "loss": 0.1}'])
def test_a_resumed_run_drops_what_it_will_write_again_and_what_was_torn(tmp_path, torn):
    log = MetricsLog(str(tmp_path), 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 100})
    with open(log.path, "a") as file:
        file.write(torn)
    resumed = MetricsLog(str(tmp_path), 20)
    assert lines(tmp_path) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.2}]
    resumed.write(30, {"loss": 0.5})
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert lines(tmp_path)[-1]["loss"] == 0.5
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("metrics")] == ["metrics.jsonl"]


def test_a_fresh_run_starts_an_empty_log(tmp_path):
    MetricsLog(str(tmp_path), 0).write(10, {"loss": 1.0})
    MetricsLog(str(tmp_path), 0)
    assert lines(tmp_path) == []


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="TensorBoard is not installed")
def test_tensorboard_gets_the_same_numbers(tmp_path):
    log = MetricsLog(str(tmp_path), 0)
    log.write(10, {"loss": 0.25})
    log.write(20, {"loss": 0.125})
    picture = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    (tmp_path / "picture.png").write_bytes(tf.io.encode_png(picture).numpy())
    log.picture(20, "samples", str(tmp_path / "picture.png"))
    (events,) = tmp_path.glob("events.out.tfevents.*")
    found = {
        (event.step, value.tag): tf.make_ndarray(value.tensor)
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    _, _, shown = found.pop((20, "samples"))  # width, height, PNG
    np.testing.assert_array_equal(tf.io.decode_png(shown), picture)
    assert found == {(10, "loss"): 0.25, (20, "loss"): 0.125}


def test_without_tensorboard_the_log_is_the_same(tmp_path, monkeypatch):
    """As TensorFlow 2.21 comes: tf.summary.scalar is there, and fails."""

    def fail(*args, **kwargs):
        raise NotImplementedError

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find_spec(name))
    monkeypatch.setattr(tf.summary, "scalar", fail)
    MetricsLog(str(tmp_path), 0).write(10, {"loss": 0.25})
    assert lines(tmp_path) == [{"step": 10, "loss": 0.25}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
