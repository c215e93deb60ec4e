"""`python -m dit_tf.sample`: image i is a function of (seed, i) and its label, in files that others can read."""

import errno
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

import dit_tf
from dit_tf import build, flags, sample
from dit_tf.evaluation.image_folder import ImageFolder
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.runtime.npz_writer import PartialArray
from tests.commands import run_command


@pytest.fixture(scope="module")
def compiled_once():
    """make_sampler, which gives the compiled program of another run where the options are the same: weights, labels and
    seed are its arguments."""
    make, made = build.make_sampler, {}

    def once(config, model, options, *more):
        return made.setdefault(options, make(config, model, options, *more))

    return once


@pytest.fixture
def draw(parse, trained, tmp_path, monkeypatch, compiled_once):
    """draw(flag, ...) -> the path of samples.npz, or of another name, drawn from the tiny trained model."""
    monkeypatch.setattr(build, "make_sampler", compiled_once)

    def drawn(*more, weights=f"--workdir={trained}", name="samples.npz"):
        path = tmp_path / name
        few = [] if "--sampler=ode" in more else ["--sampler=ddim", "--num_steps=5"]
        sample.main(parse(flags.define_sample, weights, f"--output={path}", "--batch_size=2", *few, *more))
        return path

    return drawn


@pytest.fixture
def run(draw):
    """run(flag, ...) -> images and labels."""

    def arrays_of(*more, **named):
        with np.load(draw(*more, **named), allow_pickle=False) as arrays:
            return arrays["arr_0"], arrays["arr_1"]

    return arrays_of


def test_the_npz_is_laid_out_as_the_evaluator_reads_it(run):
    images, labels = run("--labels=3,1", "--num_samples=5")
    assert images.dtype == np.uint8 and images.shape == (5, 8, 8, 1)
    assert labels.dtype == np.int64 and labels.tolist() == [3, 1, 3, 1, 3]


def test_the_batch_size_changes_no_image(run):
    """By more than one grey level: products over batches of other sizes may be summed in another order."""
    guided = ["--labels=3,1,4,1,5", "--cfg_scale=1.5", "--eta=0.5"]
    one, several = (run(*guided, f"--batch_size={n}")[0] for n in (1, 2))
    assert np.abs(one.astype(int) - several.astype(int)).max() <= 1


def test_two_replicas_draw_the_images_of_one(draw, trained, tmp_path):
    labels, path = "--labels=3,1,4", tmp_path / "two.npz"
    command = ["dit_tf.sample", f"--workdir={trained}", labels, "--sampler=ddim", "--num_steps=5", f"--output={path}"]
    done = run_command(*command, "--batch_size=2", "--strategy=mirrored", "--logical_cpus=2")
    assert done.returncode == 0, done.stderr
    found = [np.load(draw(labels)), np.load(path)]
    images, told = ([arrays[name] for arrays in found] for name in ("arr_0", "provenance"))
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1
    np.testing.assert_array_equal(*told)


def test_an_image_depends_on_seed_index_and_label_alone(run):
    images, _ = run("--labels=3,1,4")
    again, _ = run("--labels=7,1,4,2")
    assert np.abs(images[1:3].astype(int) - again[1:3].astype(int)).max() <= 1
    other_seed, _ = run("--labels=3,1,4", "--seed=1")
    assert np.abs(images.astype(int) - other_seed.astype(int)).max() > 10


def test_a_keras_file_gives_the_images_of_its_work_directory(draw, trained):
    ours = draw("--labels=3,1,4,1")
    theirs = draw("--labels=3,1,4,1", weights=f"--weights={trained / 'model.keras'}", name="k.npz")
    np.testing.assert_array_equal(np.load(ours)["arr_0"], np.load(theirs)["arr_0"])
    digests = {NpzImages("", str(path), (1,)).provenance()["made_by"]["weights_sha256"] for path in (ours, theirs)}
    assert len(digests) == 1


def test_random_labels_are_drawn_from_the_seed(run):
    _, labels = run("--num_samples=40")
    assert len(set(labels.tolist())) > 5 and labels.min() >= 0 and labels.max() <= 9


def test_balanced_labels_have_every_class_as_often(run):
    _, labels = run("--num_samples=20", "--label_policy=balanced")
    assert labels.tolist() == [*range(10), *range(10)]


def test_the_grid_shows_every_image(draw):
    path = draw("--labels=3,1,4", "--num_samples=6", name="grid.png")
    grid = np.asarray(Image.open(path).convert("L"))
    assert grid.shape[1] > grid.shape[0] > 2 * 48  # two rows of three
    assert os.listdir(path.parent) == ["grid.png"]


