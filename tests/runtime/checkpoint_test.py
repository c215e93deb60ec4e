"""What was saved comes back bit for bit, the newest that can be read; nothing half written is ever taken for one."""

import hashlib
import logging
import os
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.checkpoint import Checkpoints

_VALUES = {
    "params/dit/patch_embedder/kernel": np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
    "m/with.dots/and_.Sletters": np.array([np.nan, -0.0, np.inf, 1e-42], np.float32),  # a subnormal number last
    "step": np.array(7, np.int32),
}
_STRATEGIES = {
    "one": lambda: tf.distribute.OneDeviceStrategy("/CPU:0"),
    "mirrored": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
}


def state_of(values):
    return {name: tf.Variable(value) for name, value in values.items()}


def blank():
    return state_of({name: np.zeros_like(value) for name, value in _VALUES.items()})


def assert_holds(state, values):
    for name, value in values.items():
        for replica in tf.distribute.get_strategy().experimental_local_results(state[name]):
            actual, expected = (np.ravel(a).view(np.int32) for a in (replica.numpy(), value))
            np.testing.assert_array_equal(actual, expected, name)


@pytest.fixture
def checkpoints(tmp_path):
    """Steps 1 and 2, whose values differ by their step alone."""
    made = Checkpoints(str(tmp_path))
    for step in (1, 2):
        made.save(step, state_of(_VALUES | {"step": np.array(step, np.int32)}), {"run.json": f'{{"of": {step}}}'})
    return made


@pytest.fixture
def warnings(caplog):
    """The text of all warnings so far, of whatever the user sees without asking for more (--verbosity)."""
    caplog.set_level(logging.WARNING, logger="dit_tf")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("saving", _STRATEGIES)
@pytest.mark.parametrize("restoring", _STRATEGIES)
def test_every_bit_comes_back_on_every_replica(tmp_path, saving, restoring):
    checkpoints = Checkpoints(str(tmp_path))
    with _STRATEGIES[saving]().scope():
        checkpoints.save(12, state_of(_VALUES), {})
    strategy = _STRATEGIES[restoring]()
    with strategy.scope():
        state = blank()
        assert len(strategy.experimental_local_results(state["step"])) == (2 if restoring == "mirrored" else 1)
        assert checkpoints.restore(state) == 12
        assert_holds(state, _VALUES)


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    assert Checkpoints(str(tmp_path / "absent")).restore(blank()) is None
    assert Checkpoints(str(tmp_path)).steps() == []
    assert Checkpoints(str(tmp_path)).read_text("run.json") is None


def test_the_newest_is_restored_and_a_step_can_be_saved_again(checkpoints):
    state = blank()
    assert checkpoints.restore(state) == 2
    assert state["step"].numpy() == 2
    checkpoints.save(2, state_of(_VALUES | {"step": np.array(22, np.int32)}), {"run.json": "again"})
    assert checkpoints.restore(state) == 2
    assert state["step"].numpy() == 22
    assert (checkpoints.steps(), checkpoints.read_text("run.json")) == ([1, 2], "again")


def test_the_configuration_comes_back_as_it_was(checkpoints):
    text = '{\n "model": "DiT-Mi/4",\n "note": "été \\n"\n}'
    checkpoints.save(3, state_of(_VALUES), {"run.json": text})
    assert checkpoints.read_text("run.json") == text


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))


