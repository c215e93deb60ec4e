"""Claims of the reader of frozen graphs: what it takes out of small ones, and what it will not read, by node."""

import hashlib
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.evaluation.graph_def import SOURCE, Operation, read_nodes, second_factor, walk_back

_FLOAT = tf.float32.as_datatype_enum


def node(name, op, *inputs, **attributes):
    """A NodeDef as programs of 2015 wrote it."""
    made = tf.compat.v1.NodeDef(name=name, op=op, input=inputs)
    for key, value in attributes.items():
        if isinstance(value, bool):
            made.attr[key].b = value
        elif isinstance(value, float):
            made.attr[key].f = value
        elif isinstance(value, bytes):
            made.attr[key].s = value
        elif isinstance(value, list):
            made.attr[key].list.i.extend(value)
        elif isinstance(value, int):
            made.attr[key].i = value
        else:
            made.attr[key].tensor.CopyFrom(value)
    return made


def constant(name, values, dtype=np.float32):
    return node(name, "Const", value=tf.make_tensor_proto(np.asarray(values, dtype)))


_WINDOW = dict(strides=[1, 2, 2, 1], padding=b"SAME")
_NORM = dict(variance_epsilon=0.5, scale_after_normalization=True)


def small_graph():
    """Two branches of images of 9 x 7: a convolution with its normalisation, and a mean; and a matrix."""
    return [
        node("decode", "DecodeJpeg", "a file"),
        constant("size", [9, 7], np.int32),
        node("resized", "ResizeBilinear", "decode", "size"),
        constant("kernel", np.arange(54).reshape(3, 3, 3, 2)),
        node("conv", "Conv2D", "resized", "kernel", **_WINDOW),
        *(constant(name, [3, 4]) for name in ("mean", "variance", "beta", "gamma")),
        node("norm", "BatchNormWithGlobalNormalization", "conv", "mean", "variance", "beta", "gamma", **_NORM),
        node("checked", "CheckNumerics", "norm", message=b"no number"),
        node("same", "Identity", "norm:0", "^checked"),
        node("mean_of_few", "AvgPool", "resized", ksize=[1, 3, 2, 1], strides=[1, 2, 2, 1], padding=b"VALID"),
        node("padded", "MaxPool", "mean_of_few", ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding=b"SAME"),
        node("at", "Identity", "axis"),
        constant("axis", 3, np.int32),
        node("wide", "Conv2D", "same", "pixel", strides=[1, 1, 1, 1], padding=b"SAME", data_format=b"NHWC"),
        constant("pixel", np.ones((1, 1, 2, 2))),
        node("joined", "Concat", "at", "wide", "same", N=2),
        constant("matrix", np.ones((5, 4))),
        node("product", "MatMul", "flat", "matrix", transpose_a=False, transpose_b=False),
    ]


def by_name(nodes):
    return {made.name: made for made in nodes}


def test_operations_come_in_order_with_their_shapes():
    operations, (joined, pooled, matrix) = walk_back(by_name(small_graph()), ["joined", "padded", "matrix"], "decode")
    assert [(o.name, o.op, o.inputs, o.shape) for o in operations] == [
        ("decode", SOURCE, (), (None, None, 3)),
        ("resized", "ResizeBilinear", ("decode",), (9, 7, 3)),
        ("conv", "Conv2D", ("resized",), (5, 4, 2)),
        ("norm", "BatchNormWithGlobalNormalization", ("conv",), (5, 4, 2)),
        ("wide", "Conv2D", ("norm",), (5, 4, 2)),
        ("joined", "Concat", ("wide", "norm"), (5, 4, 4)),
        ("mean_of_few", "AvgPool", ("resized",), (4, 3, 3)),
        ("padded", "MaxPool", ("mean_of_few",), (4, 3, 3)),
    ]
    assert isinstance(joined, Operation) and pooled.attributes["ksize"] == (2, 2)
    conv, norm = operations[2:4]
    np.testing.assert_array_equal(conv.constants[0], np.arange(54).reshape(3, 3, 3, 2))
    assert conv.attributes == {"strides": (2, 2), "padding": "SAME"} and norm.attributes == _NORM
    assert matrix.shape == (5, 4)


def test_the_second_factor_is_found():
    assert second_factor(by_name(small_graph()), "product") == "matrix"


def test_one_number_may_stand_for_all():
    tensor = tf.make_tensor_proto(np.float32(2.5))
    tensor.tensor_shape.dim.add().size = 3
    _, (array,) = walk_back(by_name([node("c", "Const", value=tensor)]), ["c"], "decode")
    np.testing.assert_array_equal(array, np.float32([2.5] * 3))