def test_the_npz_says_where_it_comes_from(draw, trained):
    path = draw("--num_samples=3", "--cfg_scale=1.5", "--eta=0.5", "--seed=7", "--label_policy=balanced")
    told = NpzImages("--samples", str(path), channels=(1,)).provenance()
    made_by, labels = told["made_by"], np.arange(3)
    params = build.weights_of(build.load_model(str(trained)))
    expected = dict(
        dit_tf=dit_tf.__version__, model=str(trained), weights_sha256=build.weights_digest(params), vae_sha256=None,
        objective="ddpm", label_policy="balanced", sampler="ddim", num_steps=5, solver=None, eta=0.5, cfg_scale=1.5,
        seed=7, images=3,
    )  # fmt: skip
    assert {name: made_by[name] for name in expected} == expected
    assert (told["images"], told["size"]) == (made_by["images"], made_by["size"]) == (3, [8, 8, 1])
    np.testing.assert_array_equal(NpzImages("--samples", str(path), channels=(1,)).labels(), labels)
    given = draw("--labels=0,1,2", "--cfg_scale=1.5", "--eta=0.5", "--seed=7", name="given.npz")
    assert json.loads(np.load(given)["provenance"].tobytes()) == made_by | {"label_policy": "given"}


@pytest.fixture
def interrupted(draw, monkeypatch):
    """interrupted(flag, ...): a run that is ended, as by Control-C, while its third batch is written."""

    def ended(self, rows, note=None, append=PartialArray.append):
        if len(self.notes) == 2:
            raise KeyboardInterrupt
        append(self, rows, note)

    def run(*more, **named):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(PartialArray, "append", ended)
            draw(*more, **named)

    return run


@pytest.mark.parametrize("ending", ["npz", "png"])
def test_an_interrupted_run_goes_on_to_the_file_of_an_unbroken_one(draw, interrupted, capfd, monkeypatch, ending):
    command, begun, append = ["--labels=3,1,4,1,5,9,2", "--batch_size=2"], [], PartialArray.append

    def noted(self, rows, note=None):
        begun.append(self.count)
        append(self, rows, note)

    whole = draw(*command, name=f"whole.{ending}")
    interrupted(*command, name=f"broken.{ending}")
    assert not (whole.parent / f"broken.{ending}").exists()
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(PartialArray, "append", noted)
        broken = draw(*command, name=f"broken.{ending}")
    said, bar = capfd.readouterr()
    assert begun == [4, 6]  # the first four are not drawn again
    assert "4 of 7 images are there already" in said and "| 4/7 [" in bar and "| 0/7 [" not in bar
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(whole.parent)) == [broken.name, whole.name]


def test_other_flags_start_anew(draw, interrupted, capsys):
    command = ["--labels=3,1,4,1,5", "--batch_size=2"]
    for change in ("--seed=1", "--labels=3,1,4,1,6"):  # drawn_images_test.py has the others
        whole = draw(*command, change, name="whole.npz")
        interrupted(*command, name="broken.npz")
        capsys.readouterr()
        broken = draw(*command, change, name="broken.npz")
        assert "there already" not in capsys.readouterr().out
        assert broken.read_bytes() == whole.read_bytes()


KILLED = """
import os, signal
from dit_tf import flags, sample
synced = []
def fsync(file):  # comes once a batch: its rows are on the disk, and the line that says so is not
    synced.append(file)
    if len(synced) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
flags.run(sample.main, flags.define_sample)
"""


def test_a_killed_run_goes_on_and_reports_the_work_of_all(draw, trained, capsys):
    command = ["--labels=3,1,4,1,5", "--batch_size=2", "--sampler=ode", "--solver=dopri5", "--atol=1e-3", "--rtol=1e-2"]
    whole = draw(*command, name="whole.npz")
    report = capsys.readouterr().out.splitlines()[1]
    least, most = re.search(r"\((\d+) to (\d+)\)", report).groups()
    assert least != most  # so that the report of one image would be another
    broken = whole.parent / "broken.npz"
    program = ["-c", KILLED, f"--workdir={trained}", f"--output={broken}", *command]
    assert run_command(*program).returncode == -9
    assert sorted(os.listdir(whole.parent)) == ["broken.npz.partial", "broken.npz.partial.of", "whole.npz"]
    draw(*command, name="broken.npz")
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("4 of 5 images are there already") and said[2] == report
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(whole.parent)) == ["broken.npz", "whole.npz"]


