"""`python -m dit_tf.sample`: image i is a function of (seed, i) and its label, in files that others can read."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dit_tf import flags, sample
from dit_tf.samplers.solvers import Work


@pytest.fixture
def run(parse, trained, tmp_path):
    """run(flag, ...) -> images and labels of an npz drawn from the tiny trained model."""

    def draw(*more, weights=f"--workdir={trained}"):
        path = tmp_path / "samples.npz"
        sample.main(parse(flags.define_sample, weights, "--sampler=ddim", "--num_steps=5", f"--output={path}", *more))
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["arr_0"], arrays["arr_1"]

    return draw


def test_the_npz_is_laid_out_as_the_evaluator_reads_it(run):
    images, labels = run("--labels=3,1", "--num_samples=5")
    assert images.dtype == np.uint8 and images.shape == (5, 8, 8, 1)
    assert labels.dtype == np.int64 and labels.tolist() == [3, 1, 3, 1, 3]


def test_the_batch_size_changes_no_image(run):
    """By more than one grey level: products over batches of other sizes may be summed in another order."""
    one, several = (run("--labels=3,1,4,1,5", "--cfg_scale=2", f"--batch_size={n}")[0] for n in (1, 3))
    assert np.abs(one.astype(int) - several.astype(int)).max() <= 1


def test_two_replicas_draw_the_images_of_one(trained, tmp_path):
    images = []
    for name, more in {"one": [], "two": ["--strategy=mirrored", "--logical_cpus=2"]}.items():
        path = tmp_path / f"{name}.npz"
        command = [sys.executable, "-m", "dit_tf.sample", f"--workdir={trained}", "--labels=3,1,4", "--num_steps=5"]
        subprocess.run([*command, "--batch_size=2", f"--output={path}", *more], check=True, capture_output=True)
        images.append(np.load(path)["arr_0"].astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1


def test_an_image_depends_on_seed_index_and_label_alone(run):
    images, _ = run("--labels=3,1,4")
    again, _ = run("--labels=7,1,4,2")
    assert np.abs(images[1:3].astype(int) - again[1:3].astype(int)).max() <= 1
    other_seed, _ = run("--labels=3,1,4", "--seed=1")
    assert np.abs(images.astype(int) - other_seed.astype(int)).max() > 10


def test_a_keras_file_gives_the_images_of_its_work_directory(run, trained):
    np.testing.assert_array_equal(
        run("--labels=3,1")[0], run("--labels=3,1", weights=f"--weights={trained / 'model.keras'}")[0]
    )


def test_random_labels_are_drawn_from_the_seed(run):
    _, labels = run("--num_samples=40")
    assert len(set(labels.tolist())) > 5 and labels.min() >= 0 and labels.max() <= 9


def test_the_grid_shows_every_image(parse, trained, tmp_path):
    path = tmp_path / "grid.png"
    sample.main(
        parse(flags.define_sample, f"--workdir={trained}", "--labels=3,1,4", "--sampler=ddim", "--num_steps=5",
              "--num_samples=6", f"--output={path}")
    )  # fmt: skip
    grid = np.asarray(Image.open(path).convert("L"))
    assert grid.shape[1] > grid.shape[0] > 2 * 48  # two rows of three


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
    ],
)
def test_bad_values_name_the_flag_the_rule_and_the_value(parse, trained, more, words):
    options = parse(flags.define_sample, f"--workdir={trained}", *more)
    with pytest.raises(ValueError) as error:
        sample.main(options)
    assert all(word in str(error.value) for word in words), error.value


def test_a_solver_that_gives_up_is_one_sentence_and_costs_are_told():
    work = Work(np.array([14, 32]), np.array([1, 0]), np.array([True, True]))
    sample.check_finished(work)
    said = "23.0 function evaluations per image (14 to 32); 3.0 steps accepted and 0.5 rejected"
    assert sample.report(work) == said  # 2 evaluations at the start and 6 for each of 2 and of 5 steps
    with pytest.raises(ValueError, match="--solver=dopri5 gave up on 1 of 2 images.*--rtol, or take --solver=heun"):
        sample.check_finished(work._replace(finished=np.array([True, False])))


def test_a_missing_model_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "dit_tf.sample", f"--workdir={tmp_path / 'nothing'}", "--labels=1"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert "holds no checkpoint" in process.stderr.splitlines()[-1]
