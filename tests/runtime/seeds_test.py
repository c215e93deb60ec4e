"""Philox against its published vectors and TensorFlow's own; a row's draws against the batch it stands in."""

import functools
import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds, Stream, philox

# Random123's file kat_vectors, rows philox4x32-10: counter, key, output.
_KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
_SHAPES = [(8, 8, 1), (5, 3, 1)]  # 64 elements fill their blocks of four; 15 do not
_DRAWS = {
    "uniform": lambda seeds, shape: seeds.uniform(Stream.NOISE, shape),
    "normal": lambda seeds, shape: seeds.normal(Stream.NOISE, shape),
    "integers": lambda seeds, shape: seeds.integers(Stream.NOISE, 1000),
}


def words(values):
    return tuple(tf.constant(v, tf.uint32) for v in values)


@functools.cache
def compiled(shape):
    """All draws as a run makes them: seed (or seeds), rows and step come as tensors into one compiled function."""
    return tf.function(functools.partial(draws, shape), jit_compile=True)


def draws(shape, seed, row, step):
    return {name: draw(RowSeeds(seed, row, step), shape) for name, draw in _DRAWS.items()}


def drawn(draw, shape, seed, row, step=0, jit=True):
    function = compiled(shape) if jit else functools.partial(draws, shape)
    return function(tf.constant(seed, tf.int64), tf.constant(row, tf.int32), tf.constant(step))[draw].numpy()


@pytest.mark.parametrize("counter, key, expected", _KNOWN_ANSWERS)
def test_bits_are_the_published_ones(counter, key, expected):
    assert tuple(int(w) for w in philox(words(counter), words(key))) == expected


