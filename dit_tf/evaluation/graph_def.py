"""A frozen TensorFlow graph (a GraphDef, *.pb) read as data: a list of operations, of which nothing is imported or run.

The list is what lies behind the wanted nodes, walked back to the one that takes the images. Identity and CheckNumerics
are passed through, control edges left out. Whatever is not understood is a ValueError that names the node, and no file,
whatever it says, takes more memory than a few times the largest size allowed.
"""

import hashlib
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

SOURCE = "images"  # the op of the node that stands for what is fed

_LARGEST_FILE = 2**28  # bytes; the published network has 95,673,916
_LARGEST_NODE = 2**24  # its classifier has 8,257,536
_MOST_NODES = 10_000  # it has 1,022
_MOST_INPUTS = 64  # of one node; it has 7
_MOST_LETTERS = 200  # of a name
_FIELDS = {1: 2, 2: 2, 3: 0, 4: 2, 5: 2}  # of GraphDef: number -> wire type; 1 is `node`

_VALUE, _SIZES = "a tensor", "integers"
# What the inputs must be: a computed tensor, a constant of integers, or a float32 constant of so many axes.
_INPUTS = {
    "ResizeBilinear": (_VALUE, _SIZES),
    "Sub": (_VALUE, 0),
    "Mul": (_VALUE, 0),
    "Conv2D": (_VALUE, 4),
    "BatchNormWithGlobalNormalization": (_VALUE, 1, 1, 1, 1),  # mean, variance, beta, gamma
    "Relu": (_VALUE,),
    "MaxPool": (_VALUE,),
    "AvgPool": (_VALUE,),
}
_UNDERSTOOD = {"Const", "Identity", "CheckNumerics", "Concat", *_INPUTS}
_NEEDED = {
    "Conv2D": {"strides", "padding"},
    "MaxPool": {"ksize", "strides", "padding"},
    "AvgPool": {"ksize", "strides", "padding"},
    "BatchNormWithGlobalNormalization": {"variance_epsilon", "scale_after_normalization"},
    "Concat": {"N"},
}
# May be there, with this value alone. The graph of 2015 is older than most of them.
_FIXED = {
    "T": tf.float32.as_datatype_enum,
    "data_format": b"NHWC",
    "dilations": (1, 1, 1, 1),
    "explicit_paddings": (),
    "align_corners": False,
    "half_pixel_centers": False,
    "transpose_a": False,
    "transpose_b": False,
}
_WITHOUT_MEANING = {"use_cudnn_on_gpu"}


class Operation(NamedTuple):
    """One node. `attributes` are the needed ones of its op, `shape` is (H, W, C) of the result, None where unknown."""

    name: str
    op: str
    inputs: tuple  # names of earlier operations
    constants: tuple  # arrays, in the order of the node's inputs
    attributes: dict
    shape: tuple


