"""Claims of folder:DIR: which files are images of which class, in what order, and what is refused."""

import itertools
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dit_tf.data import class_names, pipeline
from dit_tf.data.folder import FolderSource
from dit_tf.data.source import DatasetSpec

SIZE = 8


@pytest.fixture
def plant(tmp_path):
    """plant(path, ...): a grey image at each path below a new folder; image i is of 10 * i grey levels."""

    def write(*paths):
        for i, path in enumerate(paths):
            file = tmp_path / "images" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = "PNG" if file.suffix[1:].lower() not in ("jpg", "jpeg", "bmp", "gif") else None
            Image.new("RGB", (SIZE + i, SIZE + 2 * i), (10 * i,) * 3).save(file, format=kind)
        return FolderSource(f"folder:{tmp_path / 'images'}")

    return write


def stored(source, first=0):
    """(images, labels, keys) of the whole folder in stored order."""
    parts = pipeline.examples_in_order(source, "train", image_size=SIZE, batch_size=4, first=first)
    images, labels, keys = (np.concatenate(columns) for columns in zip(*parts))
    return images, labels, [key.decode() for key in keys]


def refusal(source_or_name):
    with pytest.raises(ValueError) as error:
        source_or_name() if callable(source_or_name) else FolderSource(source_or_name)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_class_folders_are_in_natural_order_and_images_lie_anywhere_below(plant):
    source = plant("class10/a.png", "class2/deep/er/b.png", "class2/c.png", "class1/d.png")
    names = ("class1", "class2", "class10")
    assert source.spec("train") == DatasetSpec(4, None, 3, class_names.ClassTable(names), True)
    images, labels, keys = stored(source)
    assert keys == ["class1/d.png", "class2/c.png", "class2/deep/er/b.png", "class10/a.png"]
    np.testing.assert_array_equal(labels, [0, 1, 1, 2])
    greys = np.reshape([30, 20, 10, 0], (4, 1, 1, 1))
    np.testing.assert_array_equal(images, np.broadcast_to(greys, (4, SIZE, SIZE, 3)))


def test_numbers_with_leading_zeros_and_without_have_one_order(plant):
    names = ["2", "02", "a1b10", "a1b9", "1", "a"]
    spec = plant(*(f"{name}/x.png" for name in names)).spec("train")
    assert spec.classes.names == ("1", "02", "2", "a", "a1b9", "a1b10")


def test_a_flat_folder_has_no_classes(plant):
    source = plant("b.png", "a.png")
    assert source.spec("train").classes == class_names.UNLABELLED
    _, labels, keys = stored(source)
    assert keys == ["a.png", "b.png"] and labels.tolist() == [0, 0]


def test_folders_called_by_synsets_are_imagenets_classes(plant):
    table = plant("n02099601/x.png", "n01440764/x.png").spec("train").classes
    assert table.ids == ("n01440764", "n02099601")
    assert table.find("golden retriever") == 1 and table.find("tench") == 0


def test_what_is_no_image_is_passed_over(plant, tmp_path):
    source = plant("a/x.JPG", "a/y.jpeg", "a/z.Png", "a/v.bmp", "a/w.gif", "a/.hidden.png", "a/.deep/x.png", ".b/x.png")
    (tmp_path / "images" / "notes.txt").write_text("of no class")
    (tmp_path / "images" / "a" / "x.txt").write_text("no image")
    os.mkfifo(tmp_path / "images" / "a" / "pipe.png")  # to open it would be to wait for ever
    listed = [record["key"].decode() for record in FolderSource(source.name).in_order("train").as_numpy_iterator()]
    assert listed == stored(source)[2] == ["a/v.bmp", "a/w.gif", "a/x.JPG", "a/y.jpeg", "a/z.Png"]


def test_links_are_followed(plant, tmp_path):
    source = plant("a/x.png", "b/y.png")
    (tmp_path / "images" / "a" / "link.png").symlink_to(tmp_path / "images" / "b" / "y.png")
    (tmp_path / "images" / "c").symlink_to(tmp_path / "images" / "b")
    images, labels, keys = stored(FolderSource(source.name))
    assert keys == ["a/link.png", "a/x.png", "b/y.png", "c/y.png"] and labels.tolist() == [0, 0, 1, 2]
    assert images[:, 0, 0, 0].tolist() == [10, 0, 10, 10]


def test_links_to_nothing_and_links_in_a_circle_are_refused(plant, tmp_path):
    name = plant("a/x.png").name
    link = tmp_path / "images" / "a" / "link.png"
    link.symlink_to("nothing.png")
    assert "link.png is a link to a file that is not there; remove it." in refusal(name)
    link.unlink()
    circle = tmp_path / "images" / "a" / "deep" / "circle"
    circle.parent.mkdir()
    circle.symlink_to(tmp_path / "images" / "a")
    assert "a/deep/circle is a link to a folder that holds it" in refusal(name)
    circle.unlink()
    circle.symlink_to("circle")
    assert "cannot be read" in refusal(name) and "circle" in refusal(name)


