"""Claims of the evaluation as a whole, whatever the batch, the order and the kills; evaluate_samples_test has ADM's
numbers."""

import errno
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.evaluation import feature_set
from dit_tf.evaluation.evaluator import Evaluator, evenly_spaced
from dit_tf.evaluation.extractor import InceptionExtractor, PixelExtractor
from dit_tf.evaluation.frechet import Frechet
from dit_tf.evaluation.inception import load_inception
from dit_tf.evaluation.scores import Scores

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "adm"


class Images:
    """An image set in memory. batch sizes that were asked for, and images that were read, are written down."""

    def __init__(self, images):
        self.images, self.count, self.shape, self.read = images, len(images), images.shape[1:], 0

    def batches(self, batch_size, first=0):
        for start in range(first, self.count, batch_size):
            batch = self.images[start : start + batch_size]
            self.read += len(batch)
            yield batch

    def provenance(self):
        return {"bytes": int(self.images.astype(np.int64).sum())}


@pytest.fixture
def pixels():
    return PixelExtractor((4, 4, 1), 7, scale=lambda images: images / np.float32(127.5) - 1)


def features_of(extractor, images, tmp_path, name):
    rows = feature_set.extract_features(extractor, images, str(tmp_path / name), name)
    return np.concatenate([rows.pool, rows.spatial, rows.probabilities], axis=1)


def test_the_batch_and_the_replicas_change_rounding_alone(inception_file, tmp_path):
    """XLA's convolutions of other batches add in another order: see inception_test."""
    images = Images(np.load(_GOLDENS / "batch_ref.npz")["arr_0"][:5])  # so that the last batch of either is filled up
    sixteen = features_of(InceptionExtractor(load_inception(inception_file), 16), images, tmp_path, "sixteen")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        copies = load_inception(inception_file)
    one_each = features_of(InceptionExtractor(copies, 2, strategy), images, tmp_path, "one_each")
    size = np.abs(sixteen).max(axis=0) + sixteen.mean()
    assert (np.abs(one_each - sixteen) / size).max() < 3e-4
    assert (np.abs(sixteen - sixteen[:1]).max(axis=1)[1:] > 0.1).all()  # images differ


def test_the_order_of_images_does_not_matter(pixels, tmp_path, rng):
    images, others = rng.integers(0, 256, (2, 60, 4, 4, 1), dtype=np.uint8)
    scores = Evaluator(pixels, None, Images(images), partial=str(tmp_path / "m"))(Images(others)).numbers()
    for shuffled in (images, others):
        rng.shuffle(shuffled)
    again = Evaluator(pixels, None, Images(images), partial=str(tmp_path / "n"))(Images(others)).numbers()
    # Sums of 60 float64 numbers in another order.
    for name in ("fd_pixels", "precision_pixels", "recall_pixels"):
        assert again[name] == pytest.approx(scores[name], rel=1e-9, abs=1e-12)


def test_a_set_is_no_distance_from_itself(pixels, tmp_path, rng):
    images = Images(rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8))
    scores = Evaluator(pixels, None, images, partial=str(tmp_path / "m"))(images)
    assert scores.fid.distance < 1e-9 and scores.precision == scores.recall == 1.0
    assert scores.sfid is None and scores.inception_score is None
    assert list(scores.numbers()) == ["fd_pixels", "precision_pixels", "recall_pixels", "fd_pixels_error"]


def test_it_goes_on_where_it_stopped_and_leaves_nothing(pixels, tmp_path, rng):
    reference, samples = (Images(rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)) for _ in range(2))
    whole = Evaluator(pixels, None, reference, partial=str(tmp_path / "whole"))(samples)
    reference.read = samples.read = 0

    class Killed(Exception):
        pass

    class Interrupted(Images):
        def batches(self, batch_size, first=0):
            for i, batch in enumerate(super().batches(batch_size, first)):
                if i == 2:
                    raise Killed
                yield batch

    with pytest.raises(Killed):
        Evaluator(pixels, None, reference, partial=str(tmp_path / "m"))(Interrupted(samples.images))
    evaluator = Evaluator(pixels, None, reference, partial=str(tmp_path / "m"))
    assert evaluator(samples) == whole
    assert (reference.read, samples.read) == (30, 30 - 14)  # what two batches of 7 have given is not read again
    evaluator.remove()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("m.")] == []


