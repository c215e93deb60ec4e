"""Rematerialisation (Chen et al. 2016, "Training deep nets with sublinear memory cost"): a part of a block keeps its
input and computes its activations anew when the gradients pass, which costs a third more FLOPs.

`tf.recompute_grad` does not last: a compiler that sees the same computation twice keeps the first and its memory. Here
a barrier hides from it that the inputs of the second are those of the first.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext


class Part(NamedTuple):
    """A step that tokens take through a block: run(x, *conditions) -> x, by the weights of `layers` and no others.

    Attention and MLP are parts of their own, so that of a block the activations of one at a time are there.
    """

    run: Callable
    layers: tuple
    conditions: tuple = ()


def rematerialised(part, x):
    """part.run(x, *conditions), of which the gradients of inputs and weights need the inputs and weights alone."""
    inputs = (x, *part.conditions)
    variables, count = [v for layer in part.layers for v in layer.trainable_variables], len(inputs)

    def run(inputs, weights):
        with keras.StatelessScope(state_mapping=zip(variables, weights)):
            return part.run(*inputs)

    @tf.custom_gradient
    def call(*tensors):
        inputs, weights = tensors[:count], tensors[count:]

        def gradients(dy):
            *again, dy_again = _fenced(*inputs, dy)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([again, weights])
                y = run(again, weights)
            return tape.gradient(y, [*again, *weights], dy_again, unconnected_gradients="zero")

        return run(inputs, weights), gradients

    return call(*inputs, *(tf.convert_to_tensor(v.value) for v in variables))  # as a StatelessScope around it has them


def _fenced(*tensors):
    """The tensors, of which the compiler does not know any more where they come from. Only XLA has the operation, and
    what is not compiled needs none."""
    if GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return xla.optimization_barrier(*tensors)
    return tensors
