import numpy as np
import pytest
import tensorflow as tf

from dit_tf.samplers.loop import run_steps


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
