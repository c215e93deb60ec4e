"""`python -m dit_tf.evaluate` on what others have: statistics without spatial ones, JPEGs, .npy files, grey images."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dit_tf import evaluate, flags
from dit_tf.evaluation.evaluator import Evaluator
from dit_tf.evaluation.image_folder import ImageFolder
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.inference import scoring
from dit_tf.inference.scoring import make_extractor


@pytest.fixture
def run(parse, tmp_path):
    """run(flag, ...) -> metrics.json."""

    def evaluated(*more):
        evaluate.main(parse(flags.define_evaluate, f"--output={tmp_path}/metrics.json", *more))
        return json.loads((tmp_path / "metrics.json").read_text())

    return evaluated


def photographs(rng, count, channels=3, side=16):
    return rng.integers(0, 256, (count, side, side, channels), np.uint8)


def folder_of(path, images, ending):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path / f"{i}.{ending}", quality=100)
    return path


def statistics(rng, width=2048):
    points = rng.normal(size=(3, width))
    return {"mu": points.mean(0), "sigma": points.T @ points / 3}


def test_mu_and_sigma_alone_give_an_fid_and_no_more(run, tmp_path, rng, inception_file, capsys):
    np.save(tmp_path / "samples.npy", photographs(rng, 4))
    np.savez(tmp_path / "fid_stats.npz", **statistics(rng))
    arguments = [f"--reference={tmp_path}/fid_stats.npz", f"--samples={tmp_path}/samples.npy", "--allow_few_samples"]
    metrics = run(*arguments, f"--inception={inception_file}", "--batch_size=4")
    assert metrics["fid"] > 0 and metrics["inception_score"] >= 1
    assert all(metrics[name] is None for name in ("sfid", "sfid_error", "precision", "recall"))
    assert metrics["provenance"]["reference"]["file"] == f"{tmp_path}/fid_stats.npz"
    said = capsys.readouterr().out
    assert "fid_stats.npz has mu and sigma alone: FID is computed, sFID, precision and recall cannot be." in said
    assert "another network than ADM's Inception, such as pytorch-fid's, give an FID that compares with no" in said
    titles, numbers = (line.split() for line in said.splitlines()[-3:-1])
    assert titles == ["FID-4", "sFID", "IS", "Precision", "Recall"] and numbers.count("-") == 3


@pytest.mark.parametrize("changes, said", [
    ({"mu": np.zeros(768)}, "its mu must be floats of shape .2048,., got float64 .768,"),
    ({"sigma": np.full((2048, 2048), np.nan)}, "its sigma must be finite"),
    ({"mu_s": np.zeros(2023)}, "it lacks sigma_s"),
])  # fmt: skip
def test_statistics_are_looked_at_before_a_network_is_fetched(run, tmp_path, rng, monkeypatch, changes, said):
    monkeypatch.setattr(scoring, "fetch_inception", lambda: pytest.fail("must be refused before"))
    np.save(tmp_path / "samples.npy", photographs(rng, 4))
    np.savez(tmp_path / "stats.npz", **statistics(rng) | changes)
    arguments = [f"--reference={tmp_path}/stats.npz", f"--samples={tmp_path}/samples.npy", "--allow_few_samples"]
    with pytest.raises(ValueError, match=said):
        run(*arguments)


def test_a_folder_of_jpegs_an_npy_and_an_npz_of_their_pixels_are_the_same(run, tmp_path, rng):
    reference = folder_of(tmp_path / "reference", photographs(rng, 80, side=8), "jpg")
    samples = folder_of(tmp_path / "samples", photographs(rng, 80, side=8), "jpg")
    pixels = np.stack([np.asarray(Image.open(samples / f"{i}.jpg")) for i in range(80)])
    np.save(tmp_path / "s.npy", pixels)
    np.savez(tmp_path / "s.npz", arr_0=pixels)
    found = [
        run(f"--reference={reference}", f"--samples={path}", "--features=pixels", "--allow_few_samples")["fd_pixels"]
        for path in (samples, tmp_path / "s.npy", tmp_path / "s.npz")
    ]
    assert found[0] == found[1] == found[2] > 0


def test_grey_images_mean_the_same_everywhere(run, tmp_path, rng, inception_file):
    """One channel, which Inception sees as three equal ones."""
    grey, other = photographs(rng, 4, channels=1), photographs(rng, 5)
    np.savez(tmp_path / "grey.npz", arr_0=grey)
    np.savez(tmp_path / "rgb.npz", arr_0=np.repeat(grey, 3, axis=-1))
    np.savez(tmp_path / "other.npz", arr_0=other)
    folder = folder_of(tmp_path / "grey", grey, "png")
    names = "other", "rgb", "grey"
    reference, *samples = (NpzImages("--samples", f"{tmp_path}/{name}.npz", (1, 3)) for name in names)
    samples.append(ImageFolder("--samples", str(folder)))
    extractor = make_extractor("inception", inception_file, reference.shape, 5, tf.distribute.get_strategy())
    few = dict(partial=f"{tmp_path}/m", allow_few_samples=True)
    rgb, *grey = (extractor(next(images.batches(5))) for images in samples)
    assert all(np.array_equal(features, rgb) for features in grey) and len(grey) == 2
    for images in samples:
        Evaluator(extractor, None, reference, **few).check(images)
        Evaluator(extractor, None, images, **few).check(reference)
    with pytest.raises(ValueError, match="size of the reference's images, 16x16x3, got 16x16x1"):
        run(f"--reference={tmp_path}/other.npz", f"--samples={folder}", "--features=pixels", "--allow_few_samples")


def test_floats_are_told_what_makes_them_images(run, tmp_path, rng):
    np.savez(tmp_path / "s.npz", arr_0=rng.uniform(size=(4, 16, 16, 3)).astype(np.float32))
    with pytest.raises(ValueError, match="got float32 .*: multiply by 255, round, and save it as uint8"):
        run(f"--reference={tmp_path}/s.npz", f"--samples={tmp_path}/s.npz")
