"""Claims of the data sets of TensorFlow Datasets: what they are known by, and what is refused."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from dit_tf.data import class_names, pipeline, tfds_source
from dit_tf.data.source import DatasetSpec


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Ten images of 8 x 6 pixels, image i of i grey levels."""

    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {}

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 6, 3)), **self.FEATURES}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(10):
            values = {"file_name": "same.png", "label": i % 3}
            yield i, {"image": np.full((8, 6, 3), i, np.uint8), **{name: values[name] for name in self.FEATURES}}


class Unlabelled(_Builder):
    FEATURES = {"file_name": tfds.features.Text()}


class Synsets(_Builder):
    FEATURES = {"label": tfds.features.ClassLabel(names=["n02099601", "n01440764", "n02088364"])}


class Scored(_Builder):
    FEATURES = {"label": np.float32}

    def _split_generators(self, dl_manager):
        raise AssertionError("must be refused before it is prepared")


class Imageless(Scored):
    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"label": np.int64}))


@pytest.fixture(scope="module")
def unlabelled(data_dir):
    return tfds_source.open_tfds("unlabelled", data_dir)


def test_the_spec_says_what_training_needs(digits):
    spec = digits.spec("train")
    assert spec == DatasetSpec(1437, 8, 1, class_names.numbered(10), False) and spec.num_classes == 10
    assert digits.spec("test").num_examples == 360
    assert digits.spec("train[:100]").num_examples == 100


def test_a_data_set_without_labels_has_one_class_without_a_name(unlabelled):
    assert unlabelled.spec("train") == DatasetSpec(10, None, 3, class_names.UNLABELLED, True)
    ((_, labels, _),) = pipeline.examples_in_order(unlabelled, "train", image_size=4, batch_size=10)
    np.testing.assert_array_equal(labels, np.zeros(10, np.int64))


def test_synsets_get_their_english_names_and_keep_their_places(data_dir):
    table = tfds_source.open_tfds("synsets", data_dir).spec("train").classes
    assert table.ids == ("n02099601", "n01440764", "n02088364")
    assert [table.find(name) for name in ("golden retriever", "tench", "beagle")] == [0, 1, 2]


@pytest.mark.parametrize(
    "name, flips", [("mnist", False), ("emnist/letters", False), ("fashion_mnist", True), ("cifar10", True)]
)
def test_characters_are_not_mirrored(tmp_path, monkeypatch, name, flips):
    builder = tfds.builder(name, data_dir=tmp_path)
    monkeypatch.setattr(tfds_source, "_num_examples", lambda builder, split: 1)  # known only where the data set lies
    assert tfds_source.TfdsSource(name, builder).spec("train").horizontal_flip == flips


def test_keys_of_digits_are_places_in_scikit_learns_file(digits):
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    ((images, labels, keys),) = pipeline.examples_in_order(digits, "test", image_size=8, batch_size=360)
    whole, places = sklearn_datasets.load_digits(), [int(key) for key in keys]
    np.testing.assert_array_equal(labels, whole.target[places])
    np.testing.assert_array_equal((images[..., 0].astype(int) * 16 + 127) // 255, whole.images[places])


def test_a_key_names_one_record_in_every_order(unlabelled):
    # All ten have one file_name, so a feature of that name is no key.
    def grey_of_key(records):
        return {r["key"].numpy(): int(tf.io.decode_image(r["image"])[0, 0, 0]) for r in records}

    stored = grey_of_key(unlabelled.in_order("train"))
    epochs = tf.data.Dataset.range(2, 3).flat_map(lambda e: unlabelled.epoch("train", 0, e))
    shuffled = grey_of_key(epochs.map(unlabelled.parse))
    assert sorted(stored.values()) == list(range(10)) and list(shuffled) != list(stored)
    assert shuffled == stored
    assert grey_of_key(unlabelled.in_order("train", 7)) == dict(list(stored.items())[7:])


def test_a_prepared_data_set_is_used_as_it_is(digits, data_dir, monkeypatch):
    def fail(self, **arguments):
        raise AssertionError("prepared twice")

    monkeypatch.setattr(type(digits.builder), "download_and_prepare", fail)
    assert tfds_source.open_tfds("digits", data_dir).builder.data_dir == digits.builder.data_dir


def test_a_data_set_that_another_process_prepares_at_the_same_time_is_used(tmp_path, monkeypatch):
    prepare = tfds.core.DatasetBuilder.download_and_prepare

    def lose_the_race(self, **arguments):
        prepare(tfds.builder("digits", data_dir=tmp_path))
        raise OSError("Directory not empty")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lose_the_race)
    assert tfds_source.open_tfds("digits", tmp_path).spec("train").num_examples == 1437


def test_a_directory_that_is_no_data_set_is_named(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match="--dataset=digits.*1.0.0 is no complete data set; remove it"):
        tfds_source.open_tfds("digits", tmp_path)


def test_a_failed_preparation_is_told_in_one_sentence(tmp_path, monkeypatch):
    def fail(self, **arguments):
        raise AssertionError("two archives\nmust be fetched by hand")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match="--dataset=digits could not be prepared.*archives must be fetched by hand"):
        tfds_source.open_tfds("digits", tmp_path)


@pytest.mark.parametrize("name", ["digit", "folders:images"])
def test_an_unknown_name_is_told_with_what_there_is(tmp_path, name):
    with pytest.raises(ValueError) as error:
        pipeline.open_dataset(name, tmp_path)
    words = ["--dataset", "digits", "folder:DIR", "latents:DIR", repr(name)]
    assert all(word in str(error.value) for word in words), error.value


def test_near_names_are_listed(tmp_path):
    with pytest.raises(ValueError, match="got 'imagenet2021' .*near names: .*imagenet2012"):
        tfds_source.open_tfds("imagenet2021", tmp_path)


@pytest.mark.parametrize("name", ["no such data set", "mnist/no_such_config", "mnist:99.0.0"])
def test_a_name_that_tfds_cannot_open_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^--dataset={name} cannot be opened by TensorFlow Datasets: .+\w\.$"):
        tfds_source.open_tfds(name, tmp_path)


@pytest.mark.parametrize("name, missing", [("scored", "class feature `label`"), ("imageless", "uint8 feature `image`")])
def test_data_sets_without_images_or_with_labels_that_are_no_classes_are_refused(tmp_path, name, missing):
    with pytest.raises(ValueError, match=f"--dataset={name} needs a {missing}.*, has "):
        tfds_source.open_tfds(name, tmp_path)


def test_an_unknown_split_is_told_with_the_known_ones(digits):
    with pytest.raises(ValueError, match="one of train, test .* got 'validation'"):
        digits.spec("validation")
