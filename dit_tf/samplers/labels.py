"""Which class image i of a run is of, where nobody says."""

import numpy as np
import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds, Stream


def random_labels(seed, count, num_classes):
    """(N,) int64: the uniform label of image i, a function of (seed, i), as the paper's 50,000 samples have."""
    rows = tf.range(count, dtype=tf.int32)
    return RowSeeds(tf.constant(seed, tf.int64), rows).integers(Stream.LABEL, num_classes).numpy().astype(np.int64)


def balanced_labels(seed, count, num_classes):
    """(N,) int64: 0..K-1 over and over, so that every class comes as often, or once more."""
    return np.arange(count, dtype=np.int64) % num_classes


LABEL_POLICIES = {"random": random_labels, "balanced": balanced_labels}
