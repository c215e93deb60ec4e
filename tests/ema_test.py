"""`python -m dit_tf.ema`: what was tracked to the bit, other widths as they would have been, one sentence otherwise."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, ema, flags
from dit_tf.runtime.checkpoint import Checkpoints, ema_snapshots
from dit_tf.runtime.model_file import read_text
from dit_tf.training.post_hoc import matches

STEPS = list(range(30, 301, 30))


@pytest.fixture
def run(parse, trained, tmp_path):
    """run("--name=value", ...) -> the weights of the model that it writes."""

    def call(*arguments):
        ema.main(parse(flags.define_ema, f"--workdir={trained}", f"--output={tmp_path}/model.keras", *arguments))
        return build.load_model(f"{tmp_path}/model.keras").trainable_variables

    return call


@pytest.fixture(scope="module")
def average(trained):
    """average(name, weights) -> of these, the one of that name in the newest checkpoint, float32."""

    def read(name, weights):
        specs = {f"{name}/{v.path}": tf.TensorSpec(v.shape) for v in weights}
        return [array for _, array in Checkpoints(str(trained)).read(300, specs)]

    return read


@pytest.mark.parametrize(
    "flag, name", [("--decay=0.9", "ema"), ("--decay=0.99", "ema_decay_0.99"), ("--std=0.07", "ema_std_0.07")]
)
def test_what_was_tracked_is_taken_to_the_bit(run, average, flag, name, tmp_path, trained):
    weights = run(flag)
    for weight, expected in zip(weights, average(name, weights), strict=True):
        np.testing.assert_array_equal(weight, expected)
    told = json.loads(read_text(str(tmp_path / "model.keras"), build.PROVENANCE))
    assert told["step"] == 300 and told["workdir"] == str(trained)
    assert build.load_config(str(tmp_path / "model.keras")) == build.load_config(str(trained))


def test_a_tracked_width_of_snapshots_is_its_newest_one(run, average):
    weights = run("--std=0.1", "--step=300")
    for weight, expected in zip(weights, average("ema_std_0.1", weights), strict=True):
        # What the other coefficients, 1e-9 at most, bring in.
        np.testing.assert_allclose(weight, expected.astype(np.float16), atol=1e-6)


def test_a_width_of_a_training_is_what_it_tracked(trained, average):
    """0.07 from the ten snapshots of 0.05 and 0.1 alone, beside the one that was tracked."""
    config = dataclasses.replace(build.load_config(str(trained)), ema_stds=(0.05, 0.1))
    (found,) = matches([(step, std) for step in STEPS for std in config.ema_stds], 300, [0.07])
    weights = ema.combine(str(trained), config, STEPS, found.coefficients).trainable_variables
    expected, near = (average(f"ema_std_{std}", weights) for std in (0.07, 0.05))
    assert 0 < found.error < 0.01
    for weight, one, other in zip(weights, expected, near, strict=True):
        # A hundredth of a profile of 300 steps of at most about 1e-3 (the learning rate), and float16's 2^-11.
        np.testing.assert_allclose(weight, one, atol=1e-3 + 2**-11 * np.abs(one).max())
        distance, width = np.linalg.norm(weight - one), np.linalg.norm(other - one)
        assert distance < 0.2 * width + found.noise * np.linalg.norm(one), weight.path


def test_another_width_tells_where_it_comes_from(run, tmp_path, capsys):
    run("--std=0.08", "--step=240")
    told = json.loads(read_text(str(tmp_path / "model.keras"), build.PROVENANCE))
    assert (told["std"], told["step"], told["snapshots"]) == (0.08, 240, STEPS[:8])
    assert told["tracked"] == [0.05, 0.07, 0.1] and 0 < told["profile_error"] < 0.01
    assert "--std=0.08, at step 240, of 8 snapshot(s) of 0.05, 0.07, 0.1: its profile is met to 0." in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], r"^--std or --decay must be given, and not both"),
        (["--std=0.1", "--decay=0.9"], r"^--std or --decay must be given, and not both"),
        (["--std=0.3"], r"^--std must be above 0 and below 0\.2887, got 0\.3\."),
        (["--std=nan"], r"^--std must be above 0 and below 0\.2887, got nan\."),
        (["--std=0.005"], r"^--std=0\.005 cannot be made of the 10 snapshot\(s\) up to step 300: .* from 0\.0\d+ to"),
        (["--std=0.08", "--step=100"], r"^--step must be that of a snapshot, near it 60, 90, 120, 150, got 100\."),
        (["--decay=0.5"], r"^--decay must be one that the training in .* tracked \(0\.9, 0\.99\), got 0\.5"),
        (["--decay=0.9", "--step=30"], r"^--step goes with --std, got --step=30 with --decay=0\.9\."),
        (["--std=0.08", "--output=x.pt"], r"^--output must be a file that ends in \.keras, got 'x\.pt'\."),
        (["--std=0.08", "--workdir="], r"^--workdir must be given"),
        (["--std=0.08", "--workdir=nowhere"], r"^nowhere holds no checkpoint"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    assert not os.path.exists(tmp_path / "model.keras")


@pytest.fixture
def copied(trained, tmp_path):
    """The work directory again, to be damaged."""
    for folder in ("checkpoints", "ema"):
        shutil.copytree(trained / folder, tmp_path / "run" / folder)
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["state.data-00000-of-00001", "state.index"])
@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_damaged_snapshots_are_named(run, copied, name, damage):
    path = copied / "ema" / "00000150" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content if damage == "one bit" else content[: len(content) // 3])
    with pytest.raises(ValueError, match=r"ema/00000150 cannot be read: .+: without that directory") as error:
        run(f"--workdir={copied}", "--std=0.08")
    assert "\n" not in str(error.value)


def test_without_snapshots_only_what_was_tracked_can_be_had(run, copied):
    shutil.rmtree(copied / "ema")
    assert run(f"--workdir={copied}", "--std=0.07")
    with pytest.raises(
        ValueError, match=r"--std=0\.08 needs snapshots, of which .* has none: .*\(0\.05, 0\.07, 0\.1\)"
    ):
        run(f"--workdir={copied}", "--std=0.08")


def test_a_training_without_widths_is_refused(run, copied):
    for step in (200, 250, 300):
        path = copied / "checkpoints" / f"{step:08d}"
        (path / "SHA256SUMS").unlink()
        told = json.loads((path / "run.json").read_text())
        del told["ema_stds"], told["ema_decays"]  # as older versions wrote it
        (path / "run.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"^--std needs what a training with --ema_stds=0\.05,0\.1 leaves"):
        run(f"--workdir={copied}", "--std=0.08")


def test_snapshots_are_those_of_the_training(trained):
    snapshots = ema_snapshots(str(trained))
    assert snapshots.steps() == STEPS
    assert snapshots.read_text(build.RUN) == Checkpoints(str(trained)).read_text(build.RUN)
