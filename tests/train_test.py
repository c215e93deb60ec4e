"""`python -m dit_tf.train`: writes what it promises, tells one thing clearly when it is used wrongly."""

import json
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, flags, train
from dit_tf.runtime import workdir
from dit_tf.runtime.checkpoint import Checkpoints, ema_snapshots
from tests.commands import run_command

STEPS = 300
_DOCUMENTATION = pathlib.Path(__file__).parents[1] / "docs" / "train.md"


@pytest.fixture(scope="module")
def command(tiny_flags):
    def of(workdir, *more):
        return ["dit_tf.train", *tiny_flags, f"--workdir={workdir}", f"--train_steps={STEPS}", *more]

    return of


def test_it_writes_what_it_promises(trained):
    lines = [json.loads(line) for line in open(trained / "metrics.jsonl")]
    assert lines[-1]["step"] == STEPS
    explained = re.findall(r"^\| `(\w+)`", _DOCUMENTATION.read_text(), re.MULTILINE)
    assert lines[-1].keys() == {*explained, "loss_q2", "loss_q3", "loss_q4"} - {"bad_steps", "first_bad_step"}
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (trained / "samples" / f"{STEPS:08d}.png").read_bytes().startswith(b"\x89PNG")
    assert "--model=DiT-64x1x2/4" in (trained / "flags.txt").read_text().splitlines()
    assert not [name for name in os.listdir(trained / "checkpoints") if not name.isdigit()]


def test_snapshots_are_the_averages_of_their_step_rounded(trained):
    assert sorted(os.listdir(trained / "ema")) == [f"{step:08d}" for step in range(30, STEPS + 1, 30)]
    snapshots, checkpoints = ema_snapshots(str(trained)), Checkpoints(str(trained))
    assert snapshots.read_text(build.RUN) == checkpoints.read_text(build.RUN)
    shapes = {f"ema_std_0.1/{v.path}": v.shape for v in build.load_model(str(trained)).trainable_variables}
    half, full = ({name: tf.TensorSpec(s, dtype) for name, s in shapes.items()} for dtype in (tf.float16, tf.float32))
    for (name, rounded), (_, exact) in zip(snapshots.read(STEPS, half), checkpoints.read(STEPS, full), strict=True):
        np.testing.assert_array_equal(rounded, exact.astype(np.float16), err_msg=name)


def test_kept_models_are_those_of_their_step_and_a_killed_run_leaves_none_out(parse, tiny_flags, tmp_path):
    """Between a checkpoint and the model of its step lies a moment in which a run may be killed."""
    flagged = [*tiny_flags, "--sample_every=0", "--ema_snapshot_every=0", "--train_steps=20", "--keep_model_every=10"]
    options = parse(flags.define_train, *flagged, f"--workdir={tmp_path}")
    train.main(options)
    assert sorted(os.listdir(tmp_path / "models")) == ["00000010.keras", "00000020.keras"]
    first, last = ((tmp_path / "models" / f"{step:08d}.keras").read_bytes() for step in (10, 20))
    assert first != last == (tmp_path / "model.keras").read_bytes()
    (tmp_path / "models" / "00000020.keras").unlink()
    train.main(options)
    assert (tmp_path / "models" / "00000020.keras").read_bytes() == last


def test_a_work_directory_and_its_keras_file_hold_one_model(trained):
    from_directory, from_file = (build.load_model(str(p)) for p in (trained, trained / "model.keras"))
    inputs = np.ones((2, 8, 8, 1), "f"), np.array([3, 900]), np.array([1, 10])
    np.testing.assert_array_equal(from_directory(inputs), from_file(inputs))
    assert build.load_config(str(trained)) == build.load_config(str(trained / "model.keras"))


