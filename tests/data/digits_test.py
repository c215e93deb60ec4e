"""Claims of the digits builder, against scikit-learn's own arrays."""

import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from dit_tf.data import digits


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = tfds.builder("digits", data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder


def records(builder, split):
    return list(tfds.as_numpy(builder.as_dataset(split=split)))


def test_the_splits_part_the_digits_of_scikit_learn(builder):
    train, test = records(builder, "train"), records(builder, "test")
    assert (len(train), len(test)) == (1437, 360)
    assert sorted(record["key"] for record in train + test) == list(range(1797))


def test_records_lie_in_the_order_of_scikit_learn(builder):
    keys = [record["key"] for record in records(builder, "train")]
    assert keys == sorted(keys)


def test_images_and_labels_are_those_of_scikit_learn(builder):
    source = load_digits()
    for record in records(builder, "test"):
        assert record["image"].shape == (8, 8, 1) and record["image"].dtype == np.uint8
        assert record["label"] == source.target[record["key"]]
        ink = record["image"][..., 0] / 255.0 * 16.0
        # Grey levels are 16/255 of an ink level apart: rounding moves a pixel by half of that at most.
        np.testing.assert_allclose(ink, source.images[record["key"]], atol=8.0 / 255.0 + 1e-12)


def test_class_names_are_the_digits(builder):
    assert builder.info.features["label"].names == list("0123456789")


def test_every_class_is_held_out_in_proportion():
    labels = load_digits().target
    held_out = np.bincount(labels[digits.is_test(labels)], minlength=10)
    assert np.all(np.abs(held_out - np.bincount(labels) / 5) < 1)


def test_the_split_is_the_documented_rule():
    # In order of class: three 0s (places 0, 2, 5), four 1s (1, 3, 6, 7), three 2s (4, 8, 9); every fifth is held out.
    labels = np.array([0, 1, 0, 1, 2, 0, 1, 1, 2, 2])
    assert np.flatnonzero(digits.is_test(labels)).tolist() == [0, 6]


def test_missing_scikit_learn_is_told_with_the_extra_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    builder = tfds.builder("digits", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"needs scikit-learn.*pip install \.\[cpu\]"):
        builder.download_and_prepare()
    assert not builder.is_prepared()
