"""Which checkpoints stay: the newest, and one of every so many hours."""

import math
import os
import time

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.checkpoint import Checkpoints, spaced


def test_the_newest_checkpoints_stay(tmp_path):
    checkpoints, state = Checkpoints(str(tmp_path), keep=2), {"step": tf.Variable(0)}
    for step in (5, 9, 10, 100):
        checkpoints.save(step, state, {})
    assert checkpoints.steps() == [10, 100]
    assert sorted(os.listdir(checkpoints.directory)) == ["00000010", "00000100"]


@pytest.mark.parametrize("older", [False, True])
def test_one_of_every_so_many_hours_stays(tmp_path, monkeypatch, older):
    """older: the first ones are of a version that did not write down when."""
    checkpoints, state = Checkpoints(str(tmp_path), keep=1, keep_hours=2), {"step": tf.Variable(0)}
    for hour in range(1, 10):
        monkeypatch.setattr(time, "time", lambda: 3600.0 * hour)  # noqa: B023
        checkpoints.save(hour, state, {})
        if older and hour < 5:
            os.remove(f"{checkpoints.path(hour)}/saved_at.txt")
            os.utime(checkpoints.path(hour), times=(3600 * hour, 3600 * hour))
    assert checkpoints.steps() == [1, 3, 5, 7, 9]


def test_what_is_spaced_does_not_change_when_others_are_deleted():
    times = dict(enumerate(np.cumsum(np.random.default_rng(0).exponential(1.0, 200))))
    chosen = spaced(times, 2.5)
    assert 10 < len(chosen) < 80 and 0 in chosen
    assert spaced({step: times[step] for step in chosen}, 2.5) == chosen
    ordered = [times[step] for step in sorted(chosen)]
    assert (np.diff(ordered) >= 2.5).all()


def test_an_unreadable_newest_checkpoint_does_not_push_out_a_readable_one(tmp_path):
    checkpoints, state = Checkpoints(str(tmp_path), keep=1), {"step": tf.Variable(0)}
    checkpoints.save(10, state, {})
    os.truncate(f"{checkpoints.path(10)}/state.data-00000-of-00001", 1)
    checkpoints.save(5, state, {})  # a run that began anew
    assert checkpoints.restore(state) == 5
    checkpoints.save(10, state, {})
    assert checkpoints.steps() == [10] and checkpoints.restore(state) == 10


@pytest.mark.parametrize("hours", [-1, math.nan, math.inf])
def test_hours_that_are_none_are_refused(hours):
    with pytest.raises(ValueError, match=f"--keep_checkpoint_hours must be a number from 0 on, got {hours}"):
        Checkpoints("anywhere", keep_hours=hours)


@pytest.mark.parametrize("keep", [0, -1])
def test_keeping_no_checkpoint_is_refused(keep):
    with pytest.raises(ValueError, match=f"--keep_checkpoints must be at least 1, got {keep}"):
        Checkpoints("anywhere", keep=keep)
