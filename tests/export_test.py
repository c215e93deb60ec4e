"""`python -m dit_tf.export`: what TensorFlow alone loads draws the images of `dit_tf.sample`, row by row."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from dit_tf import build
from dit_tf.samplers.options import SamplerOptions
from tests.commands import run_command
from tests.exported import exported_once

# What a server has: TensorFlow, and neither this package nor its place.
_ALONE = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
rows = np.load(sys.argv[2])
images = {
    name: model.signatures[name](
        label=tf.constant(rows["label"]), seed=tf.constant(rows["seed"]), cfg_scale=tf.constant(rows["cfg_scale"])
    )["image"].numpy()
    for name in ("serving_default", "serving_xla")
}
assert not any(name.split(".")[0] == "dit_tf" for name in sys.modules)
np.savez(sys.argv[3], **images)
"""


@pytest.fixture(scope="module")
def exported(once, parse, trained):
    return exported_once(once, parse, trained)


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def image_zero(trained):
    """image_zero(label, seed, cfg_scale): what `dit_tf.sample --labels=label --seed=seed` draws."""
    model = build.load_model(str(trained))
    config, params, samplers = build.load_config(str(trained)), build.weights_of(model), {}

    def draw(label, seed, cfg_scale):
        options = SamplerOptions("ddim", 10, cfg_scale=float(cfg_scale))
        guided = samplers.setdefault(options.guided, build.make_sampler(config, model, options))
        row = tf.constant([0])
        return guided.with_options(options)(params, tf.constant([label]), tf.constant(seed), row).images[0].numpy()

    return draw


def request(label, seed, cfg_scale):
    return dict(
        label=tf.constant(label, tf.int64),
        seed=tf.constant(seed, tf.int64),
        cfg_scale=tf.constant(cfg_scale, tf.float32),
    )


