"""A training that is killed, asked to stop, cut off from its disk or robbed of its newest checkpoint ends as one that
never stopped: bit for bit, no step twice, none missing, nor a snapshot of its averages."""

import json
import os
import random
import re
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.checkpoint import Checkpoints
from tests.commands import Command

STEPS = 300
_DATA = "state.data-00000-of-00001"
_FILE_LIMIT = 2**20  # bytes: less than the 2 MB of a checkpoint, more than anything else that is written


class Training:
    """One work directory and the command that trains in it, over and over, until it is finished."""

    def __init__(self, tiny_flags, workdir, checkpoint_every):
        self.workdir, self.checkpoints = workdir, Checkpoints(str(workdir))
        more = ["--sample_every=0", f"--checkpoint_every={checkpoint_every}", f"--train_steps={STEPS}"]
        self.command = ["dit_tf.train", *tiny_flags, *more, f"--workdir={workdir}"]

    def start(self, limit=None):
        """limit: of the size of files, in bytes."""
        return Command(*self.command, limit=limit)

    def run(self, limit=None):
        """-> exit code, standard output, standard error."""
        process = self.start(limit)
        output, errors = process.communicate()
        return process.returncode, output, errors

    def interrupt(self, number, condition, delay=0.0):
        """Send a signal `delay` seconds after the condition is met -> as `run`; the training may have ended by then."""
        process = self.start()
        while process.poll() is None and not condition():
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        output, errors = process.communicate()
        return process.returncode, output, errors

    def newest(self):
        """The newest step that has a whole checkpoint, 0 before there is one; all of it is read."""
        for step in reversed(self.checkpoints.steps()):
            try:
                state = {name: tf.Variable(value) for name, value in variables(self.workdir, step).items()}
                only = Checkpoints(str(self.workdir))
                assert only.restore(state) == state["step"].numpy()
                assert json.loads(only.read_text("run.json"))["model"] == "DiT-64x1x2/4"
                return int(state["step"].numpy())
            except (tf.errors.OpError, IndexError):
                continue  # the one that was cut short
        return 0

    def cut_newest(self, chance):
        path = os.path.join(self.checkpoints.path(self.checkpoints.steps()[-1]), _DATA)
        os.truncate(path, chance.randrange(os.path.getsize(path)))

    def has(self, name):
        return lambda: os.path.exists(os.path.join(self.checkpoints.directory, name))


def variables(workdir, step, folder="checkpoints"):
    prefix, suffix = f"{workdir}/{folder}/{step:08d}/state", "/.ATTRIBUTES/VARIABLE_VALUE"
    reader = tf.train.load_checkpoint(prefix)
    keys = [key for key in reader.get_variable_to_shape_map() if key.endswith(suffix)]
    names = [key.removeprefix("state/").removesuffix(suffix).replace(".S", "/").replace("..", ".") for key in keys]
    return {name: reader.get_tensor(key) for name, key in zip(names, keys)}


def assert_finished_as(workdir, unbroken):
    expected, actual = variables(unbroken, STEPS), variables(workdir, STEPS)
    assert actual.keys() == expected.keys() and len(actual) == 5 * 21 + 1  # weights, moments, two averages; the step
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    assert sorted(os.listdir(workdir / "ema")) == [f"{step:08d}" for step in range(30, STEPS + 1, 30)]
    for step in range(30, STEPS + 1, 30):
        there, here = (variables(place, step, "ema") for place in (unbroken, workdir))
        assert here.keys() == there.keys() and all(np.array_equal(here[name], there[name]) for name in there)
    steps = [json.loads(line)["step"] for line in open(workdir / "metrics.jsonl")]
    assert steps == list(range(50, STEPS + 1, 50))  # no step twice, none missing
    unfinished = [name for name in os.listdir(workdir / "checkpoints") if not name.isdigit()]
    assert not unfinished


