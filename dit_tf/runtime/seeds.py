"""Randomness as an argument: every draw is a function of (seed, stream, step, row, element) alone.

The bits are those of Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), the generator
behind `tf.random.stateless_*(alg="philox")`, with the seed as the key and (element block, row, step, stream) as the
counter. Written out over tensors it gives each row of a batch bits of its own, wherever the row lands: the same on
every device, for every batch size and every number of replicas.
"""

import dataclasses
import enum
import math

import tensorflow as tf

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(enum.IntEnum):
    """What a draw is for; two streams of one seed are independent. Values are part of the results: never renumber."""

    TIME = 0
    NOISE = 1
    LABEL_DROPOUT = 2
    START = 3
    STEP = 4
    LABEL = 5
    PROBE = 6
    DEQUANTIZE = 7
    POSTERIOR = 8


def philox(counter, key):
    """Philox-4x32-10: four uint32 tensors of counter and two of key, of broadcastable shapes -> four uint32 tensors."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(_ROUNDS):
        high0, low0 = _multiply_wide(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply_wide(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        if i + 1 < _ROUNDS:
            k0, k1 = k0 + tf.constant(_WEYL[0], tf.uint32), k1 + tf.constant(_WEYL[1], tf.uint32)
    return c0, c1, c2, c3


def _multiply_wide(multiplier, x):
    """The upper and the lower 32 bits of the 64-bit product of a constant and a uint32 tensor."""
    product = tf.cast(x, tf.uint64) * tf.constant(multiplier, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.uint32), tf.cast(product, tf.uint32)


@dataclasses.dataclass(frozen=True)
class RowSeeds:
    """The randomness of a batch of N rows.

    seed: integer scalar, or (N,) where each row has its own; 64 bits are used.
    row: (N,) integers: the example's place in the global batch (training) or the image's index in the run (sampling).
    step: integer scalar: the optimizer step (training) or the sampler's step, counted from 0.
    """

    seed: tf.Tensor
    row: tf.Tensor
    step: tf.Tensor = 0

    def at(self, step):
        """The same rows at another step."""
        return dataclasses.replace(self, step=step)

    def uniform(self, stream, shape=()):
        """(N, *shape) float32 in [0, 1), multiples of 2^-24."""
        return self._shaped(_unit_interval(self._words(stream, math.prod(shape))), shape)

    def normal(self, stream, shape=()):
        """(N, *shape) float32 from N(0, 1), by Box and Muller's transform."""
        words = self._words(stream, math.prod(shape))
        blocks = words.shape[1] // 4
        radius = tf.sqrt(-2.0 * tf.math.log(1.0 - _unit_interval(words[:, : 2 * blocks])))
        angle = 2.0 * math.pi * _unit_interval(words[:, 2 * blocks :])
        return self._shaped(tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1), shape)

    def integers(self, stream, bound):
        """(N,) int32 in [0, bound), bound at most 2^31; the bias of any value is below bound / 2^32."""
        word = tf.cast(self._words(stream, 1)[:, 0], tf.uint64)
        return tf.cast(tf.bitwise.right_shift(word * tf.cast(bound, tf.uint64), tf.constant(32, tf.uint64)), tf.int32)

    def _words(self, stream, count):
        """(N, 4 * ceil(count / 4)) uint32."""
        seed = tf.cast(tf.reshape(self.seed, (-1, 1)), tf.uint64)
        key = (tf.cast(seed, tf.uint32), tf.cast(tf.bitwise.right_shift(seed, tf.constant(32, tf.uint64)), tf.uint32))
        block, row = tf.range(-(-count // 4), dtype=tf.int32)[None], tf.reshape(self.row, (-1, 1))
        # Left to broadcast by themselves: the first rounds have a row or a column each, where a compiler would else
        # fold constants as large as the batch.
        return tf.concat(philox([tf.cast(c, tf.uint32) for c in (block, row, self.step, int(stream))], key), axis=1)

    @staticmethod
    def _shaped(values, shape):
        count = math.prod(shape)
        return tf.reshape(values[:, :count], (-1, *shape))


def _unit_interval(words):
    return tf.cast(tf.bitwise.right_shift(words, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