def test_bad_input_ends_in_one_sentence_without_a_traceback(command, tmp_path):
    process = run_command(*command(tmp_path, "--model=DiT-XXL/2"))
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    message = process.stderr.strip().splitlines()[-1]
    assert (
        message.startswith("dit_tf.train: --model must be one of")
        and "'DiT-XXL/2'" in message
        and "DiT-XL/2" in message
    )


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--model=DiT-B/3", ["--model", "DiT-B/3", "near: DiT-B/"]),
        ("--dataset=digitz", ["--dataset", "digitz", "digits"]),
        ("--block=adaln_one", ["--block", "adaln_one", "adaln_zero"]),
        ("--image_size=9", ["--image_size", "divisible", "4", "9"]),
        ("--global_batch_size=0", ["--global_batch_size", "positive multiple", "got 0"]),
        ("--precision=float16", ["--precision", "float16", "bfloat16"]),
        ("--objective=gan", ["--objective", "gan", "ddpm"]),
        ("--path=gvp", ["--path goes with --objective=flow", "gvp"]),
        ("--objective=flow --path=straight", ["--path", "linear, gvp, vp", "'straight'"]),
        ("--objective=flow --prediction=data", ["--prediction", "velocity, score, noise", "'data'"]),
        ("--objective=flow --time_distribution=normal", ["--time_distribution", "uniform, logit_normal", "'normal'"]),
        ("--split=validation", ["split", "validation", "train, test"]),
        ("--checkpoint_every=7", ["--checkpoint_every", "multiple of --steps_per_execution", "got 7"]),
        ("--checkpoint_every=0", ["--checkpoint_every", "at least 1", "got 0"]),
        ("--accumulation_steps=3", ["--accumulation_steps", "divide", "16", "got 3"]),
        ("--accumulation_steps=0", ["--accumulation_steps", "divide", "16", "got 0"]),
        ("--strategy=several", ["--strategy", "several", "mirrored"]),
        ("--strategy=multiworker", ["--strategy=multiworker", "TF_CONFIG", "not set"]),
        ("--learning_rate=-1", ["--learning_rate", "positive", "-1"]),
        ("--profile_steps=20,10", ["--profile_steps", "FIRST,LAST", "'20,10'"]),
        ("--profile_steps=5", ["--profile_steps", "FIRST,LAST", "'5'"]),
        ("--profile_steps=21,30 --train_steps=20", ["--profile_steps", "--train_steps (20)", "got 21"]),
        ("--max_bad_steps=0", ["--max_bad_steps", "at least 1", "got 0"]),
        ("--clip_norm=-1", ["--clip_norm", "positive", "got -1"]),
        ("--ema_decay=1", ["--ema_decay", "below 1", "got 1"]),
        ("--ema_stds=0.1,x", ["--ema_stds", "numbers", "got '0.1,x'"]),
        ("--ema_snapshot_every=7", ["--ema_snapshot_every", "multiple of --steps_per_execution", "got 7"]),
        ("--ema_snapshot_every=-10", ["--ema_snapshot_every", "0 for none", "got -10"]),
    ],
)
def test_bad_values_name_the_flag_the_rule_and_the_value(parse, tiny_flags, tmp_path, flag, words):
    options = parse(flags.define_train, *tiny_flags, f"--workdir={tmp_path}", *flag.split())
    with pytest.raises(ValueError) as error:
        train.main(options)
    assert all(word in str(error.value) for word in words), error.value
    assert not os.path.exists(tmp_path / "checkpoints")


def test_a_batch_that_two_replicas_cannot_share_is_refused(command, tmp_path):
    odd = command(tmp_path, "--strategy=mirrored", "--logical_cpus=2", "--global_batch_size=15")
    process = run_command(*odd)
    assert process.returncode == 1
    assert "--global_batch_size must be a positive multiple of the number of replicas (2), got 15." in process.stderr


def test_a_work_directory_of_another_run_is_refused(parse, tiny_flags, trained):
    options = parse(flags.define_train, *tiny_flags, f"--workdir={trained}", "--seed=4", "--ema_decay=0.5")
    with pytest.raises(
        ValueError, match="--workdir=.*another configuration.*--ema_decay=0.5 here, 0.9 there.*--seed=4 here"
    ):
        train.main(options)


@pytest.mark.slow
def test_a_work_directory_need_not_be_on_a_local_disk(parse, tiny_flags, tmp_path):
    """ram://, which lives in this process, stands in for gs://; twenty steps, and twenty more."""
    more = ["--checkpoint_every=20", "--log_every=10", "--sample_every=20"]
    for place, stops in (("ram://train-test/run", (20, 40)), (str(tmp_path), (40,))):
        for stop in stops:
            train.main(parse(flags.define_train, *tiny_flags, *more, f"--workdir={place}", f"--train_steps={stop}"))
    remote, local = (build.load_model(path).get_weights() for path in ("ram://train-test/run", str(tmp_path)))
    for there, here in zip(remote, local, strict=True):
        np.testing.assert_array_equal(there, here)
    with tf.io.gfile.GFile("ram://train-test/run/samples/00000040.png", "rb") as file:
        assert file.read() == (tmp_path / "samples" / "00000040.png").read_bytes()
    with tf.io.gfile.GFile("ram://train-test/run/model.keras", "rb") as file:
        (tmp_path / "copy.keras").write_bytes(file.read())
    for there, here in zip(build.load_model(str(tmp_path / "copy.keras")).get_weights(), local, strict=True):
        np.testing.assert_array_equal(there, here)
    with tf.io.gfile.GFile("ram://train-test/run/metrics.jsonl") as file:
        assert [json.loads(line)["step"] for line in file] == [10, 20, 30, 40]


def test_two_trainings_in_one_work_directory_are_refused(parse, tiny_flags, trained, monkeypatch):
    monkeypatch.setattr(workdir, "_PATIENCE_SECONDS", 0.0)
    options = parse(flags.define_train, *tiny_flags, f"--workdir={trained}")
    with workdir.hold(str(trained)), pytest.raises(ValueError, match=f"--workdir={trained} is in use by another"):
        train.main(options)
