"""Claims of the entry that scores digits: what it prints, and that bad files end in one sentence."""

import json
import os
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from dit_tf import score_digits
from dit_tf.data import pipeline

KEYS = {
    "samples",
    "class_agreement_guided",
    "class_agreement_unguided",
    "frechet_pixels_guided",
    "frechet_pixels_unguided",
    "nearest_neighbour_ratio_guided",
    "nearest_neighbour_ratio_unguided",
    "classifier_accuracy",
    "train_seconds",
    "total_seconds",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """held_out.npz and copies.npz (of training digits) beside the prepared digits."""
    folder = tmp_path_factory.mktemp("score")
    digits = pipeline.open_dataset("digits", folder)
    images, labels = pipeline.real_images(digits, "test")
    np.savez(folder / "held_out.npz", images, labels)
    images, labels = pipeline.real_images(digits, "train")
    np.savez(folder / "copies.npz", images[:400], labels[:400])
    np.savez(folder / "all_train.npz", images, labels)
    return folder


@pytest.fixture(scope="module")
def scores(folder):
    return score_digits.score(str(folder / "held_out.npz"), str(folder / "copies.npz"), folder)


def run(*arguments):
    root = pathlib.Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-m", "dit_tf.score_digits", *arguments],
        cwd=root,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])),
        capture_output=True,
        text=True,
    )


def test_real_digits_score_as_real_digits_do(scores):
    assert scores["class_agreement_guided"] == scores["classifier_accuracy"] > 0.98
    assert scores["nearest_neighbour_ratio_guided"] == 1.0
    assert scores["frechet_held_out_guided"] < 1e-9  # of itself, up to rounding


def test_copies_of_training_digits_are_told_from_samples(scores):
    assert scores["nearest_neighbour_ratio_unguided"] == 0.0


def test_noise_scores_badly_in_everything(folder, scores, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", noise, np.arange(200) % 10)
    bad = score_digits.score(str(tmp_path / "noise.npz"), str(folder / "all_train.npz"), folder)
    assert bad["class_agreement_guided"] < 0.3
    assert bad["frechet_pixels_guided"] > 20 * scores["frechet_pixels_guided"]
    assert bad["nearest_neighbour_ratio_guided"] > 2
    # Guided and unguided are not mixed up, and the training digits are the larger part of all digits.
    assert bad["frechet_pixels_unguided"] < scores["frechet_pixels_guided"]


def test_features_are_pixels_from_minus_one_to_one():
    images = np.zeros((3, 8, 8, 1), np.uint8)
    images[1], images[2, 1, 2] = 255, 51
    features = score_digits.pixel_features(images)
    assert features.shape == (3, 64) and features.dtype == np.float64
    assert np.all(features[0] == -1) and np.all(features[1] == 1)
    assert features[2, 10] == pytest.approx(51 / 127.5 - 1, abs=1e-7)  # float32 on the way


def test_the_command_prints_a_table_and_ends_with_one_json_object(folder):
    samples = str(folder / "held_out.npz")
    done = run(
        f"--samples={samples}",
        f"--unguided_samples={folder / 'copies.npz'}",
        f"--data_dir={folder}",
        "--train_seconds=12.5",
        "--start_time=1",
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    record = json.loads(last)
    assert set(record) == KEYS
    assert record["samples"] == samples and record["train_seconds"] == 12.5
    assert record["total_seconds"] > 1e9  # since 1970
    assert record["nearest_neighbour_ratio_unguided"] == 0.0
    for title in ("class agreement", "Frechet distance", "nearest-neighbour", "copier"):
        assert any(title in line for line in table)


def test_seconds_that_were_not_given_are_null(scores):
    record = json.loads(json.dumps(score_digits.summary(scores, "x.npz", None, None)))
    assert set(record) == KEYS
    assert record["train_seconds"] is None and record["total_seconds"] is None


def test_the_command_ends_in_one_sentence_without_traceback(folder):
    done = run(f"--samples={folder / 'held_out.npz'}", "--unguided_samples=nowhere.npz")
    assert done.returncode == 1
    assert done.stdout == ""
    # Some TensorFlow versions say something of their own at start-up.
    assert done.stderr.splitlines()[-1] == "dit_tf.score_digits: --unguided_samples=nowhere.npz does not exist."
    assert "Traceback" not in done.stderr


IMAGES, LABELS = np.zeros((3, 8, 8, 1), np.uint8), np.arange(3)


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        ((IMAGES,), "must hold arr_0 .* and arr_1"),
        ((IMAGES / 255.0, LABELS), "arr_0 must be uint8 .* got float64"),
        ((IMAGES[..., 0], LABELS), r"arr_0 must be uint8 of shape \(M, 8, 8, 1\) .* got uint8 of shape \(3, 8, 8\)"),
        ((IMAGES[:1], LABELS[:1]), "M at least 2"),
        ((IMAGES, LABELS[:2]), "arr_1 must hold 3 integer labels"),
        ((IMAGES, LABELS / 2), "arr_1 must hold 3 integer labels, got float64"),
        ((IMAGES, LABELS + 8), "labels must be 0 to 9, got 8 to 10"),
        ((IMAGES, np.array([{}] * 3)), "cannot be read as an npz file of plain arrays"),
    ],
)
def test_wrong_arrays_are_told_with_flag_and_file(tmp_path, arrays, complaint):
    path = tmp_path / "bad.npz"
    np.savez(path, *arrays)
    with pytest.raises(ValueError, match=f"^--samples={path}:? .*{complaint}"):
        score_digits.load_samples("--samples", str(path))


def test_a_pickle_is_refused_unopened(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(pickle.dumps(np.zeros(3)))
    with pytest.raises(ValueError, match=f"^--samples={path} is no npz file.$"):
        score_digits.load_samples("--samples", str(path))


def test_a_truncated_file_is_refused(folder, tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes((folder / "held_out.npz").read_bytes()[:5000])
    with pytest.raises(ValueError, match=f"^--samples={path} is no npz file.$"):
        score_digits.load_samples("--samples", str(path))


def test_a_damaged_file_is_refused(folder, tmp_path):
    path = tmp_path / "bad.npz"
    damaged = bytearray((folder / "held_out.npz").read_bytes())
    damaged[2000] ^= 255  # within the images: the checksum of the member fails
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=f"^--samples={path} cannot be read as an npz file"):
        score_digits.load_samples("--samples", str(path))