def test_tensorflow_alone_draws_what_sample_draws(exported, image_zero, tmp_path, rng):
    """Within a grey level: sums in another order. Scales of 1 (no guidance) and seeds of 63 bits are among them."""
    rows = dict(
        label=rng.integers(0, 10, 16), seed=rng.integers(0, 2**63, 16),
        cfg_scale=rng.choice([1.0, 0.0, 1.5, 4.0], 16).astype(np.float32),
    )  # fmt: skip
    np.savez(tmp_path / "rows.npz", **rows)
    command = [sys.executable, "-I", "-c", _ALONE, exported, tmp_path / "rows.npz", tmp_path / "images.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = np.stack([image_zero(*row) for row in zip(*rows.values())]).astype(int)
    with np.load(tmp_path / "images.npz") as images:
        for name in images.files:
            assert np.abs(images[name].astype(int) - expected).max() <= 1, name
    assert len({image.tobytes() for image in expected}) == 16


def test_saved_model_cli_shows_the_documented_signatures(exported):
    shown = run_command("tensorflow.python.tools.saved_model_cli", "show", "--dir", exported, "--all").stdout
    inputs, outputs = {}, {}
    for part in shown.split("signature_def['")[1:]:
        name, _, text = part.partition("']")
        given, _, gives = text.partition("The given SavedModel SignatureDef contains the following output(s)")
        inputs[name], outputs[name] = _tensors(given), _tensors(gives.split("Method name")[0])
    row = dict(label=("DT_INT64", "(-1)"), seed=("DT_INT64", "(-1)"), cfg_scale=("DT_FLOAT", "(-1)"))
    x, image = ("DT_FLOAT", "(-1, 8, 8, 1)"), ("DT_UINT8", "(-1, 8, 8, 1)")
    text = ("DT_STRING", "(-1)")
    del inputs["__saved_model_init_op"], outputs["__saved_model_init_op"]
    label = dict(label=row["label"])
    assert inputs == {
        "serving_default": row, "serving_xla": row, "png": row, "classes": label,
        "denoise": dict(label, x=x, t=("DT_FLOAT", "(-1)")),
    }  # fmt: skip
    assert outputs == {
        "serving_default": dict(image=image), "serving_xla": dict(image=image), "png": dict(image_bytes=text),
        "denoise": dict(output=("DT_FLOAT", "(-1, 8, 8, 2)")),
        "classes": dict(name=text, id=text, num_classes=("DT_INT64", "(-1)")),
    }  # fmt: skip


def _tensors(text):
    """{name: (dtype, shape)} of what saved_model_cli prints of inputs or outputs."""
    found = {}
    for part in text.split("puts['")[1:]:
        lines = [line.strip() for line in part.splitlines()]
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        found[part.partition("'")[0]] = fields["dtype"], fields["shape"]
    return found


def functions_of(exported, signature):
    """The names of a signature's function and of all that it calls, and the graph's library."""
    saved = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    (meta,) = saved.meta_graphs
    library = {function.signature.name: function for function in meta.graph_def.library.function}
    target = meta.signature_def[signature].outputs
    (node_name,) = {info.name.split(":")[0] for info in target.values()}
    nodes = {node.name: node for node in meta.graph_def.node}
    waiting, seen = [nodes[node_name]], set()
    while waiting:
        node = waiting.pop()
        for value in node.attr.values():
            for name in [value.func.name, *(f.name for f in value.list.func)]:
                if name in library and name not in seen:
                    seen.add(name)
                    waiting += library[name].node_def
    return [library[name] for name in seen]


def must_compile(functions):
    nodes = [node for function in functions for node in function.node_def]
    return any(part.attr["_XlaMustCompile"].b for part in [*functions, *nodes])


def test_the_default_signature_has_nothing_that_is_compiled_by_xla_and_no_state_of_random_numbers(exported):
    for name in ("serving_default", "png", "denoise", "classes"):
        functions = functions_of(exported, name)
        assert functions and not must_compile(functions), name
        operations = {node.op for function in functions for node in function.node_def}
        assert {"MatMul", "Assert"} & operations
        assert not [op for op in operations if "Random" in op or "Rng" in op or "Multinomial" in op]
    assert must_compile(functions_of(exported, "serving_xla"))


def test_the_loop_of_steps_reads_no_weight_and_works_out_no_shape_of_a_product(exported):
    """Both cost each step of one small image a tenth of its time where the number of rows is unknown."""
    functions = functions_of(exported, "serving_default")
    (body,) = (f for f in functions if "MatMul" in (ops := [n.op for n in f.node_def]) and "Assert" not in ops)
    operations = [node.op for node in body.node_def]
    assert not {"ReadVariableOp", "Prod"} & set(operations)
    assert operations.count("Shape") <= 1  # of the times, one for each row


@pytest.mark.parametrize("name", ["serving_default", "serving_xla"])
def test_an_image_does_not_depend_on_its_neighbours(loaded, name, rng):
    """serving_xla is compiled for each number of rows, so it gets two numbers."""
    rows = list(zip(rng.integers(0, 10, 16), rng.integers(0, 2**63, 16), rng.uniform(0, 5, 16)))
    draw = loaded.signatures[name]
    together = draw(**request(*zip(*rows)))["image"].numpy().astype(int)
    order, parts = rng.permutation(16), [1, 3, 9] if name == "serving_default" else [8]
    for part in np.split(order, parts):
        apart = draw(**request(*zip(*(rows[i] for i in part))))["image"].numpy()
        assert np.abs(apart - together[part]).max() <= 1


def test_a_png_is_the_image(loaded):
    rows = request([3, 1], [0, 7], [1.5, 2.0])
    images = loaded.signatures["serving_default"](**rows)["image"].numpy()
    for png, image in zip(loaded.signatures["png"](**rows)["image_bytes"].numpy(), images):
        assert png.startswith(b"\x89PNG")
        np.testing.assert_array_equal(tf.io.decode_png(png), image)


def test_denoise_is_one_call_of_the_network(loaded, trained, rng):
    x, t, label = rng.normal(size=(3, 8, 8, 1)).astype(np.float32), [0.0, 400.0, 999.0], [0, 9, 10]
    output = loaded.signatures["denoise"](x=tf.constant(x), t=tf.constant(t), label=tf.constant(label, tf.int64))
    expected = build.load_model(str(trained))((x, tf.constant(t), tf.constant(label)), training=False)
    np.testing.assert_allclose(output["output"], expected, atol=1e-5)  # sums in another order


def test_classes_are_those_of_the_model(loaded):
    found = loaded.signatures["classes"](label=tf.constant([0, 9], tf.int64))
    assert [name.decode() for name in found["name"].numpy()] == ["0", "9"]
    assert found["id"].numpy().tolist() == [b"", b""] and found["num_classes"].numpy().tolist() == [10, 10]


@pytest.mark.parametrize(
    "label, seed, cfg_scale, sentence",
    [
        ([10], [0], [1.0], r"\[label must be from 0 to 9, got\] \[10\]"),
        ([0, -1], [0, 0], [1.0, 1.0], r"\[label must be from 0 to 9, got\] \[0 -1\]"),
        ([0], [-1], [1.0], r"\[seed must not be negative, got\] \[-1\]"),
        ([0], [0], [np.nan], r"\[cfg_scale must be from 0 to 100, got\] \[nan\]"),
        ([0], [0], [100.5], r"\[cfg_scale must be from 0 to 100, got\] \[100.5\]"),
        ([0], [0], [-0.5], r"\[cfg_scale must be from 0 to 100, got\]"),
        ([0, 1], [0], [1.0], r"must have as many rows as \w+, got\] \[[12]\]"),
        ([0], [0, 1], [1.0], r"must have as many rows as \w+, got\] \[[12]\]"),
        ([0] * 65, [0] * 65, [1.0] * 65, r"\[a request must have from 1 to 64 rows, got\] \[65\]"),
        ([], [], [], r"\[a request must have from 1 to 64 rows, got\] \[0\]"),
    ],
)
@pytest.mark.parametrize("name", ["serving_default", "png", "serving_xla"])
def test_what_is_out_of_range_is_an_invalid_argument_with_the_rule(loaded, name, label, seed, cfg_scale, sentence):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        loaded.signatures[name](**request(label, seed, cfg_scale))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(label=[11]), "label must be from 0 to 10, got"),  # 10 is the null class
        (dict(t=[1000.0]), "t must be from 0 to 999, got"),
        (dict(t=[np.nan]), "t must be from 0 to 999, got"),
        (dict(x=np.full((1, 8, 8, 1), np.inf)), "x must be finite"),
        (dict(t=[0.0, 1.0]), "must have as many rows"),
    ],
)
def test_denoise_has_rules_too(loaded, changes, sentence):
    given = dict(x=np.zeros((1, 8, 8, 1)), t=[0.0], label=[0]) | changes
    dtypes = dict(x=tf.float32, t=tf.float32, label=tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        loaded.signatures["denoise"](**{name: tf.constant(given[name], dtype) for name, dtype in dtypes.items()})


def test_warm_up_has_every_signature_and_batch_size(exported, loaded):
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported / "assets.extra" / "tf_serving_warmup_requests"
    seen = set()
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        sent = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in sent.inputs.items()}
        loaded.signatures[sent.model_spec.signature_name](**inputs)  # none is refused
        seen.add((sent.model_spec.signature_name, len(inputs["label"])))
    assert seen == {(name, rows) for name in loaded.signatures for rows in (1, 8, 64)}


def test_what_it_is_lies_beside_it(exported):
    facts = json.loads((exported / "assets.extra" / "dit_tf.json").read_text())
    assert (facts["sampler"], facts["num_steps"], facts["batch_sizes"]) == ("ddim", 10, [1, 8, 64])
    assert len(facts["weights_sha256"]) == 64 and "cfg_scale" not in facts