def large(shape):
    tensor = tf.make_tensor_proto(np.float32(1))
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    return node("kernel", "Const", value=tensor)


def other(name, op="Conv2D", inputs=("resized", "kernel"), **attributes):
    return node(name, op, *inputs, **{**_WINDOW, **attributes})


@pytest.mark.parametrize(
    "changed, said",
    [
        (node("conv", "Conv3D", "resized", "kernel"), "conv has the operation 'Conv3D', which is not known"),
        (node("conv", "PyFunc", "resized"), "conv has the operation 'PyFunc', which"),
        (other("conv", data_format=b"NCHW"), r"conv \(Conv2D\) has the attribute data_format = b'NCHW', which is not"),
        (other("conv", padding=b"EXPLICIT"), r"conv \(Conv2D\) has the attribute padding = b'EXPLICIT'"),
        (other("conv", strides=[1, 0, 2, 1]), r"attribute strides = \(1, 0, 2, 1\)"),
        (other("conv", strides=[2, 2, 2, 1]), r"attribute strides = \(2, 2, 2, 1\)"),
        (other("conv", strides=3), "attribute strides = 3"),
        (other("conv", dilations=[1, 2, 2, 1]), r"attribute dilations = \(1, 2, 2, 1\)"),
        (other("conv", explicit_paddings=[1, 1]), r"attribute explicit_paddings = \(1, 1\)"),
        (other("conv", groups=2), "attribute groups = 2"),
        (node("conv", "Conv2D", "resized", "kernel", padding=b"SAME"), "node conv has no strides"),
        (node("conv", "Conv2D", "resized", "kernel", strides=[1, 1, 1, 1]), "node conv has no padding"),
        (other("conv", inputs=("resized",)), r"conv \(Conv2D\) must have other inputs: a tensor, numbers of 4 axes"),
        (other("conv", inputs=("resized", "mean")), r"conv \(Conv2D\) must have other inputs:"),
        (other("conv", inputs=("kernel", "kernel")), r"conv \(Conv2D\) must have other inputs:"),
        (other("conv", inputs=("decode", "kernel")), r"fit together, of shapes \(None, None, 3\), \(3, 3, 3, 2\)"),
        (other("conv", inputs=("resized:1", "kernel")), "no node 'resized:1'"),
        (other("conv", inputs=("resized", "absent")), "no node 'absent'"),
        (other("conv", inputs=("same", "kernel")), "is its own input, in a circle"),
        (constant("kernel", np.ones((3, 3, 4, 2))), r"conv \(Conv2D\) has inputs that do not fit together, of shapes"),
        (constant("kernel", np.ones((3, 3, 3, 2)), np.int32), "must have other inputs: a tensor, numbers of 4 axes"),
        (constant("kernel", np.ones((3, 3, 3, 2)), np.float64), "kernel is no constant of float32 or int32"),
        (constant("kernel", np.full((3, 3, 3, 2), np.nan)), "kernel has values that are not finite"),
        (large([2**20, 2**20]), r"kernel has the shape \(1048576, 1048576\), which is too large"),
        (large([2**40]), "kernel is no constant of float32 or int32 with at most 4 axes"),
        (large([-1]), "kernel is no constant of float32 or int32 with at most 4 axes"),
        (node("kernel", "Const"), "kernel is no constant"),
        (constant("mean", [1, 2, 3]), r"norm \(BatchNorm\w+\) has inputs that do not fit together"),
        (constant("variance", [1, -1]), r"norm \(BatchNorm\w+\) has inputs that do not fit together"),
        (node("norm", "BatchNormWithGlobalNormalization", "conv", "mean", "variance", "beta", "gamma"),
         "norm has no scale_after_normalization, variance_epsilon"),
        (node("same", "Identity", "norm", "conv"), r"same \(Identity\) must have one input"),
        (node("same", "Identity", "^norm"), r"same \(Identity\) must have one input"),
        (node("joined", "Concat", "at", "wide", "resized", N=2), r"joined \(Concat\) has inputs that do not fit"),
        (node("joined", "Concat", "at", "wide", "same", N=3), "attribute N = 3"),
        (node("joined", "Concat", "at", N=0), r"joined \(Concat\) must have other inputs: integers, a tensor"),
        (constant("axis", 2, np.int32), r"joined \(Concat\) has inputs that do not fit"),
        (constant("size", [0, 7], np.int32), r"resized \(ResizeBilinear\) has inputs that do not fit together"),
        (constant("size", [9, 7, 3], np.int32), r"resized \(ResizeBilinear\) has inputs that do not fit together"),
        (node("resized", "ResizeBilinear", "decode", "size", align_corners=True), "attribute align_corners = True"),
        (node("resized", "ResizeBilinear", "decode", "size", half_pixel_centers=True), "half_pixel_centers = True"),
        (node("product", "MatMul", "flat", "matrix", transpose_b=True), "attribute transpose_b = True"),
        (node("product", "Mul", "flat", "matrix"), "product is no product of two matrices"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_its_node(changed, said):
    nodes = by_name(small_graph()) | {changed.name: changed}
    with pytest.raises(ValueError, match=said):
        walk_back(nodes, ["joined", second_factor(nodes, "product")], "decode")


def test_a_type_other_than_float32_is_refused():
    conv = other("conv")
    conv.attr["T"].type = _FLOAT
    nodes = by_name(small_graph()) | {"conv": conv}
    walk_back(nodes, ["conv"], "decode")
    conv.attr["T"].type = tf.float64.as_datatype_enum
    with pytest.raises(ValueError, match=r"conv \(Conv2D\) has the attribute T = 2"):
        walk_back(nodes, ["conv"], "decode")


def test_a_long_chain_is_walked():
    """Longer than Python lets a function call itself."""
    chain = [node(f"n{i}", "Relu", f"n{i - 1}") for i in range(1, 5000)]
    operations, (last,) = walk_back(by_name(chain), ["n4999"], "n0")
    assert len(operations) == 5000 and operations[-1] is last


def write(path, nodes):
    graph = tf.compat.v1.GraphDef(node=nodes)
    graph.versions.producer = 8
    content = graph.SerializeToString()
    path.write_bytes(content)
    return content


def test_a_file_is_read_as_tensorflow_reads_it(tmp_path):
    content = write(tmp_path / "graph.pb", small_graph())
    nodes, digest = read_nodes(tmp_path / "graph.pb")
    assert list(nodes.values()) == list(tf.compat.v1.GraphDef.FromString(content).node)
    assert digest == hashlib.sha256(content).hexdigest()


def field(number, wire, *content):
    return bytes([number << 3 | wire, *content])


@pytest.mark.parametrize(
    "content, said",
    [
        (b"A page that says: not found.", "it is no GraphDef"),
        (b"\x1f\x8b\x08\x00 a compressed archive", "it is no GraphDef"),
        (field(1, 2, 5) + b"\x0a\x01", "it ends in the middle"),
        (field(1, 2, 0x80), "it ends in the middle"),
        (field(1, 2, *[0xFF] * 11), "it is no GraphDef"),
        (field(1, 0, 1), "it is no GraphDef"),
        (field(1, 2, 2) + b"\x0a\x05", "node 0 cannot be decoded"),
        (field(1, 2, 0), "node 0 has no name"),
        (field(1, 2, 5) + b"\x0a\x03a\nb", "node 0 has no name"),
        (2 * (field(1, 2, 3) + b"\x0a\x01a"), "two nodes are called a"),
        (field(1, 2, 0xFF, 0xFF, 0xFF, 0x7F), "it ends in the middle"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path, content, said):
    (tmp_path / "graph.pb").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{said}"):
        read_nodes(tmp_path / "graph.pb")


def test_what_is_too_large_takes_no_memory(tmp_path):
    """A node of 32 MiB, a node of many inputs, a file of a terabyte, and constants that one number each stands for."""
    path = tmp_path / "graph.pb"
    tracemalloc.start()
    with open(path, "wb") as file:
        file.write(field(1, 2, 0x80, 0x80, 0x80, 0x10))
        file.truncate(2**25 + 5)
    with pytest.raises(ValueError, match="or one of more than 16,777,216 bytes"):
        read_nodes(path)
    write(path, [node("joined", "Concat", *["wide"] * 100)])
    with pytest.raises(ValueError, match="node joined has 100 inputs"):
        read_nodes(path)
    with open(path, "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="it has 1,099,511,627,776 bytes, more than 268,435,456"):
        read_nodes(path)
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()
    nodes = {f"c{i}": large([2**11, 2**11]) for i in range(20)}
    with pytest.raises(ValueError, match="its constants have more than 268,435,456 bytes"):
        walk_back(nodes, nodes, "decode")
