"""`python -m dit_tf.evaluate --make_reference`: a data set in ADM's format, that scores as the data set itself does."""

import errno
import json
import os

import numpy as np
import pytest

from dit_tf import evaluate, flags
from dit_tf.data import pipeline
from dit_tf.evaluation import partial_reference
from dit_tf.evaluation.references import Reference


@pytest.fixture(scope="module")
def make(parse, tiny_flags):
    """make(path, flag, ...) -> the path, where the command has written the reference."""
    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir"))

    def made(path, *more):
        arguments = ["--make_reference", "--dataset=digits", "--split=train", "--features=pixels", data_dir, *more]
        evaluate.main(parse(flags.define_evaluate, *arguments, f"--output={path}"))
        return path

    return made


@pytest.fixture
def run(make, tmp_path):
    """run(flag, ...) -> the path of the reference that the command writes."""
    return lambda *more, name="reference.npz": make(tmp_path / name, *more)


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """The bytes of the reference with 200 images, of a run that nothing has stopped."""
    return make(tmp_path_factory.mktemp("whole") / "whole.npz", "--num_reference_images=200").read_bytes()


@pytest.fixture
def digits(tiny_flags):
    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir")).split("=")[1]
    return pipeline.real_images(pipeline.open_dataset("digits", data_dir), "train")


def test_it_holds_statistics_of_all_and_some_images_with_labels(run, digits):
    images, labels = digits
    features = images.reshape(len(images), -1) / 127.5 - 1
    path = run("--num_reference_images=100", "--batch_size=70")
    with np.load(path) as found:
        assert found.files == ["arr_0", "arr_1", "mu", "sigma"]
        places = np.arange(100) * len(images) // 100
        np.testing.assert_array_equal(found["arr_0"], images[places])
        np.testing.assert_array_equal(found["arr_1"], labels[places])
        # The mean is stored in float32, as ADM's files have it; features are float32.
        np.testing.assert_allclose(found["mu"], features.mean(axis=0), atol=1e-6)
        assert found["mu"].dtype == np.float32 and found["sigma"].dtype == np.float64
        np.testing.assert_allclose(found["sigma"], np.cov(features, rowvar=False), atol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["reference.npz"]


def test_it_scores_as_the_data_set_does(run, parse, tiny_flags, tmp_path):
    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir"))

    def metrics(reference):
        more = ["--features=pixels", "--samples=digits", f"--output={tmp_path / 'metrics.json'}", data_dir]
        evaluate.main(parse(flags.define_evaluate, f"--reference={reference}", *more))
        return json.loads((tmp_path / "metrics.json").read_text())

    stored, direct = metrics(run()), metrics("digits")
    assert stored["fd_pixels"] == pytest.approx(direct["fd_pixels"], rel=1e-5)  # of the mean in float32
    assert stored["recall_pixels"] == direct["recall_pixels"]
    assert stored["provenance"]["reference"]["statistics"] == "stored"


def test_inceptions_features_have_four_arrays(run, inception_file, tmp_path, rng):
    """Of photographs; the statistics of fewer images than features are as good as those of many."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    path = run(
        f"--dataset=folder:{tmp_path / 'photos'}", "--features=inception", f"--inception={inception_file}",
        "--image_size=32", "--num_reference_images=4", "--batch_size=16",
    )  # fmt: skip
    reference = Reference("--reference", path)
    pool, spatial = reference.statistics()
    assert reference.images.shape == (32, 32, 3) and reference.images.count == 4
    assert np.linalg.matrix_rank(spatial.covariance) == 5 and pool.mean.shape == (2048,)


@pytest.mark.parametrize("lost", ["nothing", "statistics", "images"])
def test_a_killed_run_goes_on(run, whole, monkeypatch, tmp_path, lost):
    monkeypatch.setattr(partial_reference, "_SECONDS", 0.0)
    append, seen = partial_reference.PartialReference.append, []

    def killed(self, images, labels, features):
        seen.append(self.count)
        if len(seen) == 5:
            if lost == "statistics":  # are older than the images that are stored
                monkeypatch.setattr(partial_reference.PartialReference, "save", lambda self: None)
                append(self, images, labels, features)
            raise SystemExit
        append(self, images, labels, features)

    monkeypatch.setattr(partial_reference.PartialReference, "append", killed)
    with pytest.raises(SystemExit):
        run("--num_reference_images=200", "--batch_size=100")
    if lost == "images":
        (tmp_path / "reference.npz.partial").unlink()
    path = run("--num_reference_images=200", "--batch_size=100")
    assert path.read_bytes() == whole
    assert seen[5] == (0 if lost == "images" else 400)
    assert [file.name for file in tmp_path.iterdir()] == ["reference.npz"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_is_one_sentence_and_no_image_is_lost(run, whole, monkeypatch, tmp_path, fails):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)  # of the images as they come; of the finished file
        with pytest.raises(ValueError, match=r"^--output=.* cannot be written \(No space left on device\): make room"):
            run("--num_reference_images=200")
    assert not (tmp_path / "reference.npz").exists()
    assert run("--num_reference_images=200").read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^--output=.*reference.npz cannot be written \(.+\): make room .*\.$"):
        run("--num_reference_images=200", name="file/reference.npz")


@pytest.mark.parametrize(
    "more, said",
    [
        (["--num_reference_images=2000"], ["--num_reference_images must be from 1 to 1,437", "got 2000"]),
        (["--num_examples=0"], ["--num_examples must be from 1 to 1437", "got 0"]),
        (["--split=dev"], ["--split", "train, test", "dev"]),
        (["--dataset=nowhere"], ["--dataset=nowhere must be"]),
        (["--likelihood"], ["--likelihood and --make_reference"]),
    ],
)
def test_bad_flags_are_one_sentence(run, more, said):
    with pytest.raises(ValueError) as error:
        run(*more)
    assert all(word in str(error.value) for word in said), error.value
