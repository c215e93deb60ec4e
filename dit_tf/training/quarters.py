"""The loss by quarter of the timestep: how well a model does at which noise.

Kept as sums and counts, which add over replicas, parts of a batch and steps, and divided once, where they are logged;
so a quarter that none of the examples fell into changes no mean.
"""

import tensorflow as tf

SHAPE = (2, 4)


def by_quarter(loss, quarter):
    """loss (N,), quarter (N,) int32 0 to 3 -> (2, 4): sums of the losses in each quarter and how many there are, both
    over N, so that the mean over equal parts of a batch is that of the whole batch."""
    inside = tf.one_hot(quarter, SHAPE[1])
    return tf.stack([tf.reduce_mean(loss[:, None] * inside, axis=0), tf.reduce_mean(inside, axis=0)])


def quarter_means(sums):
    """Sums of `by_quarter` -> {"loss_q1": mean of the first quarter, ...} without the quarters that have no example."""
    return {f"loss_q{i + 1}": float(loss / count) for i, (loss, count) in enumerate(zip(*sums)) if count > 0}
