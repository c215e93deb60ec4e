"""The handwritten digits packaged with scikit-learn, as a TensorFlow Datasets builder: real images without a download.

1,797 digits of 8 x 8 pixels written by 43 people (Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten
Digits", UCI; scikit-learn packages its test part). `tfds.builder("digits")` finds the builder once this module is
imported.
"""

import contextlib

import numpy as np
import tensorflow_datasets as tfds

MISSING_SCIKIT_LEARN = "--dataset=digits needs scikit-learn, which packages the images: run `pip install .[cpu]`."


@contextlib.contextmanager
def without_bars():
    """While they are prepared, which takes a second: nothing of what tfds says of downloads."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        tfds.enable_progress_bar()


class Digits(tfds.core.GeneratorBasedBuilder):
    """image: uint8 (8, 8, 1), 0 paper and 255 ink. label: 0..9. key: the digit's place in scikit-learn's file.

    Splits: train (1,437) and test (360), see `is_test`. Records lie in scikit-learn's order.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
            "key": np.int64,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, from scikit-learn.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            # Otherwise records are written in the order of a hash that belongs to the tfds version.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        images, labels = _scikit_learn_digits()
        held_out = is_test(labels)
        return {
            "train": self._generate_examples(images, labels, np.flatnonzero(~held_out)),
            "test": self._generate_examples(images, labels, np.flatnonzero(held_out)),
        }

    def _generate_examples(self, images, labels, keys):
        for key in keys.tolist():
            yield key, {"image": images[key], "label": int(labels[key]), "key": key}


def is_test(labels):
    """(M,) labels -> (M,) bool: the held-out fifth, each class in proportion to within one image.

    Put the images in order of class and, within a class, in the order they came; places 0, 5, 10, ... are held out.
    """
    by_class = np.argsort(labels, kind="stable")
    held_out = np.zeros(len(labels), bool)
    held_out[by_class[::5]] = True
    return held_out


def _scikit_learn_digits():
    """Images uint8 (1797, 8, 8, 1) and labels (1797,); ink 0..16 becomes 0..255, rounded to the nearest."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(MISSING_SCIKIT_LEARN) from error
    digits = load_digits()
    ink = digits.images.astype(np.int64)
    return ((ink * 255 + 8) // 16).astype(np.uint8)[..., None], digits.target
