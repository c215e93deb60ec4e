"""Digits that are prepared once a file."""

import pytest

from dit_tf.data import pipeline


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="module")
def digits(data_dir):
    return pipeline.open_dataset("digits", data_dir)
