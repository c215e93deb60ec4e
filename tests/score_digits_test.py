"""Claims of the entry that scores digits: what it prints, and that bad files end in one sentence."""

import json
import pickle

import numpy as np
import pytest
import scipy.spatial

from dit_tf import score_digits
from dit_tf.data import pipeline
from dit_tf.evaluation.precision_recall import precision_and_recall
from tests.commands import run_command

KEYS = {
    "samples",
    "class_agreement_guided",
    "class_agreement_unguided",
    "frechet_pixels_guided",
    "frechet_pixels_unguided",
    "nearest_neighbour_ratio_guided",
    "nearest_neighbour_ratio_unguided",
    "precision_guided",
    "precision_unguided",
    "recall_guided",
    "recall_unguided",
    "classifier_accuracy",
    "train_seconds",
    "total_seconds",
}


@pytest.fixture(scope="module")
def real(folder):
    """Pixels (M, 64) in [-1, 1], float64: the training digits, the held-out ones, and both."""
    files = (np.load(folder / f"{name}.npz")["arr_0"] for name in ("all_train", "held_out"))
    train, test = (images.reshape(-1, 64) / 127.5 - 1.0 for images in files)
    return train, test, np.concatenate([train, test])


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
    return run_command("dit_tf.score_digits", *arguments)


def test_real_digits_score_as_real_digits_do(scores):
    assert scores["class_agreement_guided"] == scores["classifier_accuracy"] > 0.98
    assert scores["nearest_neighbour_ratio_guided"] == 1.0
    assert scores["frechet_held_out_guided"] < 1e-9  # of itself, up to rounding
    assert scores["precision_guided"] == 1.0  # each is among the digits that it is compared with


def test_copies_of_training_digits_are_told_from_samples(scores):
    assert scores["nearest_neighbour_ratio_unguided"] == 0.0


def test_distances_are_those_of_numpys_covariances(real, scores):
    train, test, both = real
    for key, one, other in (
        ("frechet_pixels_guided", both, test),
        ("frechet_pixels_unguided", both, train[:400]),
        ("frechet_held_out_unguided", test, train[:400]),
        ("frechet_pixels_halves", both[::2], both[1::2]),
    ):
        covariances = [np.cov(pixels, rowvar=False) for pixels in (one, other)]
        roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
        expected = np.sum((one.mean(axis=0) - other.mean(axis=0)) ** 2) + np.trace(sum(covariances)) - 2.0 * roots
        # The pixels of a corner are always paper, and the root of an eigenvalue that is zero loses half of the digits.
        assert scores[key] == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall_are_of_samples_against_all_digits(real, scores):
    train, test, both = real
    for kind, own, reference in (
        ("guided", test, both),
        ("unguided", train[:400], both),
        ("halves", both[::2], both[1::2]),
    ):
        # Distances in float16 move some digits over the rim of a ball; 0.4% is seen, and sides exchanged make 20%.
        assert scores[f"precision_{kind}"] == pytest.approx(share_inside(own, reference), abs=0.01)
        assert scores[f"recall_{kind}"] == pytest.approx(share_inside(reference, own), abs=0.01)
        half = precision_and_recall(np.float32(reference), np.float32(own), dtype="float16", progress=False)
        # Two ways to [-1, 1] in float32, one of them here by float64, may flip one.
        assert scores[f"precision_{kind}"] == pytest.approx(half[0][0], abs=1.01 / len(own))
        assert scores[f"recall_{kind}"] == pytest.approx(half[1][0], abs=1.01 / len(reference))


def share_inside(points, others):
    """The share of points within the distance that any of the others has to its third neighbour."""
    radii = np.sort(scipy.spatial.distance.cdist(others, others), axis=1)[:, 3]
    return np.mean((scipy.spatial.distance.cdist(points, others) <= radii).any(axis=1))


