"""Labels that nobody gives are functions of (seed, i)."""

import numpy as np
import scipy.stats

from dit_tf.samplers.labels import balanced_labels, random_labels


def test_balanced_labels_have_every_class_as_often():
    assert balanced_labels(3, 8, 3).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_random_labels_are_a_function_of_seed_and_index():
    labels = random_labels(3, 1000, 7)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(random_labels(3, 10, 7), labels[:10])
    assert (random_labels(4, 1000, 7) != labels).mean() > 0.7  # 6/7 expected
    assert scipy.stats.chisquare(np.bincount(labels, minlength=7)).pvalue > 1e-3
