"""What follows --dataset= names a source; digits stand for the data sets of TensorFlow Datasets."""

import dataclasses

import numpy as np
import pytest

from dit_tf.data import pipeline
from dit_tf.data.class_names import UNLABELLED


def test_real_images_of_one_size_come_whole(digits):
    images, labels = pipeline.real_images(digits, "test")
    assert images.shape == (360, 8, 8, 1) and images.dtype == np.uint8
    assert labels.shape == (360,) and labels.dtype == np.int64


def test_a_data_set_may_be_read_without_its_classes(digits, data_dir):
    plain = pipeline.open_dataset("digits", data_dir, unlabelled=True)
    assert plain.spec("train") == dataclasses.replace(digits.spec("train"), classes=UNLABELLED)
    stream = dict(image_size=8, global_batch_size=64, seed=0, first=0, horizontal_flip=False)
    (images, labels, _), (unlabelled, zeros, _) = (
        next(pipeline.training_batches(source, "train", **stream).as_numpy_iterator()) for source in (digits, plain)
    )
    np.testing.assert_array_equal(images, unlabelled)
    assert labels.any() and not zeros.any()


def test_the_prefix_says_what_a_data_set_is(tmp_path, digits, data_dir):
    with pytest.raises(ValueError, match="--dataset=folder:.*: it holds no images"):
        pipeline.open_dataset(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="--dataset=latents:.* has no spec.json"):
        pipeline.open_dataset(f"latents:{tmp_path}")
    assert pipeline.open_dataset("digits", data_dir).spec("train") == digits.spec("train")
