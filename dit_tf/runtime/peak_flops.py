"""How fast this machine multiplies matrices: the denominator of the MFU estimate."""

import time

import tensorflow as tf

_SIZE = 2048


def measure_peak_flops(dtype="float32", trials=5):
    """FLOPs per second of the fastest of a few products of square matrices on the first device (about a second)."""
    a = tf.cast(tf.random.normal((_SIZE, _SIZE)), dtype)
    tf.matmul(a, a)[0, 0].numpy()
    fastest = min(_seconds(a) for _ in range(trials))
    return 2 * _SIZE**3 / fastest


def _seconds(a):
    began = time.perf_counter()
    tf.matmul(a, a)[0, 0].numpy()
    return time.perf_counter() - began
