"""Claims of the Inception network: ADM's features of ADM's graph, at every batch size, compiled too, and on a TPU."""

import hashlib
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.evaluation import graph_def, inception
from dit_tf.evaluation.inception import load_inception
from dit_tf.runtime.processor import this_processor

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "adm"
_NAMES = ("pool_3", "spatial", "softmax")

# Of a feature's own size. Eagerly the operations are TensorFlow's own in its own order, and 2e-5 is observed: another
# version of its convolutions. XLA adds in another order, which the network enlarges: 7e-5 is observed, and as much
# between float32 and float64. ADM's program ran with AVX-512, whose vectors are twice as long as those of AVX2: without
# it the convolutions add in another order too, and 2.2e-4 is observed (AMD EPYC of family 25, Zen 3).
_COMPILED = 3e-4
_SAME_ORDER = 1e-4 if this_processor().has_avx512 else _COMPILED


def assert_features_agree(actual, expected, tolerance):
    """The largest error of each feature, relative to its largest value; where that is below the mean value of all,
    because a feature is zero for nearly every image, relative to the mean."""
    for name, a, b in zip(_NAMES, actual, expected, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and a.dtype == np.float32
        error = (np.abs(a - b).max(axis=0) / np.maximum(np.abs(b).max(axis=0), np.abs(b).mean())).max()
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.fixture(scope="module")
def content(inception_file):
    return inception_file.read_bytes()


@pytest.fixture(scope="module")
def model(inception_file):
    return load_inception(inception_file)


@pytest.fixture(scope="module")
def golden():
    """golden(batch) -> (images uint8 (16, 32, 32, 3), what ADM's program makes of them)."""
    with np.load(_GOLDENS / "e2e_activations.npz") as file:
        activations = dict(file)

    def read(batch):
        with np.load(_GOLDENS / f"batch_{batch}.npz") as file:
            images = file["arr_0"]
        return images, {key.removeprefix(f"{batch}_"): a for key, a in activations.items() if key.startswith(batch)}

    return read


@pytest.fixture(scope="module")
def single_operations():
    with np.load(_GOLDENS / "graph_op_vectors.npz") as file:
        return dict(file)


def test_a_ramp_is_resized_from_its_corner():
    """Pixel i of the result lies at i H / height; past the last pixel there is its own value."""
    rows = tf.reshape(tf.range(4, dtype=tf.float32), (1, 4, 1, 1)) + tf.zeros((1, 4, 3, 2))
    expected = np.minimum(np.arange(10) * 0.4, 3)
    resized = inception.resize_bilinear(rows, 10, 3)
    np.testing.assert_allclose(resized[0, :, 1, 1], expected, rtol=1e-6)
    np.testing.assert_array_equal(inception.resize_bilinear(tf.transpose(rows, (0, 2, 1, 3)), 3, 10)[0, 1, :, 1],
                                  resized[0, :, 1, 1])  # fmt: skip


def test_a_smaller_image_takes_single_pixels():
    """No average: every third pixel of a sixth of the rows, and an image of the same size stays as it is."""
    images = tf.random.stateless_uniform((2, 12, 9, 3), seed=(0, 0))
    np.testing.assert_array_equal(inception.resize_bilinear(images, 2, 3), images[:, ::6, ::3])
    np.testing.assert_array_equal(inception.resize_bilinear(images, 12, 9), images)


@pytest.mark.parametrize("size", [(13, 9), (31, 30)])
def test_resizing_agrees_with_tensorflow_1(single_operations, size):
    actual = inception.resize_bilinear(single_operations["resize/in"], *size)
    # The same operations: 6e-8 of 255 would be one rounding of the fraction.
    np.testing.assert_allclose(actual, single_operations["resize/out_{}x{}".format(*size)], rtol=0, atol=1e-4)


@pytest.mark.parametrize("scaled", [False, True])
def test_normalisation_agrees_with_the_removed_operation(single_operations, scaled):
    x, *constants = (single_operations[f"bn/{name}"] for name in ("x", "mean", "variance", "beta", "gamma"))
    actual = inception.batch_norm(x, *constants, variance_epsilon=0.001, scale_after_normalization=scaled)
    expected = single_operations[f"bn/scale_after_normalization_{scaled}"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)  # a few roundings, and a difference


@pytest.mark.parametrize("op, name", [("AvgPool", "avgpool"), ("MaxPool", "maxpool")])
def test_pools_do_not_count_the_padding(single_operations, op, name):
    how = {"ksize": (3, 3), "strides": (1, 1), "padding": "SAME"}
    pool = graph_def.Operation(name, op, ("x",), (), how, (5, 6, 2))
    actual = inception.compute(pool, [single_operations["avgpool/in"]], [])
    np.testing.assert_allclose(actual, single_operations[f"{name}/3x3s1_SAME"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch", ["ref", "sample"])
def test_features_agree_with_adm(model, golden, batch):
    images, expected = golden(batch)
    features = model(images)
    assert features._fields == ("pool_3", "spatial", "probabilities")
    assert_features_agree(features, [expected[name] for name in _NAMES], _SAME_ORDER)


def test_a_graph_that_does_not_scale_agrees_with_adm(content, golden, tmp_path):
    graph = tf.compat.v1.GraphDef.FromString(content)
    for node in graph.node:
        if node.op == "BatchNormWithGlobalNormalization":
            node.attr["scale_after_normalization"].b = False
    (tmp_path / "graph.pb").write_bytes(graph.SerializeToString())
    images, expected = golden("ref")
    actual = load_inception(tmp_path / "graph.pb")(images).pool_3.numpy()
    expected = expected["pool_3_scale_after_normalization_false"]
    assert_features_agree([actual] * 3, [expected] * 3, _SAME_ORDER)


@pytest.mark.parametrize("size", [(40, 56), (310, 299)])
def test_features_agree_with_tensorflow_running_the_file(model, content, size):
    """Here, and here alone, the file is run. A session, because the operation is removed from functions."""
    images = np.random.default_rng(1).integers(0, 256, (2, *size, 3)).astype(np.float32)
    graph = tf.compat.v1.GraphDef.FromString(content)
    with tf.Graph().as_default():
        fed = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        wanted = ["pool_3:0", "mixed_6/conv:0", "softmax/logits/MatMul"]
        *wanted, matmul = tf.compat.v1.import_graph_def(graph, {"ExpandDims:0": fed}, wanted, name="")
        logits = tf.matmul(tf.reshape(wanted[0], (-1, 2048)), matmul.inputs[1])
        with tf.compat.v1.Session() as session:
            pool_3, spatial, softmax = session.run([*wanted, tf.nn.softmax(logits)], {fed: images})
    expected = pool_3.reshape(2, 2048), spatial[..., :7].reshape(2, 2023), softmax
    # The same version of the same operations: equal bit for bit, as observed, or in another order of threads.
    assert_features_agree(model(images), expected, 2e-5)


def test_one_image_is_as_good_as_many(model, golden):
    images, _ = golden("sample")
    one_by_one = [tf.concat(rows, axis=0) for rows in zip(*(model(images[i : i + 1]) for i in range(3)), strict=True)]
    assert_features_agree(one_by_one, [a[:3] for a in model(images)], _SAME_ORDER)


def test_bytes_and_floats_are_the_same(model, golden):
    images, _ = golden("sample")
    for a, b in zip(model(images[:2]), model(images[:2].astype(np.float32)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_compiled_program_takes_the_weights_as_arguments(model, golden):
    images, expected = golden("ref")
    weights = [tf.convert_to_tensor(v.value) for v in model.variables]
    compiled = tf.function(model.features_with, jit_compile=True, autograph=False)
    with inception.full_precision():
        compiled_for = compiled.get_concrete_function(weights, tf.TensorSpec((16, 32, 32, 3), tf.uint8))
        assert not compiled_for.captured_inputs
        actual = compiled(weights, tf.constant(images))
        assert not np.any(compiled([tf.zeros_like(w) for w in weights], tf.constant(images)).pool_3)
    assert_features_agree(actual, [expected[name] for name in _NAMES], _COMPILED)


def test_variables_are_the_published_constants(model, content):
    """Those of 94 convolutions with their normalisations, and the classifier without its bias."""
    assert len(model.variables) == 94 * 5 + 1 and not model.trainable_variables
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    assert model.sha256 == "8eab85c2e53f09aab2b8186722e6700f5fe7e488b00cb71057f5eb817d5369ca"  # the goldens' record


def test_full_precision_ends():
    enabled = tf.config.experimental.tensor_float_32_execution_enabled
    before = enabled()
    with pytest.raises(KeyError), inception.full_precision():
        assert not enabled()
        raise KeyError
    assert before and enabled()


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (32, 32, 3), (2, 3, 32, 32)])
def test_other_images_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, 3\) of known height and width, got \("):
        model(np.zeros(shape, np.uint8))


def full_size_nodes():
    """The published network by its documented nodes; each constant has one number, which stands for all of them."""
    attributes = {"float32": tf.float32.as_datatype_enum, "SAME": b"SAME", "VALID": b"VALID"}
    for row in json.loads((_GOLDENS / "inception_2015_nodes.json").read_text())["nodes"]:
        node = tf.compat.v1.NodeDef(name=row["name"], op=row["op"], input=row["inputs"])
        for name, value in row.get("attrs", {}).items():
            if name == "T":
                node.attr[name].type = attributes[value]
            elif isinstance(value, bool):
                node.attr[name].b = value
            elif isinstance(value, (int, float)):
                setattr(node.attr[name], "i" if isinstance(value, int) else "f", value)
            elif isinstance(value, list):
                node.attr[name].list.i.extend(value)
            else:
                node.attr[name].s = value.encode()
        if row["op"] == "Const" and row["const"]["dtype"] != "string":
            described = row["const"]
            tensor = tf.make_tensor_proto(described.get("value", 0.5), described["dtype"])
            if "value" not in described:
                tensor.tensor_shape.dim.extend(type(tensor.tensor_shape).Dim(size=n) for n in described["shape"])
            node.attr["value"].tensor.CopyFrom(tensor)
        yield node, row


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    path = tmp_path_factory.mktemp("full_size") / "graph.pb"
    path.write_bytes(tf.compat.v1.GraphDef(node=[node for node, _ in full_size_nodes()]).SerializeToString())
    return path


def multiply_adds(operations):
    return sum(o.constants[0].size * o.shape[0] * o.shape[1] for o in operations if o.op == "Conv2D")


def test_the_published_size_has_the_documented_shapes(full_size):
    documented = {row["name"]: tuple(row["output_shape"][1:]) for _, row in full_size_nodes() if "output_shape" in row}
    nodes, _ = graph_def.read_nodes(full_size)
    operations, (_, _, classifier) = graph_def.walk_back(
        nodes, ["pool_3", "mixed_6/conv", graph_def.second_factor(nodes, "softmax/logits/MatMul")], "ExpandDims"
    )
    assert {o.name: o.shape for o in operations[1:]}.items() <= documented.items()
    assert [o.op for o in operations].count("Conv2D") == 94 and classifier.shape == (2048, 1008)
    # "5 billion multiply-adds" (Szegedy et al. 2015, section 1); with a stem of 299 pixels they come to 5.7.
    assert 5.6e9 < multiply_adds(operations) < 5.8e9


_COMPILE = """
import dataclasses, json, sys
from dit_tf.runtime import tpu_compiler
tpu_compiler.prepare_environment()
import tensorflow as tf
from dit_tf.evaluation.inception import full_precision, load_inception

model = load_inception(sys.argv[1])
weights = [tf.TensorSpec(v.shape, tf.float32) for v in model.variables]
function = tf.function(model.features_with, jit_compile=True, autograph=False)
arguments = weights, tf.TensorSpec((8, 64, 64, 3), tf.uint8)
with full_precision():
    report, text = tpu_compiler.compile_function(function, arguments, topology="v3:2x2")
highest = text.count("operand_precision={highest,highest}")
print(json.dumps(dict(dataclasses.asdict(report), result=text.split("\\n", 1)[0], highest=highest)))
"""


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_the_published_size(run_with_tpu_compiler, full_size):
    report = json.loads(run_with_tpu_compiler(_COMPILE, full_size)[-1])
    assert re.search(r"->\(f32\[8,2048\]\S* f32\[8,2023\]\S* f32\[8,1008\]", report["result"])
    assert (report["host_operations"], report["all_reduces"], report["cores"]) == (0, 0, 1)
    assert report["highest"] == 94 + 1  # of the convolutions, and the product of the classifier
    nodes, _ = graph_def.read_nodes(full_size)
    operations, _ = graph_def.walk_back(nodes, ["pool_3"], "ExpandDims")
    # The compiler leaves out what would be multiplied by padding.
    assert 0.93 < report["flops"] / (2 * 8 * multiply_adds(operations)) < 1
    assert report["temporary_bytes"] < 2**29  # 299 MB for eight images
