"""What is written is the state at the time of the call, one save at a time; a failure is heard of."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.background_saver import BackgroundSaver
from dit_tf.runtime.checkpoint import Checkpoints


class Slow(Checkpoints):
    """Saves that wait for `go`, and may fail."""

    go, failing, running = threading.Event(), False, 0

    def save(self, step, state, texts):
        Slow.running += 1
        assert Slow.running == 1 and Slow.go.wait(10)
        Slow.running -= 1
        if Slow.failing:
            raise ValueError("the disk is full")
        super().save(step, state, texts)


@pytest.fixture
def slow(tmp_path, monkeypatch):
    monkeypatch.setattr(Slow, "go", threading.Event())
    monkeypatch.setattr(Slow, "failing", False)
    monkeypatch.setattr(Slow, "running", 0)
    return Slow(str(tmp_path))


@pytest.mark.parametrize("strategy", ["one", "mirrored"])
def test_the_state_is_that_of_the_call(slow, strategy):
    devices = {"one": ["CPU:0"], "mirrored": ["CPU:0", "CPU:1"]}[strategy]
    with tf.distribute.MirroredStrategy(devices).scope(), BackgroundSaver(slow) as saver:
        state = {"w": tf.Variable(np.arange(1000.0)), "step": tf.Variable(10)}
        saver.save(10, state, {"run.json": "text"})
        for variable in state.values():
            variable.assign(variable * 0)
        assert slow.steps() == []
        Slow.go.set()
        saver.wait()
        assert slow.restore(state) == 10
        assert state["step"].numpy() == 10
        np.testing.assert_array_equal(state["w"].numpy(), np.arange(1000.0))
    assert slow.read_text("run.json") == "text"


def test_the_next_save_waits_for_the_one_before(slow):
    with BackgroundSaver(slow) as saver:
        for step in (1, 2, 3):  # `Slow` counts those that run at once
            threading.Timer(0.05, Slow.go.set).start()
            saver.save(step, {"step": tf.Variable(step)}, {})
    assert slow.steps() == [1, 2, 3]


def test_the_end_of_the_context_waits_even_after_an_error(slow):
    with pytest.raises(KeyboardInterrupt), BackgroundSaver(slow) as saver:
        saver.save(5, {"step": tf.Variable(5)}, {})
        threading.Timer(0.1, Slow.go.set).start()
        raise KeyboardInterrupt
    assert slow.steps() == [5]


def test_a_failure_is_raised_once_and_the_step_can_be_saved_again(slow):
    Slow.failing = True
    Slow.go.set()
    with BackgroundSaver(slow) as saver:
        saver.save(1, {"step": tf.Variable(1)}, {})
        with pytest.raises(ValueError, match="the disk is full"):
            saver.save(2, {"step": tf.Variable(2)}, {})
        saver.wait()
        Slow.failing = False
        saver.save(1, {"step": tf.Variable(1)}, {})
    assert slow.steps() == [1]


def test_neither_the_first_step_nor_one_just_saved_is_saved(slow):
    Slow.go.set()
    with BackgroundSaver(slow, start=20) as saver:
        saver.save(20, {"step": tf.Variable(20)}, {})
        saver.save(30, {"step": tf.Variable(30)}, {})
        saver.save(30, {"step": tf.Variable(-1)}, {})
    step = {"step": tf.Variable(0)}
    assert (slow.steps(), slow.restore(step), step["step"].numpy()) == ([30], 30, 30)
