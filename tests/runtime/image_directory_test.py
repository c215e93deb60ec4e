"""A directory of single images: what an unbroken run leaves, whatever interrupted it."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from dit_tf.evaluation.image_folder import ImageFolder
from dit_tf.runtime.image_directory import ImageDirectory

KEY, LABELS, NAMES = {"seed": 3}, [2, 0, 1, 2, 0], ["c", "a", "b", "c", "a"]


@pytest.fixture(params=[1, 3])
def images(rng, request):
    return rng.integers(0, 256, (5, 4, 6, request.param), np.uint8)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def filled(path, images, *batches):
    rows = ImageDirectory(str(path), KEY, images.shape)
    for size in batches:
        rows.append(images[rows.count : rows.count + size], note=size)
    if rows.count == len(images):
        rows.finish(LABELS, NAMES)
    return rows


def test_it_is_read_as_a_folder_of_samples_with_a_table_of_labels(tmp_path, images):
    filled(tmp_path / "one", images, 2, 3)
    found = ImageFolder("--samples", str(tmp_path / "one"))
    assert found.shape == images.shape[1:]
    np.testing.assert_array_equal(np.concatenate(list(found.batches(4))), images)
    with open(tmp_path / "one" / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"file": "000001.png", "label": "0", "class": "a"} and len(rows) == 5
    assert sorted(contents(tmp_path / "one")) == [*(f"00000{i}.png" for i in range(5)), "labels.csv", "samples.json"]


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, images):
    filled(tmp_path / "one", images, 5)
    filled(tmp_path / "two", images, 2)
    (tmp_path / "two" / "000002.png").write_bytes(b"half of an")  # of a batch that was not finished
    rows = ImageDirectory(str(tmp_path / "two"), KEY, images.shape)
    assert (rows.count, rows.notes) == (2, [2])
    os.remove(tmp_path / "two" / "000001.png")  # by somebody else
    assert ImageDirectory(str(tmp_path / "two"), KEY, images.shape).count == 1
    rows = ImageDirectory(str(tmp_path / "two"), KEY, images.shape)
    rows.append(images[1:])
    rows.finish(LABELS, NAMES)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert ImageDirectory(str(tmp_path / "two"), KEY, images.shape).count == 5


def test_other_images_are_not_overwritten(tmp_path, images):
    filled(tmp_path / "one", images, 2)
    before = contents(tmp_path / "one")
    with pytest.raises(ValueError, match="holds images of another run, or of none: give another directory"):
        ImageDirectory(str(tmp_path / "one"), {"seed": 4}, images.shape)
    assert contents(tmp_path / "one") == before
    (tmp_path / "mine").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "mine" / "holiday.png")
    with pytest.raises(ValueError, match="holds images of another run, or of none"):
        ImageDirectory(str(tmp_path / "mine"), KEY, images.shape)
    with pytest.raises(ValueError, match=r"takes uint8 \(5, 4, 6, .\) and has 2, got \(4, 4, 6"):
        ImageDirectory(str(tmp_path / "one"), KEY, images.shape).append(images[:4])