@pytest.mark.parametrize("seed", [0, 1, 0x123456789ABCDEF0, -1, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("row, step", [(0, 0), (7, 1), (2**31 - 1, 2**31 - 1)])
def test_words_are_those_of_tensorflows_philox(seed, row, step):
    """Its counter is two 64-bit halves: (element block, row) and (step, stream). It counts up in the first."""
    ours = RowSeeds(tf.constant(seed, tf.int64), tf.constant([row]), step)._words(Stream.NOISE, 12)
    for block in range(3):
        counter = tf.constant([row << 32 | block, int(Stream.NOISE) << 32 | step], tf.uint64)
        theirs = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[4], key=tf.constant([seed % 2**64], tf.uint64), counter=counter, alg=1, dtype=tf.uint32
        )
        np.testing.assert_array_equal(ours[0, block::3], theirs)


@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("draw", _DRAWS)
def test_a_draw_does_not_depend_on_its_batch(draw, shape):
    """Bit for bit in compiled code, which runs and samples are made of: alone, in company, and in another order."""
    batch, order = drawn(draw, shape, 5, range(8)), [3, 7, 0, 5, 1, 6, 2, 4]
    for row in (0, 4, 7):
        np.testing.assert_array_equal(drawn(draw, shape, 5, [row])[0], batch[row])
    np.testing.assert_array_equal(drawn(draw, shape, 5, range(2, 7)), batch[2:7])
    np.testing.assert_array_equal(drawn(draw, shape, 5, order), batch[order])


@pytest.mark.parametrize("draw", _DRAWS)
def test_one_seed_per_row_is_a_seed_row_by_row(draw):
    """What serving does: the image of (seed s) in any batch is image 0 of a run with seed s."""
    seeds, shape = [3, -3, 2**40 + 3, 3], (5, 3, 1)
    batch = drawn(draw, shape, seeds, [0] * 4)
    for seed, row in zip(seeds, batch):
        np.testing.assert_array_equal(drawn(draw, shape, seed, [0])[0], row)
    np.testing.assert_array_equal(batch[0], batch[3])
    assert not np.array_equal(batch[0], batch[1]) and not np.array_equal(batch[0], batch[2])


@pytest.mark.parametrize("shape", _SHAPES)
def test_compiled_equals_eager(shape):
    arguments = shape, -(2**40), range(8), 11
    for draw in ("uniform", "integers"):
        np.testing.assert_array_equal(drawn(draw, *arguments), drawn(draw, *arguments, jit=False))
    # log, sqrt and cos of two libraries: each is within 2 ulp, of values below 8, whose ulp is 2^-21.
    eager = drawn("normal", *arguments, jit=False)
    np.testing.assert_allclose(drawn("normal", *arguments), eager, rtol=0, atol=4 * 2.0**-21)


def test_normals_are_box_and_mullers_of_the_words():
    """In float64. 2 pi u reaches 6.3 and is rounded by 2^-22 at most; times the radius, below 5.8: 1.4e-6."""
    seeds = RowSeeds(11, tf.range(64))
    radial, angular = np.split(np.right_shift(seeds._words(Stream.NOISE, 64).numpy(), 8) * 2.0**-24, 2, axis=1)
    radius, angle = np.sqrt(-2 * np.log(1 - radial)), 2 * np.pi * angular
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    np.testing.assert_allclose(seeds.normal(Stream.NOISE, (64,)), expected, rtol=0, atol=2e-6)


def test_every_coordinate_matters():
    """Seed (both halves), row, step and stream: all draws differ from each other, in every element."""
    draws = [
        RowSeeds(tf.constant(seed, tf.int64), tf.constant([row]), step).uniform(stream, (64,)).numpy()
        for seed in (0, 1, 2**32)
        for row in (0, 1)
        for step in (0, 1)
        for stream in Stream
    ]
    values = np.concatenate(draws).ravel()
    # 4,608 draws out of 2^24 values meet by chance 0.6 times; coordinates that collide would meet 64 times or more.
    assert len(values) - len(np.unique(values)) < 8


def test_streams_keep_their_numbers():
    """They are part of every result, like a file format."""
    expected = dict(TIME=0, NOISE=1, LABEL_DROPOUT=2, START=3, STEP=4, LABEL=5)
    assert {name: int(Stream[name]) for name in expected} == expected
    assert len({int(stream) for stream in Stream}) == len(Stream.__members__)


def test_at_moves_to_another_step_of_the_same_rows():
    seeds = RowSeeds(4, tf.range(3), 5)
    np.testing.assert_array_equal(seeds.at(9).uniform(Stream.STEP), RowSeeds(4, tf.range(3), 9).uniform(Stream.STEP))
    assert seeds.step == 5


# Fixed seeds, so these four give the same verdict every time; a p-value below 1e-3 would be the generator's fault.
_MANY = RowSeeds(2024, np.arange(1000, dtype=np.int32), 3)


def test_uniforms_are_uniform():
    u = _MANY.uniform(Stream.NOISE, (10, 10)).numpy().ravel()
    assert scipy.stats.kstest(u, "uniform").pvalue > 1e-3
    assert u.min() >= 0 and u.max() < 1
    np.testing.assert_array_equal(u * 2**24 % 1, 0)


def test_normals_are_normal_and_uncorrelated():
    x = _MANY.normal(Stream.NOISE, (10, 10, 1)).numpy().reshape(1000, 100)
    assert scipy.stats.kstest(x.ravel(), "norm").pvalue > 1e-3
    deviation = 1 / math.sqrt(x.size)  # of the sample mean; of the second moment sqrt 2, of the third sqrt 15 as much
    assert abs(x.mean()) < 4 * deviation
    assert abs((x**2).mean() - 1) < 4 * deviation * math.sqrt(2)
    assert abs((x**3).mean()) < 4 * deviation * math.sqrt(15)
    # The cosine and the sine of one angle, neighbours in a row and neighbouring rows: a product has variance 1.
    for a, b in ((x[:, :50], x[:, 50:]), (x[:, 1:], x[:, :-1]), (x[1:], x[:-1])):
        assert abs((a * b).mean()) < 4 / math.sqrt(a.size)


@pytest.mark.parametrize("bound", [2, 10, 1000])
def test_integers_cover_their_range_evenly(bound):
    values = RowSeeds(7, tf.range(100 * bound)).integers(Stream.LABEL, bound).numpy()
    assert scipy.stats.chisquare(np.bincount(values, minlength=bound)).pvalue > 1e-3  # raises on a value >= bound


def test_integers_reach_both_ends_of_a_bound_of_31_bits():
    values = RowSeeds(7, tf.range(10_000)).integers(Stream.LABEL, 2**31 - 1).numpy()
    assert values.min() >= 0  # a sign bit would show in half of them
    assert values.min() < 2**21 and values.max() > 2**31 - 2**21  # missed with a chance of e^-9.8 each


def test_the_graph_holds_no_random_op():
    """TensorFlow's own are stateful, or free to choose another algorithm on each device. Here: integer products."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.int32)])
    def draw(seed, row):
        seeds = RowSeeds(seed, row)
        return [f(seeds, (5, 3, 1)) for f in _DRAWS.values()]

    operations = draw.get_concrete_function().graph.get_operations()
    assert "BitwiseXor" in {op.type for op in operations}
    assert not [op.type for op in operations if "Random" in op.type or "Rng" in op.type or op.op_def.is_stateful]


def test_the_batch_may_be_unknown_when_traced():
    draw = tf.function(
        lambda seed, row: RowSeeds(seed, row).normal(Stream.NOISE, (5, 3, 1)),
        input_signature=[tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.int32)],
    )
    for n in (1, 3):
        expected = RowSeeds(tf.range(n, dtype=tf.int64), tf.range(n)).normal(Stream.NOISE, (5, 3, 1))
        np.testing.assert_array_equal(draw(tf.range(n, dtype=tf.int64), tf.range(n)), expected)
