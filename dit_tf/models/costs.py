"""What a model costs, read off the model itself: parameters, and the multiply-adds of one forward pass.

The paper's "Gflops" are multiply-adds at batch 1: every dense product plus Q.K and A.V, nothing elementwise. One
multiply-add is two FLOPs, and a training step takes three forward passes' worth.
"""

import math

import keras
import tensorflow as tf


def abstract(build):
    """build() -> a Keras model whose weights have shapes but no memory, so that XL/2 costs nothing to look at.

    The weights belong to a graph that never runs. (A StatelessScope would draw all of them when it closes.)
    """
    with tf.Graph().as_default():
        return build()


def call_with(model, params, inputs, **options):
    """model(inputs) with `params` in the place of its trainable weights, in their order. A pure function of tensors."""
    with keras.StatelessScope(state_mapping=zip(model.trainable_variables, params)):
        return model(inputs, training=False, **options)


def count_parameters(model):
    """(trainable, frozen) entries; the frozen ones are the fixed position table. The public code counts both."""
    return sum(math.prod(v.shape) for v in model.trainable_variables), model.frozen_parameters


def input_specs(model, batch_size=1):
    """The signature of model((x, t, y))."""
    config = model.get_config()
    x = tf.TensorSpec((batch_size, *config["input_size"], config["in_channels"]), tf.float32)
    return x, tf.TensorSpec((batch_size,), tf.int32), tf.TensorSpec((batch_size,), tf.int32)


def count_macs(model):
    """Multiply-adds of one forward pass at batch 1, counted over the products of the traced graph."""
    params = [tf.TensorSpec(v.shape, v.dtype) for v in model.trainable_variables]
    return count_macs_of(lambda params, *inputs: call_with(model, params, inputs), params, *input_specs(model))


def count_macs_of(function, *specs):
    """Multiply-adds of a function that captures nothing, given its arguments' TensorSpecs, in any structure."""
    graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
    return sum(_macs_of(op) for op in graph.get_operations())


def training_flops(model, batch_size):
    """FLOPs of one training step: 3 forward passes (one forward, two for the gradients), 2 FLOPs a multiply-add."""
    return 3 * 2 * batch_size * count_macs(model)


def _macs_of(op):
    if op.type in ("MatMul", "BatchMatMulV2"):
        contracted = op.inputs[0].shape[-2 if op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x") else -1]
        return contracted * op.outputs[0].shape.num_elements()
    if op.type == "Einsum" and b"..." not in op.get_attr("equation"):
        letters, sizes = op.get_attr("equation").decode().split("->")[0].split(","), {}
        for term, tensor in zip(letters, op.inputs):
            sizes.update(zip(term, tensor.shape))
        return math.prod(sizes.values())
    if op.type == "Conv2D":  # kernels are (height, width, in, out)
        return math.prod(op.inputs[1].shape[:3]) * op.outputs[0].shape.num_elements()
    if any(word in op.type for word in ("Conv", "MatMul", "Dot", "Einsum", "Call", "While", "If", "Case")):
        raise NotImplementedError(f"The product {op.type}, or what may lie inside it, is not counted yet.")
    return 0
