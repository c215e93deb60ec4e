"""Claims about damaged files: the one that cannot be read is named, and nothing worse happens."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dit_tf.data import pipeline
from dit_tf.data.folder import FolderSource
from dit_tf.data.tfds_source import TfdsSource, open_tfds

SIZE = 8


def write_jpeg(path):
    """32 x 24 pixels of noise: a file of which every byte matters."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    Image.fromarray(noise).save(path, quality=90)


@pytest.fixture
def folder(tmp_path):
    """A flat folder of twelve good images, 00.jpg .. 11.jpg."""
    for i in range(12):
        write_jpeg(tmp_path / f"{i:02d}.jpg")
    return FolderSource(f"folder:{tmp_path}")


def first_damaged(source, first=0, count=24, seed=0):
    return pipeline.first_damaged(source, "train", seed, SIZE, first, count, "fast")


def in_order(source, **changes):
    return list(pipeline.examples_in_order(source, "train", **{**dict(image_size=SIZE, batch_size=5), **changes}))


def test_where_nothing_is_damaged_nothing_is_said(folder):
    assert first_damaged(folder) is None
    assert len(in_order(folder)) == 3


def test_each_file_is_named_in_stored_order_after_the_good_ones(folder, tmp_path):
    (tmp_path / "07.jpg").write_bytes(b"")
    (tmp_path / "08.jpg").write_bytes(b"no image")
    (tmp_path / "09.jpg").write_bytes((tmp_path / "09.jpg").read_bytes()[:400])
    for first in (2, 8, 9):
        batches = pipeline.examples_in_order(folder, "train", image_size=SIZE, batch_size=5, first=first)
        if first == 2:
            assert next(batches)[0].shape == (5, SIZE, SIZE, 3)
        message, named = told(next, batches), f"{max(first, 7):02d}.jpg"
        assert message.startswith(f"--dataset=folder:{tmp_path}: {named} cannot be read (") and "remove or" in message
        assert is_plain(message) and (first != 8 or "Unknown image file format" in message)
    assert len(in_order(folder, first=10)) == 1


def is_plain(message):
    """Whether it is one line and has the decoder's reason alone."""
    noises = ("{{", "[[", "[Op", "user-defined", "node", "0x", "Traceback")
    return len(message.splitlines()) == 1 and not any(noise in message for noise in noises)


def test_the_first_of_the_training_stream_is_named(folder, tmp_path):
    epoch = tf.data.Dataset.range(1).flat_map(lambda e: folder.epoch("train", 6, e))
    keys = [record["key"].decode() for record in epoch.as_numpy_iterator()]
    for place in (3, 9):
        (tmp_path / keys[place]).write_bytes(b"no image")
    assert f": {keys[3]} cannot be read (" in first_damaged(folder, seed=6)
    assert f": {keys[9]} cannot be read (" in first_damaged(folder, seed=6, first=4)
    assert first_damaged(folder, seed=6, first=4, count=5) is None
    with pytest.raises(tf.errors.OpError):
        batches = pipeline.training_batches(
            folder, "train", image_size=SIZE, global_batch_size=4, seed=6, first=0, horizontal_flip=True
        )
        list(batches.take(1))


def test_a_file_that_vanished_is_named(folder, tmp_path):
    (tmp_path / "02.jpg").unlink()
    with pytest.raises(ValueError, match="02.jpg cannot be read .*No such file"):
        in_order(folder)


def test_the_reason_is_the_decoders_also_where_that_is_pillow(folder, tmp_path):
    (tmp_path / "00.jpg").write_bytes(b"no image")
    message = told(lambda: in_order(folder, crop="pil"))
    assert "cannot identify image file" in message and is_plain(message)


def test_a_hundred_mutations_end_in_the_sentence_or_in_an_image(tmp_path):
    """Half are cut short, half have one to eight bytes changed; what still decodes is an image like another."""
    rng = np.random.default_rng(0)
    write_jpeg(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    for i in range(100):
        mutated = np.frombuffer(whole, np.uint8).copy()
        if i % 2:
            mutated = mutated[: rng.integers(len(whole))]
        else:
            places = rng.integers(len(whole), size=rng.integers(1, 9))
            mutated[places] ^= rng.integers(1, 256, len(places), np.uint8)
        (tmp_path / f"m{i:02d}.jpg").write_bytes(mutated.tobytes())
    source = FolderSource(f"folder:{tmp_path}")
    example = tf.function(lambda record: source.example(record, SIZE, "fast", None))
    named = []
    for record in source.in_order("train"):
        try:
            assert example(record).shape == (SIZE, SIZE, 3)
        except tf.errors.OpError:
            named.append(record["key"].numpy().decode())
    cut = {f"m{i:02d}.jpg" for i in range(1, 100, 2)}
    assert "good.jpg" not in named and len(cut - set(named)) < 5 and len(named) < 100  # only the end may be missed
    assert f": {named[0]} cannot be read (" in told(in_order, source)
    for key in named:
        (tmp_path / key).unlink()
    assert sum(len(batch[0]) for batch in in_order(FolderSource(source.name))) == 101 - len(named)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return open_tfds("digits", str(tmp_path_factory.mktemp("tfds")))


@pytest.fixture
def digits(prepared, tmp_path):
    """A copy to damage."""
    shutil.copytree(prepared.builder.data_dir_root, tmp_path / "copy")
    return open_tfds("digits", str(tmp_path / "copy"))


@pytest.mark.parametrize("change", ["truncate", "mutate", "remove"])
def test_a_damaged_record_file_is_named(digits, change):
    path = os.fspath(digits.builder.info.splits["train"].filepaths[0])
    assert digits.damaged_file("train") is None
    with open(path, "rb") as file:
        content = bytearray(file.read())
    if change == "truncate":
        content = content[:-1000]
    content[5000] ^= change == "mutate"
    with open(path, "wb") as file:
        file.write(content)
    if change == "remove":
        os.remove(path)
    for find in (lambda: first_damaged(digits, count=1437), lambda: told(in_order, digits)):
        message = find()
        assert message.startswith(f"--dataset=digits: {path} cannot be read (") and "make the data set anew" in message


def told(function, *arguments):
    with pytest.raises(ValueError) as error:
        function(*arguments)
    return str(error.value)


def test_a_record_that_is_no_image_is_named_by_its_key(prepared, monkeypatch):
    def damaged(self, split, first=0):
        return stored(self, split, first).map(
            lambda r: dict(r, image=tf.where(r["key"] == key, tf.constant(b"no image"), r["image"]))
        )

    stored = TfdsSource.in_order
    key = next(stored(prepared, "train", 7).as_numpy_iterator())["key"]
    monkeypatch.setattr(TfdsSource, "in_order", damaged)
    message = told(in_order, prepared)
    assert message.startswith(f"--dataset=digits: {key.decode()} cannot be read (") and "make it anew" in message
