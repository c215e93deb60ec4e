"""`python -m dit_tf.ema`: what was tracked to the bit, other widths as they would have been, one sentence otherwise."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, ema, flags
from dit_tf.config import RunConfig
from dit_tf.data.class_names import numbered
from dit_tf.runtime.checkpoint import Checkpoints, ema_snapshots
from dit_tf.runtime.model_file import read_text
from dit_tf.training.ema import gamma_of

STEPS = list(range(30, 301, 30))
CONFIG = RunConfig(model="DiT-8x1x1/4", ema_decay=0.9, ema_decays=(0.99,), ema_stds=(0.05, 0.1))


def progress(step, std):
    """The average of a training whose weights at step t are t / 300 of the way from one place to another."""
    steps, gamma = np.arange(1, step + 1), gamma_of(std)
    shares = (steps ** (gamma + 1) - (steps - 1) ** (gamma + 1)) / step ** (gamma + 1)
    return shares @ (steps / 300)


@pytest.fixture(scope="module")
def ways():
    """{path: (where a weight begins, where it is at step 300)}"""
    rng = np.random.default_rng(0)
    return {v.path: rng.normal(size=(2, *v.shape)) for v in build.make_model(CONFIG).trainable_variables}


@pytest.fixture(scope="module")
def place(ways):
    """place(progress) -> {path: array}"""
    return lambda share: {path: (1 - share) * begin + share * end for path, (begin, end) in ways.items()}


@pytest.fixture(scope="module")
def workdir(place, tmp_path_factory):
    return leave(str(tmp_path_factory.mktemp("run")), place)


def leave(path, place):
    """What such a training leaves: snapshots of two widths, and a checkpoint in which each average is elsewhere."""
    texts = build.model_texts(CONFIG, numbered(10))
    for step in STEPS:
        averages = {f"ema_std_{std}": place(progress(step, std)) for std in CONFIG.ema_stds}
        ema_snapshots(path).save(step, variables(averages, tf.float16), texts)
    averages = {"ema": place(0.1), "ema_decay_0.99": place(0.2), "ema_std_0.05": place(0.3), "ema_std_0.1": place(0.4)}
    Checkpoints(path).save(310, variables(averages, tf.float32), texts)
    return path


def variables(averages, dtype):
    return {
        f"{name}/{path}": tf.Variable(array, dtype=dtype) for name, a in averages.items() for path, array in a.items()
    }


@pytest.fixture
def run(parse, workdir, tmp_path):
    """run("--name=value", ...) -> {path: weight} of the model that it writes."""

    def call(*arguments):
        ema.main(parse(flags.define_ema, f"--workdir={workdir}", f"--output={tmp_path}/model.keras", *arguments))
        model = build.load_model(f"{tmp_path}/model.keras")
        return {v.path: v.numpy() for v in model.trainable_variables}

    return call


@pytest.mark.parametrize(
    "flag, share", [("--decay=0.9", 0.1), ("--decay=0.99", 0.2), ("--std=0.05", 0.3), ("--std=0.1", 0.4)]
)
def test_what_was_tracked_is_taken_to_the_bit(run, place, flag, share, tmp_path, workdir):
    expected, actual = place(share), run(flag)
    assert actual.keys() == expected.keys()
    for path, weight in actual.items():
        np.testing.assert_array_equal(weight, expected[path].astype(np.float32))
    told = json.loads(read_text(str(tmp_path / "model.keras"), build.PROVENANCE))
    assert told["step"] == 310 and told["workdir"] == workdir
    assert build.load_config(str(tmp_path / "model.keras")) == CONFIG


@pytest.mark.parametrize("std, step", [(0.05, 300), (0.1, 180), (0.03, 300), (0.08, 240), (0.2, 300)])
def test_a_width_is_what_it_would_have_been(run, place, ways, std, step, tmp_path, capsys):
    expected, actual = place(progress(step, std)), run(f"--std={std}", f"--step={step}")
    told = json.loads(read_text(str(tmp_path / "model.keras"), build.PROVENANCE))
    assert (told["std"], told["step"], told["tracked"]) == (std, step, [0.05, 0.1])
    assert told["snapshots"] == STEPS[: step // 30]
    away = min(abs(progress(step, other) - progress(step, std)) for other in CONFIG.ema_stds)
    for path, weight in actual.items():
        begin, end = ways[path]
        # A tenth of what is between it and the nearer of the tracked ones, and six standard deviations of rounding.
        allowed = 0.1 * away * np.abs(end - begin) + 6 * told["float16_noise"] * np.abs(ways[path]).max()
        assert (np.abs(weight - expected[path]) <= allowed).all(), path
    said = f"--std={std}, at step {step}, of {step // 30} snapshot(s) of 0.05, 0.1: its profile is met to "
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], r"^--std or --decay must be given, and not both"),
        (["--std=0.1", "--decay=0.9"], r"^--std or --decay must be given, and not both"),
        (["--std=0.3"], r"^--std must be above 0 and below 0\.2887, got 0\.3\."),
        (["--std=-1"], r"^--std must be above 0 and below 0\.2887, got -1.0\."),
        (
            ["--std=0.005"],
            r"^--std=0\.005 cannot be made of the 10 snapshot\(s\) up to step 300 \(its profile .* from 0\.03 to 0\.2",
        ),
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


def test_nothing_needs_to_be_on_a_local_disk(run, place, parse, tmp_path):
    """ram://, which lives in this process, stands in for gs://."""
    remote, there = leave("ram://ema-test/run", place), "ram://ema-test/model.keras"
    ema.main(parse(flags.define_ema, f"--workdir={remote}", "--std=0.08", f"--output={there}"))
    expected = run("--std=0.08")
    with tf.io.gfile.GFile(there, "rb") as file:
        (tmp_path / "copy.keras").write_bytes(file.read())
    for weight in build.load_model(str(tmp_path / "copy.keras")).trainable_variables:
        np.testing.assert_array_equal(weight, expected[weight.path])


@pytest.fixture
def copied(workdir, tmp_path):
    """The work directory again, to be damaged."""
    return shutil.copytree(workdir, tmp_path / "run")


@pytest.mark.parametrize("name", ["state.data-00000-of-00001", "state.index"])
@pytest.mark.parametrize("damage", ["cut", "one bit", "gone"])
def test_damaged_snapshots_are_named(run, copied, name, damage):
    path = copied / "ema" / "00000150" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content if damage == "one bit" else content[: len(content) // 3])
    with pytest.raises(ValueError, match=r"ema/00000150 cannot be read: .+: without that directory") as error:
        run(f"--workdir={copied}", "--std=0.08")
    assert "\n" not in str(error.value)
    shutil.rmtree(copied / "ema" / "00000150")
    assert run(f"--workdir={copied}", "--std=0.08")


def test_without_snapshots_only_what_was_tracked_can_be_had(run, copied):
    shutil.rmtree(copied / "ema")
    assert run(f"--workdir={copied}", "--std=0.1")
    with pytest.raises(ValueError, match=r"--std=0\.08 needs snapshots, of which .* has none: .*\(0\.05, 0\.1\)"):
        run(f"--workdir={copied}", "--std=0.08")


def test_a_training_without_widths_is_refused(run, copied):
    older = {name: value for name, value in json.loads(CONFIG.to_json()).items() if not name.startswith("ema_s")}
    Checkpoints(str(copied)).save(320, {"step": tf.Variable(320)}, {build.RUN: json.dumps(older)})
    with pytest.raises(ValueError, match=r"^--std needs what a training with --ema_stds=0\.05,0\.1 leaves"):
        run(f"--workdir={copied}", "--std=0.08")