def test_names_may_have_any_letters(plant):
    assert stored(plant("Käse & Brot/ü [1].png", "犬/x,y.png"))[2] == ["Käse & Brot/ü [1].png", "犬/x,y.png"]


def test_images_of_any_channels_become_colour(tmp_path):
    (tmp_path / "a").mkdir()
    for mode in ("L", "RGB", "CMYK"):
        Image.new(mode, (40, 30)).save(tmp_path / "a" / f"{mode}.jpg")
    for mode in ("L", "LA", "RGBA", "P", "1"):
        Image.new(mode, (1, 1)).save(tmp_path / "a" / f"{mode}.png")
    images, _, keys = stored(FolderSource(f"folder:{tmp_path}"))
    assert images.shape == (8, SIZE, SIZE, 3) and len(set(keys)) == 8


@pytest.mark.parametrize(
    "paths, words",
    [
        ([], ["it holds no images", ".jpg, .jpeg, .png, .bmp, .gif"]),
        (["a/x.png", "y.png"], ["both images (y.png) and folders (a)"]),
        (["a/x.png", "b/x.webp"], ["class folder b holds no images; remove it"]),
    ],
)
def test_folders_that_are_neither_classes_nor_flat_are_refused(plant, tmp_path, paths, words):
    (tmp_path / "images").mkdir(exist_ok=True)
    message = refusal(lambda: plant(*paths))
    assert message.startswith(f"--dataset=folder:{tmp_path}") and all(word in message for word in words)


@pytest.mark.parametrize(
    "path, words", [("no/such", "no such directory"), ("", "no such"), ("gs://b/x", "this machine")]
)
def test_what_is_no_directory_here_is_refused(path, words):
    message = refusal(f"folder:{path}")
    assert message.startswith(f"--dataset=folder:{path} must name a directory") and words in message


def test_a_split_other_than_train_is_refused(plant):
    source = plant("x.png")
    message = refusal(lambda: source.spec("test"))
    assert message == f"--split must be train, the one split of {source.name}, got 'test'."


@pytest.fixture
def many(plant):
    return plant(*(f"c{i % 3}/{i}.png" for i in range(25)))


def epoch_keys(source, seed, epoch, skip=0):
    records = tf.data.Dataset.range(epoch, epoch + 1).flat_map(lambda e: source.epoch("train", seed, e)).skip(skip)
    return [record["key"] for record in records.as_numpy_iterator()]


def test_an_epoch_is_a_permutation_of_its_own_for_every_seed_and_epoch(many):
    orders = [epoch_keys(many, seed, epoch) for seed in (0, 1, 2**63 - 1) for epoch in (0, 1, 10**6)]
    assert len(set(map(tuple, orders))) == 9
    assert len({tuple(sorted(order)) for order in orders}) == 1 and len(set(orders[0])) == 25
    assert epoch_keys(many, 1, 1) == orders[4]


def test_every_place_of_an_epoch_is_as_good_as_another(many):
    """The mean place of each of 25 records over 200 epochs is 12, with a deviation of 7.2 / sqrt(200)."""
    order = tf.function(lambda e: next(iter(many.epoch("train", 3, e).batch(25)))["key"])
    places = [{key: place for place, key in enumerate(order(tf.constant(e, tf.int64)).numpy())} for e in range(200)]
    means = [np.mean([epoch[key] for epoch in places]) for key in places[0]]
    assert 0.2 < np.std(means) < 1.0 and np.abs(np.array(means) - 12).max() < 4 * 7.2 / np.sqrt(200)


def batches(source, count, first=0):
    dataset = pipeline.training_batches(
        source, "train", image_size=SIZE, global_batch_size=5, seed=5, first=first, horizontal_flip=True
    )
    return list(itertools.islice(dataset.as_numpy_iterator(), count))


def test_a_resumed_run_reads_what_the_unbroken_run_reads(many):
    unbroken = batches(many, 12)
    for one, other in zip(unbroken[7:], batches(many, 5, first=35), strict=True):
        for array, other_array in zip(one, other):
            np.testing.assert_array_equal(array, other_array)


def test_a_resumed_run_opens_no_file_of_the_records_before(many, tmp_path):
    last_of_epoch = batches(many, 5)[4]
    wanted = {key.decode() for key in epoch_keys(many, 5, 0, skip=20)}
    images = tmp_path / "images"
    for file in list(images.rglob("*.png")):
        if str(file.relative_to(images)) not in wanted:
            file.unlink()
    np.testing.assert_array_equal(batches(many, 1, first=20)[0][0], last_of_epoch[0])
