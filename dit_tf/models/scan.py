"""The blocks of a model as one loop over their stacked weights, so that a compiler sees one block, whatever the depth.

Weights, checkpoints and results are those of the blocks one after the other. The loop forward keeps the input of each
block alone, the loop backward computes the block anew from it: the FLOPs and about the temporaries of `rematerialised`,
and besides them a copy of the blocks' weights and one of their gradients, both stacked, in the dtype of the products:
1.3 GB each of DiT-XL/2 in bfloat16. docs/preflight.md has what the TPU compiler makes of each way.
"""

import keras
import tensorflow as tf


def scanned(blocks, x, c):
    """blocks[-1](... blocks[0](x, c) ..., c), of equal blocks: x (N, T, D), c what each is conditioned on."""
    block, depth = blocks[0], len(blocks)
    variables = block.trainable_variables

    def run(x, c, weights):
        with keras.StatelessScope(state_mapping=zip(variables, weights)):
            return block(x, c)

    def loop(body, *state):
        _, *state = tf.while_loop(
            lambda i, *_: i < depth, lambda i, *state: (i + 1, *body(i, *state)), (0, *state), maximum_iterations=depth
        )
        return state

    @tf.custom_gradient
    def call(x, c, *weights):
        def forward(i, x, inputs):
            return run(x, c, [w[i] for w in weights]), _with_row(inputs, i, x)

        # Each row is written before it is read. Of zeros, TensorFlow would make a constant as large as the whole stack.
        y, inputs = loop(forward, x, tf.tile(x[None], (depth, 1, 1, 1)))

        def gradients(dy):
            def backward(i, dx, dc, *gradients):
                last = depth - 1 - i
                x, row = inputs[last], [w[last] for w in weights]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([x, c, row])
                    y = run(x, c, row)
                dx, more, *of_row = tape.gradient(y, [x, c, *row], dx, unconnected_gradients="zero")
                gradients = [_with_row(g, last, new) for g, new in zip(gradients, of_row)]
                return dx, dc + tf.cast(more, tf.float32), *gradients

            zeros = tf.zeros_like(c, tf.float32), *(tf.zeros_like(w) for w in weights)
            dx, dc, *gradients = loop(backward, dy, *zeros)
            return dx, tf.cast(dc, c.dtype), *gradients

        return y, gradients

    return call(x, c, *(_stacked(same, block.compute_dtype) for same in zip(*(b.trainable_variables for b in blocks))))


def _stacked(variables, dtype):
    """(depth, ...): matrices in the dtype that they are multiplied in, vectors (norms, biases) as they are."""
    values = [tf.convert_to_tensor(v.value) for v in variables]  # as a StatelessScope around it has them
    return tf.stack([tf.cast(value, dtype) if value.shape.rank == 2 else value for value in values])


def _with_row(stack, i, row):
    """stack (depth, ...) with this row in place i."""
    return tf.tensor_scatter_nd_update(stack, [[i]], row[None])