def test_noise_scores_badly_in_everything(folder, scores, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", noise, np.arange(200) % 10)
    bad = score_digits.score(str(tmp_path / "noise.npz"), str(folder / "all_train.npz"), folder)
    assert bad["class_agreement_guided"] < 0.3
    assert bad["frechet_pixels_guided"] > 20 * scores["frechet_pixels_guided"]
    assert bad["nearest_neighbour_ratio_guided"] > 2
    assert bad["precision_guided"] == bad["recall_guided"] == 0.0
    assert bad["precision_unguided"] == 1.0 and bad["recall_unguided"] > 0.9
    # Guided and unguided are not mixed up, and the training digits are the larger part of all digits.
    assert bad["frechet_pixels_unguided"] < scores["frechet_pixels_guided"]


def test_features_are_pixels_from_minus_one_to_one():
    images = np.zeros((3, 8, 8, 1), np.uint8)
    images[1], images[2, 1, 2] = 255, 51
    features = score_digits.pixel_features(images)
    assert features.shape == (3, 64) and features.dtype == np.float32
    assert np.all(features[0] == -1) and np.all(features[1] == 1)
    assert features[2, 10] == pytest.approx(51 / 127.5 - 1, abs=1e-7)  # float32


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
    for title in ("class agreement", "precision", "recall", "nearest-neighbour", "FD-pixels-360 and FD-pixels-400 to "):
        assert any(line.startswith(title) for line in table)
    assert not any("FID" in line.replace("no FID", "") or "Frechet" in line for line in table)


def test_the_distance_is_titled_once_where_both_sets_are_of_one_size(scores):
    lines = score_digits.table(dict(scores, count_guided=5000, count_unguided=5000)).splitlines()
    titles = [line.split("   ")[0] for line in lines if line.startswith("FD-")]
    assert titles == ["FD-pixels-5K to all digits", "FD-pixels-5K to held-out digits"]
    assert len({len(line.split("  (")[0]) for line in lines}) == 1  # columns meet


def test_seconds_that_were_not_given_are_null(scores):
    record = json.loads(json.dumps(score_digits.summary(scores, "x.npz", None, None)))
    assert set(record) == KEYS
    assert record["train_seconds"] is None and record["total_seconds"] is None


def test_the_command_ends_in_one_sentence_without_traceback(folder):
    done = run(f"--samples={folder / 'held_out.npz'}", "--unguided_samples=nowhere.npz")
    assert done.returncode == 1
    assert done.stdout == ""
    # Some TensorFlow versions say something of their own at start-up.
    assert done.stderr.splitlines()[-1] == (
        "dit_tf.score_digits: --unguided_samples=nowhere.npz cannot be read as an .npz file: No such file or directory."
    )
    assert "Traceback" not in done.stderr


IMAGES, LABELS = np.zeros((70, 8, 8, 1), np.uint8), np.arange(70) % 10


@pytest.mark.parametrize(
    "arrays, complaint",
    [
        ((IMAGES,), r"has no labels \(arr_1\): draw the images with dit_tf.sample"),
        ((IMAGES / 255.0, LABELS), "arr_0 must be uint8 .* got float64"),
        ((IMAGES[..., 0], LABELS), r"arr_0 must be uint8 \(N, H, W, 1\), got uint8 \(70, 8, 8\)"),
        ((np.zeros((70, 8, 8, 3), np.uint8), LABELS), r"arr_0 must be uint8 \(N, H, W, 1\)"),
        ((np.zeros((70, 8, 9, 1), np.uint8), LABELS), "its images must be digits of 8x8x1, got 8x9x1"),
        ((IMAGES[:63], LABELS[:63]), "as many images as a digit has pixels, 64, got 63: draw more, with --num_samples"),
        ((IMAGES, LABELS[:2]), r"arr_1 must be integers of shape \(70,\), got int64 \(2,\)"),
        ((IMAGES, LABELS / 2), r"arr_1 must be integers of shape \(70,\), got float64 \(70,\)"),
        ((IMAGES, LABELS + 8), r"its labels \(arr_1\) must be 0 to 9, got 8 to 17"),
        ((IMAGES, LABELS - 1), r"its labels \(arr_1\) must be 0 to 9, got -1 to 8"),
        ((IMAGES, np.array([{}] * 70)), "arr_1 has Python objects, which are never read"),
    ],
)
def test_wrong_arrays_are_told_with_flag_and_file(tmp_path, arrays, complaint):
    path = tmp_path / "bad.npz"
    np.savez(path, *arrays)
    with pytest.raises(ValueError, match=f"^--samples={path}:? .*{complaint}") as caught:
        score_digits.load_samples("--samples", str(path))
    assert "\n" not in str(caught.value) and "--allow_few_samples" not in str(caught.value)


def test_as_many_images_as_pixels_are_enough(tmp_path):
    np.savez(tmp_path / "few.npz", IMAGES[:64], LABELS[:64].astype(np.uint8))
    features, labels = score_digits.load_samples("--samples", str(tmp_path / "few.npz"))
    assert features.shape == (64, 64) and labels.tolist() == LABELS[:64].tolist()


def test_images_are_read_in_batches_and_keep_their_order(folder, monkeypatch):
    whole, _ = score_digits.load_samples("--samples", str(folder / "all_train.npz"))
    monkeypatch.setattr(score_digits, "_BATCH", 100)
    np.testing.assert_array_equal(score_digits.load_samples("--samples", str(folder / "all_train.npz"))[0], whole)
    images = np.load(folder / "all_train.npz")["arr_0"]
    np.testing.assert_array_equal(whole, score_digits.pixel_features(images))


@pytest.mark.parametrize("path", [None, ""])
def test_a_file_must_be_named(path):
    with pytest.raises(ValueError, match="^--unguided_samples must name an npz file of samples"):
        score_digits.load_samples("--unguided_samples", path)


def a_pickle(folder):
    return pickle.dumps(np.zeros(3))


def a_truncated_file(folder):
    return (folder / "held_out.npz").read_bytes()[:5000]


def a_damaged_file(folder):
    damaged = bytearray((folder / "held_out.npz").read_bytes())
    damaged[2000] ^= 255  # within the images: the checksum of the member fails
    return damaged


@pytest.mark.parametrize("content", [a_pickle, a_truncated_file, a_damaged_file])
def test_a_file_of_another_kind_or_a_damaged_one_is_refused(folder, tmp_path, content):
    path = tmp_path / "bad.npz"
    path.write_bytes(content(folder))
    with pytest.raises(ValueError, match=f"^--samples={path} cannot be read as an .npz file: [^\n]*$"):
        score_digits.load_samples("--samples", str(path))
