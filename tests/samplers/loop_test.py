import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds
from dit_tf.samplers import ode, sde
from dit_tf.samplers.loop import Recurrence, run_recurrence, run_steps
from dit_tf.transport.paths import PATHS
from dit_tf.transport.transport import Transport

_SHAPE = (3, 2, 2, 1)


def test_steps_are_counted_from_zero_and_run_in_order():
    x = run_steps(lambda k, x: 10 * x + tf.cast(k, tf.float32), 0.0, 5)
    assert x == 1234.0


def test_no_steps_leave_the_state():
    assert run_steps(lambda k, x: x + 1, 3.0, 0) == 3.0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_state_may_be_a_nest(jit_compile):
    """Fibonacci's numbers."""
    run = tf.function(lambda a, b: run_steps(lambda k, s: (s[1], s[0] + s[1]), (a, b), 10), jit_compile=jit_compile)
    np.testing.assert_array_equal(run(tf.constant([0, 2]), tf.constant([1, 1])), [[55, 123], [89, 199]])


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="-1"):
        run_steps(lambda k, x: x, 0.0, -1)


def _random_table(rng, rows):
    """Every entry counts, and noises come in no order."""
    time, field, update, kick = (rng.uniform(0.1, 0.9, shape) for shape in (rows, (rows, 2), (rows, 2, 4), ()))
    return Recurrence(time, field, update, rng.permutation(rows), kick)


def _derivative(x, t, field):
    return tf.nest.map_structure(lambda leaf: field[0] * leaf + field[1] * tf.cos(leaf + t), x)


def _by_hand(x, table, noise):
    """The two lines of `Recurrence`'s docstring, in float64."""
    x = x + table.kick * noise[0]
    memory = np.zeros_like(x)
    for time, field, update, draw in zip(*table[:4]):
        k = field[0] * x + field[1] * np.cos(x + time)
        x, memory = np.tensordot(update, np.stack([x, memory, k, noise[draw]]), 1)
    return x


def test_a_recurrence_is_its_rows(rng, recorded_noise, assert_agrees):
    table, noise = _random_table(rng, 5), rng.standard_normal((5, *_SHAPE)).astype(np.float32)
    x = rng.standard_normal(_SHAPE).astype(np.float32)
    assert table.evaluations == 5
    expected = _by_hand(np.float64(x), table, np.float64(noise))
    assert_agrees(run_recurrence(_derivative, x, table, recorded_noise(noise)), expected)
    assert_agrees(run_recurrence(_derivative, x, table.cast(), recorded_noise(noise)), expected)
    silent = _by_hand(np.float64(x), table, np.zeros_like(noise))
    assert_agrees(run_recurrence(_derivative, x, table), silent)


def test_a_recurrence_carries_a_nest(rng, assert_agrees):
    table, x = _random_table(rng, 4), rng.standard_normal(_SHAPE).astype(np.float32)
    both = run_recurrence(_derivative, {"x": x, "rows": x[:, 0, 0, 0]}, table)
    alone = run_recurrence(_derivative, x, table).numpy()
    assert_agrees(both["x"], alone)
    assert_agrees(both["rows"], alone[:, 0, 0, 0])


def test_no_rows_leave_x():
    table = Recurrence(np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2, 4)), np.zeros(0), 0.0)
    np.testing.assert_array_equal(run_recurrence(_derivative, np.ones(_SHAPE, np.float32), table), np.ones(_SHAPE))


def test_noise_is_of_the_row_and_not_of_the_batch(rng):
    table, x = _random_table(rng, 3), rng.standard_normal(_SHAPE).astype(np.float32)
    together = run_recurrence(_derivative, x, table, RowSeeds(5, tf.range(3)))
    alone = run_recurrence(_derivative, x[1:2], table, RowSeeds(5, tf.constant([1])))
    np.testing.assert_array_equal(together[1:2], alone)


def test_one_compiled_loop_serves_every_table_of_a_length(assert_agrees):
    """Path, prediction, diffusion, norm and last step are numbers in the table; the model's body stands there once."""
    traces, seeds = [], RowSeeds(5, tf.range(3))
    x = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)

    def sample(x, table):
        traces.append(table.evaluations)
        return run_recurrence(ode.velocity_table(Transport(), lambda x, t: tf.atan2(x, 1.5)), x, table, seeds)

    def tables():
        for path, prediction, form, norm, last_step in (
            ("linear", "velocity", "sigma", 1.0, "mean"),
            ("gvp", "score", "kl_eta", 1.0, "tweedie"),
            ("vp", "noise", "decreasing", 0.7, "euler"),
        ):
            transport = Transport(PATHS[path], prediction)
            t = sde.sde_times(transport, form, 4, last_step)
            yield sde.heun(transport, t, functools.partial(sde.diffusion, form, transport.path, norm=norm), last_step)

    program = tf.function(sample, jit_compile=True, autograph=False)
    outputs = [program(x, table.cast()).numpy() for table in tables()]
    assert traces == [7]
    for table, output in zip(tables(), outputs):
        assert_agrees(sample(x, table), output)

    text = program.experimental_get_compiler_ir(x, next(tables()).cast())(stage="optimized_hlo")
    assert len(re.findall(r" while\(", text)) == 1
    assert re.findall(r'"known_trip_count":{"n":"(\d+)"}', text) == ["7"]
    assert len(re.findall(r" atan2\(", text)) == 1