def test_a_full_disk_is_one_sentence(pixels, tmp_path, rng, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    images = Images(rng.integers(0, 256, (20, 4, 4, 1)).astype(np.uint8))
    evaluator = Evaluator(pixels, None, images, partial=str(tmp_path / "m"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"^/.* cannot be written \(No space left on device\): make room .*\.$"):
            evaluator(images)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^/.*/file/m.* cannot be written \("):
        Evaluator(pixels, None, images, partial=str(tmp_path / "file" / "m"))(images)


def test_one_reference_serves_many_sets(pixels, tmp_path, rng):
    reference, *sets = (Images(rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)) for _ in range(3))
    evaluator = Evaluator(pixels, None, reference, partial=str(tmp_path / "m"))
    first, second = (evaluator(images, name=f"step{i}") for i, images in enumerate(sets))
    assert reference.read == 30 and first != second


@pytest.mark.parametrize(
    "count, features, title",
    [(50_000, "inception", "FID-50K"), (10_000, "inception", "FID-10K"), (50_001, "inception", "FID-50001"),
     (500, "pixels", "FD-pixels-500"), (2_500, "inception", "FID-2500")],
)  # fmt: skip
def test_a_distance_is_called_after_its_count(count, features, title):
    distance = Frechet(9.62, 0.0)
    scores = Scores(features, count, distance, distance, 121.5, 0.67, None)
    assert scores.title == title and scores.table().split()[0] == title
    assert "9.62" in scores.table() and scores.table().split()[-1] == "-"


def test_a_distance_that_rounding_may_have_moved_is_told():
    """Beyond the two decimals that are printed, and beyond a thousandth of the distance."""
    sure, unsure, large = Frechet(9.62, 1e-7), Frechet(9.62, 0.02), Frechet(1090.0, 0.02)
    told = [Scores("inception", 10, fid, sure, 1.0, 1.0, 1.0).doubts() for fid in (sure, unsure, large)]
    assert told[0] == told[2] == []
    assert told[1] == ["Rounding may have moved FID-10 by 0.02: there are too few images for its covariances."]


def test_reference_images_are_evenly_spaced():
    assert evenly_spaced(10, 5).tolist() == [0, 2, 4, 6, 8] and evenly_spaced(3, 3).tolist() == [0, 1, 2]
    assert evenly_spaced(50_000, 1000)[-1] == 49_950


def test_bad_sets_are_told_before_anything_is_computed(pixels, tmp_path, rng):
    images = Images(rng.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8))
    partial = str(tmp_path / "m")
    with pytest.raises(ValueError, match="The reference must be at least as many images .* got 15 of 16"):
        Evaluator(pixels, None, Images(images.images[:15]), partial=partial)
    with pytest.raises(ValueError, match="--num_reference_images must be from 1 to 30, .* got 31"):
        Evaluator(pixels, None, images, partial=partial, num_reference_images=31)
    with pytest.raises(ValueError, match="--precision_recall_dtype must be float16 or float32, got float64"):
        Evaluator(pixels, None, images, partial=partial, dtype="float64")
    evaluator = Evaluator(pixels, None, images, partial=partial)
    with pytest.raises(ValueError, match="The samples must be at least as many .* got 15 of 16.*--allow_few_samples"):
        evaluator(Images(images.images[:15]))
    with pytest.raises(ValueError, match="must have the size of the reference's images, 4x4x1, got 4x2x1"):
        evaluator(Images(images.images[:, :, :2]))
    with pytest.raises(ValueError, match="--features=pixels is for images of at most 4096 numbers.*got 64x64x3"):
        PixelExtractor((64, 64, 3), 1, None)
    assert images.read == 0 and not list(tmp_path.iterdir())


def test_the_reference_may_be_large_only_as_statistics(pixels, tmp_path):
    images = Images(np.zeros((1, 4, 4, 1), np.uint8))
    images.count = 100_001
    with pytest.raises(ValueError, match="--reference must hold at most 100,000 images, got 100,001.*--make_reference"):
        Evaluator(pixels, None, images, partial=str(tmp_path / "m"))