_DATA, _INDEX = "state.data-00000-of-00001", "state.index"
_DAMAGE = {
    "empty data": lambda path: os.truncate(f"{path}/{_DATA}", 0),
    "short data": lambda path: os.truncate(f"{path}/{_DATA}", os.path.getsize(f"{path}/{_DATA}") - 1),
    "no data": lambda path: os.remove(f"{path}/{_DATA}"),
    "flipped first byte of the data": lambda path: flip(f"{path}/{_DATA}", 0),
    "flipped last byte of the data": lambda path: flip(f"{path}/{_DATA}", os.path.getsize(f"{path}/{_DATA}") - 1),
    "empty index": lambda path: os.truncate(f"{path}/{_INDEX}", 0),
    "short index": lambda path: os.truncate(f"{path}/{_INDEX}", os.path.getsize(f"{path}/{_INDEX}") // 2),
    "no index": lambda path: os.remove(f"{path}/{_INDEX}"),
    "flipped byte of the index": lambda path: flip(f"{path}/{_INDEX}", 10),
    "empty directory": lambda path: (shutil.rmtree(path), os.mkdir(path)),
    "flipped byte of a text": lambda path: flip(f"{path}/run.json", 1),
    "no text": lambda path: os.remove(f"{path}/run.json"),
    "empty checksums": lambda path: os.truncate(f"{path}/SHA256SUMS", 0),
    "short checksums": lambda path: os.truncate(f"{path}/SHA256SUMS", 100),
    "flipped byte of the checksums": lambda path: flip(f"{path}/SHA256SUMS", 3),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(checkpoints, warnings, damage):
    _DAMAGE[damage](checkpoints.path(2))
    state = blank()
    assert checkpoints.restore(state) == 1
    assert_holds(state, _VALUES | {"step": np.array(1, np.int32)})
    assert checkpoints.path(2) in warnings() and f"Using {checkpoints.path(1)}" in warnings()
    text_is_whole = damage in ("empty data", "short data", "no data", "no index") or "of the data" in damage
    assert text_is_whole or "index" in damage or checkpoints.read_text("run.json") == '{"of": 1}'


def test_checksums_are_those_of_the_files_as_sha256sum_writes_them(checkpoints):
    lines = open(f"{checkpoints.path(2)}/SHA256SUMS").read().splitlines()
    digests = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert (
        digests.keys()
        == {_DATA, _INDEX, "run.json", "saved_at.txt"}
        == set(os.listdir(checkpoints.path(2))) - {"SHA256SUMS"}
    )
    for name, digest in digests.items():
        assert hashlib.sha256(open(f"{checkpoints.path(2)}/{name}", "rb").read()).hexdigest() == digest


def test_a_checkpoint_of_before_there_were_checksums_is_read(checkpoints, warnings):
    os.remove(f"{checkpoints.path(2)}/SHA256SUMS")
    assert checkpoints.restore(blank()) == 2 and checkpoints.read_text("run.json") == '{"of": 2}'
    assert not warnings()


def test_a_good_checkpoint_gives_no_warning(checkpoints, warnings):
    checkpoints.restore(blank())
    assert not warnings()


def test_where_none_can_be_read_all_are_named(checkpoints):
    for step, damage in ((1, "no index"), (2, "empty data")):
        _DAMAGE[damage](checkpoints.path(step))
    with pytest.raises(ValueError, match="00000002 .*; .*00000001 ") as error:
        checkpoints.restore(blank())
    assert str(error.value).startswith(f"No checkpoint under {checkpoints.directory} can be read")


def test_an_interrupted_save_is_never_seen_and_goes_with_the_next(checkpoints, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(tf.io.gfile, "rename", killed)  # the last thing that a save does
        with pytest.raises(Killed):
            checkpoints.save(3, state_of(_VALUES), {})
    assert "unfinished-00000003" in os.listdir(checkpoints.directory)
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore(blank()) == 2
    assert checkpoints.read_text("run.json") == '{"of": 2}'
    checkpoints.save(4, state_of(_VALUES), {})
    assert sorted(os.listdir(checkpoints.directory)) == ["00000001", "00000002", "00000004"]


def test_what_else_lies_there_is_no_checkpoint_and_stays(checkpoints):
    for name in ("00000009.old", "notes", "9"):
        os.mkdir(os.path.join(checkpoints.directory, name))
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, state_of(_VALUES), {})
    assert {"00000009.old", "notes", "9"} < set(os.listdir(checkpoints.directory))


def test_a_part_of_the_state_can_be_restored_when_asked_for(checkpoints):
    part = {"step": tf.Variable(np.int32(0))}
    assert checkpoints.restore(part, partial=True) == 2
    assert part["step"].numpy() == 2
    with pytest.raises(ValueError, match=r"patch_embedder/kernel is float32 \[3, 5\] there and missing here"):
        checkpoints.restore({"step": tf.Variable(np.int32(0))})


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    "name, value, message",
    [
        ("extra", np.float32(0), r"extra is missing there and float32 \[\] here"),
        ("m/with.dots/and_.Sletters", np.zeros(3, "f"), r"and_.Sletters is float32 \[4\] there and float32 \[3\] here"),
        ("step", np.float32(0), r"step is int32 \[\] there and float32 \[\] here"),
    ],
)
def test_another_state_is_refused_and_left_as_it_was(checkpoints, name, value, message, partial):
    state = blank() | {name: tf.Variable(value)}
    before = {name: variable.numpy() for name, variable in state.items()}
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(state, partial=partial)
    assert_holds(state, before)


def test_a_save_that_lost_a_variable_is_an_error(tmp_path, monkeypatch):
    checkpoint = tf.train.Checkpoint
    monkeypatch.setattr(tf.train, "Checkpoint", lambda state: checkpoint(state=dict(list(state.items())[:-1])))
    with pytest.raises(RuntimeError, match="step is missing there"):
        Checkpoints(str(tmp_path)).save(1, state_of(_VALUES), {})
    assert Checkpoints(str(tmp_path)).steps() == []


@pytest.mark.parametrize("call, position", [("rename", 0), ("rename", 1), ("rmtree", 0)])
def test_killed_while_a_checkpoint_is_replaced(checkpoints, monkeypatch, call, position):
    """What can be read then is a whole save: the new one, the one it replaces, or the one before them."""

    class Killed(BaseException):
        pass

    calls, original = [], getattr(tf.io.gfile, call)

    def maybe_killed(*args):
        calls.append(args)
        if len(calls) > position:
            raise Killed
        original(*args)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(tf.io.gfile, call, maybe_killed)
        checkpoints.save(2, state_of(_VALUES), {})
    state = blank()
    assert (checkpoints.restore(state), state["step"].numpy()) in [(1, 1), (2, 2), (2, 7)]
    checkpoints.save(3, state_of(_VALUES), {})
    assert set(os.listdir(checkpoints.directory)) <= {"00000001", "00000002", "00000003"}


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(checkpoints):
    """A limit on the size of files stands for it: the write fails in the same place, with another reason."""
    large = state_of(_VALUES | {"large": np.random.default_rng(0).standard_normal(100_000).astype(np.float32)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"^--workdir=.* cannot be written to \(.*too large\): make room") as error:
            checkpoints.save(3, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value) and checkpoints.workdir in str(error.value)
    assert sorted(os.listdir(checkpoints.directory)) == ["00000001", "00000002"]  # the room was given back
    assert checkpoints.restore(blank()) == 2
    checkpoints.save(3, large, {})
    assert checkpoints.steps() == [1, 2, 3]


def test_a_directory_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^--workdir=.*/file/run cannot be written to"):
        Checkpoints(str(tmp_path / "file" / "run")).save(1, state_of(_VALUES), {})
