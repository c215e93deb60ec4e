"""What new runs find in a folder, and what runs of version 0.1.0 go on finding."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from dit_tf.data.description import description
from dit_tf.data.folder import FolderSource
from dit_tf.data.pipeline import examples_in_order


@pytest.fixture
def fill(tmp_path):
    """fill(path, ...): a grey PNG, or whatever the ending says, of 8 x 8 pixels at each path below the folder."""

    def written(*paths, size=(8, 8)):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size[::-1], (100, 100, 100)).save(tmp_path / path)

    return written


@pytest.fixture
def opened(tmp_path):
    return lambda reading=2: FolderSource(f"folder:{tmp_path}", reading)


def keys(source, split="train"):
    return [record["key"].decode() for record in source.in_order(split).as_numpy_iterator()]


def test_what_machines_leave_is_passed_over(fill, opened, tmp_path):
    fill("a/1.png", "b/2.webp", "b/3.tiff", "b/.4.png", "a/@eaDir/5.png", "__MACOSX/a/6.png", ".hidden/7.png")
    (tmp_path / "a" / "empty.png").touch()
    (tmp_path / "a" / "notes.txt").write_text("x")
    new = opened()
    assert keys(new) == ["a/1.png", "b/2.webp", "b/3.tiff"] and new.spec("train").classes.names == ("a", "b")
    assert new.needs_python
    assert description(new, "train", new.spec("train")) == (
        f"folder:{tmp_path}, train: 3 images, 2 classes, 3 channels, 8x8 pixels, "
        "skipped 6 (1 @eaDir, 1 __MACOSX, 1 empty, 2 hidden, 1 no image)"
    )


def test_a_run_of_version_010_finds_what_it_found(fill, opened, tmp_path):
    fill("a/1.png", "a/@eaDir/5.png", "b/2.webp", "b/3.png", "train/a/1.png", "val/a/1.png")
    (tmp_path / "a" / "empty.png").touch()
    old = opened(1)
    assert keys(old) == ["a/1.png", "a/@eaDir/5.png", "a/empty.png", "b/3.png", "train/a/1.png", "val/a/1.png"]
    assert old.spec("train").classes.names == ("a", "b", "train", "val") and not old.needs_python


def test_train_and_val_of_the_same_classes_are_splits(fill, opened, tmp_path):
    fill("train/b/1.png", "train/a/2.png", "train/a/3.png", "val/a/1.png", "val/b/2.png")
    source = opened()
    found = dict(train=["train/a/2.png", "train/a/3.png", "train/b/1.png"], val=["val/a/1.png", "val/b/2.png"])
    for split, expected in found.items():
        assert keys(source, split) == expected and source.spec(split).classes.names == ("a", "b")
    ((images, labels, _),) = examples_in_order(source, "val", image_size=8, batch_size=5)
    assert (images == 100).all() and labels.tolist() == [0, 1]
    assert source.digest("train") != source.digest("val")
    with pytest.raises(ValueError, match=r"--split must be one of train, val of folder:.*, got 'test'"):
        source.spec("test")
    fill("val/c/1.png")
    with pytest.raises(ValueError, match="train and val are splits, and must hold the same classes: c is in one alone"):
        opened()


def test_classes_that_are_called_train_and_val_stay_classes(fill, opened):
    fill("train/1.png", "val/2.png")
    assert opened().spec("train").classes.names == ("train", "val")
    with pytest.raises(ValueError, match="--split must be train, the one split of"):
        opened().spec("val")


def test_the_digest_is_of_paths_and_sizes_and_not_of_the_place(fill, opened, tmp_path):
    fill("a/1.png", "b/2.png")
    sizes = {name: (tmp_path / name).stat().st_size for name in ("a/1.png", "b/2.png")}
    expected = "".join(f"{name}\0{size}\n" for name, size in sizes.items())
    first = opened().digest("train")
    assert first == opened(1).digest("train") == hashlib.sha256(expected.encode()).hexdigest()
    with open(tmp_path / "a" / "1.png", "ab") as file:
        file.write(b"\0")
    assert opened().digest("train") != first
    fill("a/1.png")
    assert opened().digest("train") == first
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "3.png")
    assert opened().digest("train") != first


def test_sizes_are_told_from_the_smallest_to_the_largest(fill, opened, tmp_path):
    fill("1.png", "2.png")
    fill("3.png", size=(20, 30))
    fill("4.png", size=(9, 8))
    source = opened()
    assert description(source, "train", source.spec("train")) == (
        f"folder:{tmp_path}, train: 4 images, no classes, 3 channels, 8x8 to 20x30 pixels (median 8x8)"
    )


def test_readings_differ_in_what_pixels_are(tmp_path):
    clear = Image.fromarray(np.zeros((8, 8, 4), np.uint8))
    clear.save(tmp_path / "1.png")
    for reading, grey in ((1, 0), (2, 255)):
        source = FolderSource(f"folder:{tmp_path}", reading)
        ((images, *_),) = examples_in_order(source, "train", image_size=8, batch_size=1)
        assert (images == grey).all()