def test_five_interruptions_in_a_row(trained, tiny_flags, tmp_path):
    training = Training(tiny_flags, tmp_path, checkpoint_every=50)

    # Asked to stop: no step that was taken is lost.
    code, _, errors = training.interrupt(signal.SIGTERM, training.has("00000150"))
    assert code == 75, errors
    assert "dit_tf.train: ended by SIGTERM; the same command goes on where it stopped.\n" in errors
    stopped_at = training.newest()
    assert 150 <= stopped_at < STEPS and stopped_at == int(re.findall(rf"(\d+)/{STEPS} ", errors)[-1])  # the bar's end

    # The newest checkpoint is cut short, and the run that does without it is killed in the midst of a save.
    training.cut_newest(random.Random(0))
    before = training.newest()
    next_save = before // 50 * 50 + 50
    code, output, errors = training.interrupt(signal.SIGKILL, training.has(f"unfinished-{next_save:08d}"))
    assert code == -signal.SIGKILL, errors
    assert f"Resuming from step {before}\n" in output
    assert f"checkpoints/{stopped_at:08d} ({_DATA} does not match its SHA-256)" in errors
    killed_at = training.newest()
    assert killed_at in (before, next_save)

    # The disk has no room for another checkpoint.
    code, output, errors = training.run(_FILE_LIMIT)
    assert code == 1 and f"Resuming from step {killed_at}\n" in output
    assert f"dit_tf.train: --workdir={tmp_path} cannot be written to (" in errors and "Traceback" not in errors
    assert training.newest() == killed_at

    # Once more the newest checkpoint is cut short.
    training.cut_newest(random.Random(1))
    before = training.newest()
    code, output, errors = training.run()
    assert code == 0, errors
    assert f"Resuming from step {before}\n" in output
    assert_finished_as(tmp_path, trained)


@pytest.fixture(scope="module")
def with_another_batch(trained, tiny_flags, tmp_path_factory):
    """go_on(name) -> a `Training` that goes on from the finished one's checkpoint for 100 steps of half the batch."""

    def go_on(name):
        training = Training(tiny_flags, tmp_path_factory.mktemp(name) / "run", checkpoint_every=50)
        shutil.copytree(trained, training.workdir)
        changes = ["--global_batch_size=8", f"--train_steps={STEPS + 100}", "--resume_with=global_batch_size"]
        training.command += changes
        return training

    return go_on


def test_a_kill_after_the_batch_size_was_changed_changes_nothing(with_another_batch):
    """The order of the data follows the count of examples, which is no multiple of the batch any more."""
    whole, killed = with_another_batch("whole"), with_another_batch("killed")
    assert whole.run()[0] == 0
    code, _, errors = killed.interrupt(signal.SIGKILL, killed.has("00000350"))
    assert code == -signal.SIGKILL, errors
    code, output, errors = killed.run()
    assert code == 0 and "Resuming from step 350\n" in output, errors
    expected, actual = (variables(training.workdir, STEPS + 100) for training in (whole, killed))
    assert actual.keys() == expected.keys()
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)
    for training in (whole, killed):
        assert json.loads(training.checkpoints.read_text("history.json"))["examples"] == STEPS * 16 + 100 * 8


@pytest.mark.kills
def test_fifty_interruptions_at_random_moments(trained, tiny_flags, tmp_path, capsys):
    """Each is one of the four, at a random moment of the start, of the steps or of a save; a checkpoint every ten steps
    makes the saves many. A training that has come to its end makes room for the next."""
    chance, counts, finished, training = random.Random(0), {}, 0, None
    for trial in range(50):
        if training is None:
            training = Training(tiny_flags, tmp_path / f"{trial}", checkpoint_every=10)
        incident = chance.choice(["kill", "kill", "term", "limit", "cut"])
        before = training.newest()
        if incident == "cut" and len(training.checkpoints.steps()) > 1:
            training.cut_newest(chance)
            before = training.newest()
        if incident == "limit":
            code, output, errors = training.run(_FILE_LIMIT)
            assert code == 1 and f"dit_tf.train: --workdir={training.workdir} cannot be written to (" in errors
        else:
            next_save = training.has(f"unfinished-{before + 10:08d}")
            condition = chance.choice([lambda: True, next_save, next_save, next_save])
            delay = chance.uniform(0, 15 if condition() else 1)
            number = signal.SIGTERM if incident == "term" else signal.SIGKILL
            code, output, errors = training.interrupt(number, condition, delay)
            assert code in (0, -number, 75 if incident == "term" else -number), errors
        assert "Traceback" not in errors
        assert f"Resuming from step {before}\n" in output or not before or "replica(s)" not in output
        after = training.newest()
        assert after >= before
        counts[incident] = counts.get(incident, 0) + 1
        with capsys.disabled():
            print(f"\n{trial}: {incident} at {before}, code {code}, now at {after}", end="", flush=True)
        if after == STEPS:
            code, _, errors = training.run()
            assert code == 0, errors
            assert_finished_as(training.workdir, trained)
            training, finished = None, finished + 1
    if training is not None:
        code, _, errors = training.run()
        assert code == 0, errors
        assert_finished_as(training.workdir, trained)
    assert sum(counts.values()) == 50 and len(counts) == 4 and finished