def test_a_file_that_cannot_be_written_is_one_sentence(draw, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--output=.*samples.npz cannot be written \(.+\): make room .*\.$"):
        draw("--labels=3,1,4,1", name="file/samples.npz")

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\): make room"):
            draw("--labels=3,1,4,1")
    assert draw("--labels=3,1,4,1", name="other.npz").read_bytes() == draw("--labels=3,1,4,1").read_bytes()


@pytest.mark.parametrize(
    "more, words",
    [
        (["--labels=3,x"], ["--labels", "from 0 to 9", "'x'"]),
        (["--labels=1", "--vae=vae.keras"], ["--vae goes with models of latents", "vae.keras"]),
        (["--labels=10"], ["--labels", "from 0 to 9", "got 10"]),
        ([], ["--labels", "--num_samples"]),
        (["--labels=1", "--num_steps=1001"], ["--num_steps", "1000", "1001"]),
        (["--labels=1", "--sampler=euler"], ["--sampler", "ddpm, ddim", "euler"]),
        (["--labels=1", "--sampler=ddpm", "--eta=0.5"], ["--eta", "--sampler=ddim", "0.5"]),
        (["--labels=1", "--cfg_scale=-1"], ["--cfg_scale", "negative", "-1"]),
        (["--labels=1", "--output=grid.jpg"], ["--output", ".png or .npz", "grid.jpg"]),
        (["--labels=1", "--num_samples=0"], ["--num_samples", "at least 1", "0"]),
        (["--labels=1", "--batch_size=0"], ["--batch_size", "positive multiple", "0"]),
        (["--labels=1", "--weights=model.keras"], ["Exactly one of --workdir and --weights"]),
        (["--num_samples=9", "--label_policy=even"], ["--label_policy", "random, balanced", "'even'"]),
        (["--labels=1", "--label_policy=balanced"], ["--label_policy=balanced", "without --labels"]),
    ],
)
def test_bad_values_name_the_flag_the_rule_and_the_value(parse, trained, more, words):
    options = parse(flags.define_sample, f"--workdir={trained}", *more)
    with pytest.raises(ValueError) as error:
        sample.main(options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_folder_is_no_output(parse, trained, tmp_path):
    (tmp_path / "samples.npz").mkdir()
    options = parse(flags.define_sample, f"--workdir={trained}", "--labels=1", f"--output={tmp_path / 'samples.npz'}")
    with pytest.raises(ValueError, match="--output must be a file that ends in .png or .npz, or a directory, DIR/, got"):
        sample.main(options)


def test_what_images_have_cost_is_told():
    """2 evaluations at the start and 6 for each of 2 and of 5 steps."""
    said = "23.0 function evaluations per image (14 to 32); 3.0 steps accepted and 0.5 rejected"
    costs = [dict(evaluations=[14], rejected=[1]), dict(evaluations=[32], rejected=[0])]
    assert sample.report(costs) == said


def test_evaluate_leaves_tolerances_to_the_sampler(parse, trained):
    defaults = parse(flags.define_evaluate, f"--workdir={trained}")
    assert defaults.atol is None
    assert sample.sampler_options(defaults) == sample.sampler_options(parse(flags.define_sample, "--labels=1"))


def test_a_missing_model_is_one_sentence(tmp_path):
    process = run_command("dit_tf.sample", f"--workdir={tmp_path / 'nothing'}", "--labels=1")
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "holds no checkpoint" in process.stderr.splitlines()[-1]


def test_a_directory_gets_single_images_with_their_labels(draw, run, tmp_path, capsys):
    """Resumed when it is interrupted, and done when it is there."""
    labels = ["--labels=3,1,4,1"]
    (tmp_path / "singles").mkdir()
    path, (images, _) = draw(*labels, name="singles"), run(*labels)
    found = ImageFolder("--samples", str(path))
    np.testing.assert_array_equal(np.concatenate(list(found.batches(4))), images)
    assert (path / "labels.csv").read_text().splitlines()[2] == "000001.png,1,1"
    before = {name: os.stat(path / name).st_mtime_ns for name in os.listdir(path)}
    capsys.readouterr()
    draw(*labels, name="singles")
    assert "4 of 4 images are there already" in capsys.readouterr().out
    assert {name: os.stat(path / name).st_mtime_ns for name in before if name.endswith("png")}.items() <= before.items()
    with pytest.raises(ValueError, match="holds images of another run"):
        draw("--labels=5", name="singles")
