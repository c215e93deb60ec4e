"""With all well no command writes a line that is not ours: on stderr there are progress bars and nothing else."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.log_filter import is_remark
from tests.commands import run_command

_BAR = re.compile(r"[\w .:/-]+: +(\d+%\|.*|\d+ ?\w* \[.*\]|\d.*)$")  # tqdm's, with a total or without
_FEW = ["--sampler=ddim", "--num_steps=4"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of eight images in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            (folder / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return folder


def assert_quiet(done):
    assert done.returncode == 0, done.stderr
    foreign = [part for part in re.split(r"[\r\n]", done.stderr) if part.strip(" \x1b[A") and not _BAR.match(part)]
    assert not foreign
    assert not [line for line in done.stdout.splitlines() if is_remark(line.encode()) or "arning" in line]


def test_train_from_the_first_preparation_of_its_data(tmp_path):
    """As a user starts it, imports included; and once more, which resumes and finds its programs compiled."""
    train = ["dit_tf.train", f"--data_dir={tmp_path}/data", f"--workdir={tmp_path}/run"]
    train += ["--model=DiT-16x1x1/4", "--global_batch_size=8", "--steps_per_execution=2", "--sample_every=2"]
    process = [sys.executable, "-m", *train, "--train_steps=2"]
    assert_quiet(subprocess.run(process, capture_output=True, text=True))
    assert_quiet(run_command(*train, "--train_steps=4"))


def test_sample_evaluate_and_export(trained, tiny_flags, inception_file, images, tmp_path):
    data = next(flag for flag in tiny_flags if flag.startswith("--data_dir"))
    for name in ("one.npz", "one.png"):  # the second time from the compile cache
        drawing = [f"--workdir={trained}", "--labels=3", *_FEW, f"--output={tmp_path / name}"]
        assert_quiet(run_command("dit_tf.sample", *drawing))
    scoring = ["--reference=digits", "--features=pixels", f"--workdir={trained}", "--num_samples=100", data, *_FEW]
    assert_quiet(run_command("dit_tf.evaluate", *scoring, f"--output={tmp_path}/pixels.json"))
    scoring = [f"--reference=folder:{images}", f"--samples=folder:{images}", f"--inception={inception_file}"]
    scoring += ["--allow_few_samples", "--image_size=16", f"--output={tmp_path}/inception.json"]
    assert_quiet(run_command("dit_tf.evaluate", *scoring))
    assert_quiet(run_command("dit_tf.export", f"--workdir={trained}", *_FEW, "--xla", f"--output={tmp_path}/dit/1"))


def test_encode(images, vae_file, tmp_path):
    encoding = [f"--dataset=folder:{images}", "--image_size=16", f"--vae={vae_file}", f"--output={tmp_path}/latents"]
    assert_quiet(run_command("dit_tf.encode", *encoding))


def test_preflight_writes_no_file_unless_it_is_told_to(tmp_path):
    done = run_command("dit_tf.preflight", "--model=DiT-Mi/4", cwd=tmp_path)
    assert_quiet(done)
    assert "parameters" in done.stdout and not list(tmp_path.iterdir())
    assert_quiet(run_command("dit_tf.preflight", "--model=DiT-Mi/4", "--output=report.json", cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
