"""Checkpoints where a directory cannot be renamed: ram://, which lives in this process, stands in for gs://."""

import os
import re
import time

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.checkpoint import Checkpoints


def state_of(step):
    return {"step": tf.Variable(np.int32(step)), "w/kernel": tf.Variable(np.full((3, 5), step, np.float32))}


@pytest.fixture
def checkpoints(request):
    """Steps 1 and 2 in a place of the test's own."""
    made = Checkpoints(f"ram://{re.sub('[^a-zA-Z0-9]', '-', request.node.name)}/run", keep=2)
    for step in (1, 2):
        made.save(step, state_of(step), {"run.json": f"of {step}"})
    return made


def names(checkpoints):
    return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(checkpoints.directory))


def restored(checkpoints):
    state = state_of(0)
    step = checkpoints.restore(state)
    assert state["step"].numpy() == step and (state["w/kernel"].numpy() == step).all()
    return step


def test_what_was_saved_comes_back_and_the_newest_stay(checkpoints):
    assert (checkpoints.steps(), restored(checkpoints), checkpoints.read_text("run.json")) == ([1, 2], 2, "of 2")
    checkpoints.save(3, state_of(3), {})
    assert (checkpoints.steps(), restored(checkpoints), checkpoints.read_text("run.json")) == ([2, 3], 3, "of 2")
    assert names(checkpoints) == ["00000002", "00000003"]
    assert Checkpoints("ram://nowhere").restore(state_of(0)) is None


class Killed(BaseException):
    pass


def killed_at(monkeypatch, module, name, place):
    """Patch a function to raise where its first argument ends with `place`."""
    original = getattr(module, name)

    def maybe_killed(path, *args, **kwargs):
        if path.endswith(place):
            raise Killed
        return original(path, *args, **kwargs)

    monkeypatch.setattr(module, name, maybe_killed)


@pytest.mark.parametrize("file", ["run.json", "SHA256SUMS"])
@pytest.mark.parametrize("step, newest", [(3, 2), (2, 1)])
def test_an_interrupted_save_is_never_seen_and_goes_with_the_next(checkpoints, monkeypatch, file, step, newest):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, tf.io.gfile, "GFile", f"{step:08d}/{file}")
        checkpoints.save(step, state_of(step), {"run.json": "never whole"})
    assert f"{step:08d}" in names(checkpoints)
    assert (restored(checkpoints), checkpoints.read_text("run.json")) == (newest, f"of {newest}")
    checkpoints.save(4, state_of(4), {})
    assert names(checkpoints) == [f"{newest:08d}", "00000004"]


def test_an_interrupted_deletion_is_never_seen_and_goes_with_the_next_save(checkpoints, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, tf.io.gfile, "rmtree", "00000001")
        checkpoints.save(3, state_of(3), {})
    assert (names(checkpoints), checkpoints.steps()) == (["00000001", "00000002", "00000003"], [2, 3])
    checkpoints.save(4, state_of(4), {})
    assert names(checkpoints) == ["00000003", "00000004"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(checkpoints, caplog):
    path = os.path.join(checkpoints.path(2), "state.data-00000-of-00001")
    with tf.io.gfile.GFile(path, "rb") as file:
        content = file.read()
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content[:-1] + bytes([content[-1] ^ 1]))
    assert restored(checkpoints) == 1
    assert "00000002 (state.data-00000-of-00001 does not match its SHA-256)" in caplog.text


def test_a_disk_that_does_not_answer_is_no_damaged_checkpoint(checkpoints, monkeypatch):
    """Going back to an older one would lose steps; the training ends, to be started again."""

    def unavailable(*_, **__):
        raise tf.errors.UnavailableError(None, None, "try again later")

    monkeypatch.setattr("dit_tf.runtime.checkpoint.check_checksums", unavailable)
    for attempt in (lambda: checkpoints.restore(state_of(0)), lambda: checkpoints.read_text("run.json")):
        with pytest.raises(tf.errors.UnavailableError):
            attempt()


def test_one_of_every_so_many_hours_stays(checkpoints, monkeypatch):
    several, now = Checkpoints(checkpoints.workdir, keep=1, keep_hours=1), time.time()
    for step in (3, 4, 5):
        monkeypatch.setattr(time, "time", lambda: now + 1900.0 * step)  # noqa: B023
        several.save(step, state_of(step), {})
    assert several.steps() == [1, 3, 5]
