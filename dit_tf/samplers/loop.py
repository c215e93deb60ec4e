"""The one loop that every sampler goes through."""

import tensorflow as tf


def run_steps(body, x, num_steps):
    """The state after `body(k, x) -> x` has run for k = 0 .. num_steps - 1, in one tf.while_loop.

    x: the state, a tensor or a nest of tensors; `body` returns the same structure, shapes and dtypes.
    num_steps: Python int, so that the trip count is static and XLA compiles the loop for CPU, GPU and TPU.
    body: a function of tensors; k is an int32 scalar tensor. Under eager execution it runs step by step.

    Whoever calls decides about compilation: put the sampler inside one tf.function(jit_compile=True).
    """
    if num_steps < 0:
        raise ValueError(f"num_steps must not be negative, got {num_steps}")
    x = tf.nest.map_structure(tf.convert_to_tensor, x)
    _, x = tf.while_loop(
        lambda k, _: k < num_steps,
        lambda k, x: (k + 1, body(k, x)),
        (tf.constant(0), x),
        parallel_iterations=1,  # each step needs the one before: more would only hold buffers
    )
    return x
