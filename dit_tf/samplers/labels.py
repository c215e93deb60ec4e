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


def chosen_labels(labels, count, policy, seed, num_classes):
    """((N,) int64, what chose them): the labels that are given, repeated up to `count` (None: as they are), or `count`
    of a policy. ValueError where nothing is asked for, or what does not go together."""
    default = next(iter(LABEL_POLICIES))
    if policy not in LABEL_POLICIES:
        raise ValueError(f"--label_policy must be one of {', '.join(LABEL_POLICIES)}, got {policy!r}.")
    if count is not None and count < 1:
        raise ValueError(f"--num_samples must be at least 1, got {count}.")
    if labels is None or not len(labels):
        if count is None:
            raise ValueError("--labels or --num_samples must be given.")
        return LABEL_POLICIES[policy](seed, count, num_classes), policy
    if policy != default:
        raise ValueError(f"--label_policy={policy} goes without --labels, which chooses them itself: leave one out.")
    return np.resize(np.asarray(labels, np.int64), count or len(labels)), "given"


LABEL_POLICIES = {"random": random_labels, "balanced": balanced_labels}
