"""`python -m dit_tf.train`: resumes bit for bit, tells one thing clearly when it is used wrongly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, flags, train

STEPS = 300


def variables(workdir, step):
    prefix = f"{workdir}/checkpoints/{step:08d}/state"
    reader = tf.train.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name, _ in tf.train.list_variables(prefix) if "OBJECT_GRAPH" not in name}


def assert_equal_state(workdir, other):
    expected, actual = variables(other, STEPS), variables(workdir, STEPS)
    assert actual.keys() == expected.keys() and len(actual) > 4 * 30
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def command(tiny_flags):
    def of(workdir, *more):
        return [
            sys.executable,
            "-m",
            "dit_tf.train",
            *tiny_flags,
            f"--workdir={workdir}",
            f"--train_steps={STEPS}",
            *more,
        ]

    return of


def test_killed_and_resumed_equals_unbroken(trained, command, tmp_path):
    """SIGKILL somewhere after the first checkpoint; the run without a break is `trained`."""
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not os.path.isdir(tmp_path / "checkpoints" / "00000050"):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not os.path.isdir(tmp_path / "checkpoints" / f"{STEPS:08d}")
    resumed = subprocess.run(command(tmp_path), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming from step" in resumed.stdout
    assert_equal_state(tmp_path, trained)
    steps = [json.loads(line)["step"] for line in open(tmp_path / "metrics.jsonl")]
    assert steps == list(range(50, STEPS + 1, 50))  # no step twice, none missing


def test_an_unreadable_checkpoint_gives_way_to_the_one_before(trained, command, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    data = workdir / "checkpoints" / f"{STEPS:08d}" / "state.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    resumed = subprocess.run(command(workdir), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"checkpoints/{STEPS:08d}" in resumed.stderr and f"checkpoints/{STEPS - 50:08d}" in resumed.stderr
    assert f"Resuming from step {STEPS - 50}" in resumed.stdout
    assert_equal_state(workdir, trained)


def test_it_writes_what_it_promises(trained):
    lines = [json.loads(line) for line in open(trained / "metrics.jsonl")]
    assert (
        lines[-1]["step"] == STEPS
        and {"loss", "mse", "vb", "grad_norm", "images_per_second", "mfu"} <= lines[-1].keys()
    )
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (trained / "samples" / f"{STEPS:08d}.png").read_bytes().startswith(b"\x89PNG")
    assert "--model=DiT-Mi/4" in (trained / "flags.txt").read_text().splitlines()
    assert not [name for name in os.listdir(trained / "checkpoints") if not name.isdigit()]


def test_a_work_directory_and_its_keras_file_hold_one_model(trained):
    from_directory, from_file = (build.load_model(str(p)) for p in (trained, trained / "model.keras"))
    inputs = np.ones((2, 8, 8, 1), "f"), np.array([3, 900]), np.array([1, 10])
    np.testing.assert_array_equal(from_directory(inputs), from_file(inputs))
    assert build.load_config(str(trained)) == build.load_config(str(trained / "model.keras"))


def test_bad_input_ends_in_one_sentence_without_a_traceback(command, tmp_path):
    process = subprocess.run(command(tmp_path, "--model=DiT-XXL/2"), capture_output=True, text=True)
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
        ("--learning_rate=-1", ["--learning_rate", "positive", "-1"]),
        ("--max_bad_steps=0", ["--max_bad_steps", "at least 1", "got 0"]),
        ("--clip_norm=-1", ["--clip_norm", "positive", "got -1"]),
        ("--ema_decay=1", ["--ema_decay", "below 1", "got 1"]),
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
    process = subprocess.run(odd, capture_output=True, text=True)
    assert process.returncode == 1
    assert "--global_batch_size must be a positive multiple of the number of replicas (2), got 15." in process.stderr


def test_a_work_directory_of_another_run_is_refused(parse, tiny_flags, trained):
    options = parse(flags.define_train, *tiny_flags, f"--workdir={trained}", "--seed=4", "--ema_decay=0.5")
    with pytest.raises(
        ValueError, match="--workdir=.*another configuration.*--ema_decay=0.5 here, 0.9 there.*--seed=4 here"
    ):
        train.main(options)