def read_nodes(path):
    """-> ({name: NodeDef}, SHA-256 of the file). ValueError without the file's name, which its caller knows."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _LARGEST_FILE:
            raise ValueError(f"it has {size:,} bytes, more than {_LARGEST_FILE:,}")
        content = file.read(size)
    nodes = {}
    for message in _messages(content):
        try:
            node = tf.compat.v1.NodeDef.FromString(message)
        except DecodeError as error:
            raise ValueError(f"node {len(nodes)} cannot be decoded") from error
        if not (0 < len(node.name) <= _MOST_LETTERS and node.name.isprintable()):
            raise ValueError(f"node {len(nodes)} has no name that could be one")
        if node.name in nodes:
            raise ValueError(f"two nodes are called {node.name}")
        if len(node.input) > _MOST_INPUTS:
            raise ValueError(f"node {node.name} has {len(node.input)} inputs")
        nodes[node.name] = node
    return nodes, hashlib.sha256(content).hexdigest()


def walk_back(nodes, outputs, source):
    """-> (operations, inputs first, the images' own the first of them; what each output is: an Operation or an array).

    source: name of the node in whose place the images come, whatever lies behind it.
    """
    found, size = {source: Operation(source, SOURCE, (), (), {}, (None, None, 3))}, 0
    for output in outputs:
        stack, begun = [output], set()
        while stack:
            name = stack[-1]
            if name in found:
                stack.pop()
                continue
            if name not in nodes:
                raise ValueError(f"it has no node {_quoted(name)}")
            if nodes[name].op not in _UNDERSTOOD:
                raise ValueError(f"node {name} has the operation {_quoted(nodes[name].op)}, which is not known here")
            inputs = _inputs_of(nodes[name])
            missing = [i for i in inputs if i not in found]
            if not missing:
                found[name] = _understood(nodes[name], [found[i] for i in inputs])
                size += getattr(found[name], "nbytes", 0)
                if size > _LARGEST_FILE:
                    raise ValueError(f"its constants have more than {_LARGEST_FILE:,} bytes")
            elif name in begun:
                raise ValueError(f"node {name} is its own input, in a circle")
            else:
                begun.add(name)
                stack += missing
    # A node that is passed through is there once more, as what lies behind it.
    operations = {id(o): o for o in found.values() if isinstance(o, Operation)}
    return tuple(operations.values()), [found[output] for output in outputs]


def second_factor(nodes, name):
    """The name of the second input of a MatMul, for `walk_back`."""
    if name not in nodes:
        raise ValueError(f"it has no node {name}")
    inputs = _inputs_of(nodes[name])
    if nodes[name].op != "MatMul" or len(inputs) != 2:
        raise ValueError(f"node {name} is no product of two matrices")
    _attributes_of(nodes[name])
    return inputs[1]


def _messages(content):
    """The bytes of each NodeDef: the outermost of the protocol's messages, one by one, so that memory stays bounded."""
    at, count = 0, 0
    while at < len(content):
        key, at = _varint(content, at)
        if _FIELDS.get(key >> 3) != key & 7:
            raise ValueError("it is no GraphDef")
        value, at = _varint(content, at)
        if key & 7 == 0:
            continue
        if value > len(content) - at:
            raise ValueError("it ends in the middle")
        if key >> 3 == 1:
            count += 1
            if value > _LARGEST_NODE or count > _MOST_NODES:
                raise ValueError(f"it has more than {_MOST_NODES} nodes, or one of more than {_LARGEST_NODE:,} bytes")
            yield content[at : at + value]
        at += value


def _varint(content, at):
    value = 0
    for i, byte in enumerate(content[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError("it ends in the middle" if len(content) - at < 10 else "it is no GraphDef")


def _inputs_of(node):
    """Names of a node's inputs without control edges. Every op here has one result, number 0."""
    return [name.removesuffix(":0") for name in node.input if not name.startswith("^")]


def _understood(node, inputs):
    """A node and what its inputs are -> an Operation, or the array of a constant."""
    if node.op == "Const":
        return _constant(node)
    if node.op in ("Identity", "CheckNumerics"):
        if len(inputs) != 1:
            raise ValueError(f"node {node.name} ({node.op}) must have one input")
        return inputs[0]
    wanted = _INPUTS.get(node.op) or (_SIZES, *(_VALUE,) * max(len(inputs) - 1, 1))  # of Concat as many as there are
    if [_kind(i) for i in inputs] != list(wanted):
        needs = ", ".join(k if isinstance(k, str) else f"numbers of {k} axes" for k in wanted)
        raise ValueError(f"node {node.name} ({node.op}) must have other inputs: {needs}")
    attributes = _attributes_of(node)
    values = [i for i in inputs if isinstance(i, Operation)]
    constants = tuple(i for i in inputs if not isinstance(i, Operation))
    shape = _shape(node, [value.shape for value in values], constants, attributes)
    return Operation(node.name, node.op, tuple(value.name for value in values), constants, attributes, shape)


def _kind(found):
    if isinstance(found, Operation):
        return _VALUE
    return _SIZES if found.dtype == np.int32 else found.ndim


def _constant(node):
    tensor = node.attr["value"].tensor
    shape = tuple(axis.size for axis in tensor.tensor_shape.dim)
    plain = tensor.dtype in (tf.float32.as_datatype_enum, tf.int32.as_datatype_enum) and len(shape) <= 4
    # One number may stand for all, so the length of the node bounds nothing: the shape has to.
    if not plain or tensor.tensor_shape.unknown_rank or not all(0 < axis <= _LARGEST_NODE for axis in shape):
        raise ValueError(f"node {node.name} is no constant of float32 or int32 with at most 4 axes")
    if 4 * np.prod(shape, dtype=object) > _LARGEST_NODE:
        raise ValueError(f"node {node.name} has the shape {shape}, which is too large")
    try:
        array = tf.make_ndarray(tensor)
    except (ValueError, TypeError) as error:
        raise ValueError(f"node {node.name} has not the values that its shape {shape} needs") from error
    if not np.isfinite(array).all():
        raise ValueError(f"node {node.name} has values that are not finite")
    return array


def _attributes_of(node):
    """The needed attributes of an op: sizes as (rows, columns), padding as text."""
    attributes, needed = {}, _NEEDED.get(node.op, set())
    for name in sorted(node.attr):
        value = _plain(node.attr[name])
        if name in needed:
            attributes[name] = _checked(name, value, node)
        elif name in _FIXED:
            if value != _FIXED[name]:
                raise _unknown_attribute(node, name, value)
        elif name not in _WITHOUT_MEANING and not name.startswith("_"):  # TensorFlow's own notes begin so
            raise _unknown_attribute(node, name, value)
    if attributes.keys() != needed:
        raise ValueError(f"node {node.name} has no {', '.join(sorted(needed - attributes.keys()))}")
    return attributes


def _plain(attribute):
    kind = attribute.WhichOneof("value")
    return tuple(attribute.list.i) if kind == "list" else kind and getattr(attribute, kind)


def _checked(name, value, node):
    if name in ("strides", "ksize"):
        if isinstance(value, tuple) and len(value) == 4 and value[::3] == (1, 1) and all(1 <= v <= 64 for v in value):
            return value[1:3]
    elif name == "padding":
        if value in (b"SAME", b"VALID"):
            return value.decode()
    elif name == "N":
        if value == len(_inputs_of(node)) - 1:
            return value
    elif isinstance(value, bool if name == "scale_after_normalization" else float) and np.isfinite(value):
        return value
    raise _unknown_attribute(node, name, value)


def _unknown_attribute(node, name, value):
    what = f"{_quoted(name)[1:-1]} = {_quoted(value)}"
    return ValueError(f"node {node.name} ({node.op}) has the attribute {what}, which is not known here")


def _shape(node, shapes, constants, attributes):
    """(H, W, C) of the result; ValueError where the inputs do not fit together."""
    height, width, channels = shapes[0]
    if node.op == "ResizeBilinear" and constants[0].shape == (2,) and constants[0].min() > 0:
        return (*constants[0].tolist(), channels)
    if node.op in ("Sub", "Mul", "Relu"):
        return shapes[0]
    if node.op == "BatchNormWithGlobalNormalization":
        if all(c.shape == (channels,) for c in constants) and constants[1].min() + attributes["variance_epsilon"] > 0:
            return shapes[0]
    elif node.op == "Concat":
        if constants[0].shape == () and constants[0] == 3 and {s[:2] for s in shapes} == {(height, width)}:
            return height, width, sum(s[2] for s in shapes)
    elif node.op in ("Conv2D", "MaxPool", "AvgPool") and height is not None:
        kernel = constants[0].shape if constants else (*attributes["ksize"], channels, channels)
        space = zip((height, width), kernel, attributes["strides"])
        cut = attributes["padding"] == "VALID"
        space = [-(-(size - cut * (k - 1)) // stride) for size, k, stride in space]
        if kernel[2] == channels and min(space) > 0:
            return (*space, kernel[3])
    sizes = ", ".join(str(s) for s in [*shapes, *(c.shape for c in constants)])
    raise ValueError(f"node {node.name} ({node.op}) has inputs that do not fit together, of shapes {sizes}")


def _quoted(value):
    return ascii(value)[:80]
