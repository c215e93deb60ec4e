"""Claims of the file of the Inception network: another one, or a damaged one, is one sentence, and nothing is run."""

import lzma
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.evaluation.inception import InceptionFeatures, load_inception

_FILE = pathlib.Path(__file__).parents[1] / "goldens" / "adm" / "classify_image_graph_def.pb.xz"


@pytest.fixture(scope="module")
def content():
    return lzma.decompress(_FILE.read_bytes())


def test_a_missing_file_says_what_to_fetch(tmp_path):
    with pytest.raises(ValueError) as caught:
        load_inception(tmp_path / "absent.pb")
    sentence = str(caught.value)
    assert sentence.startswith(f"--inception={tmp_path / 'absent.pb'} is no file: fetch https://openaipublic.blob.")
    assert sentence.endswith(".") and "inception-2015-12-05.tgz" in sentence and "\n" not in sentence


def changed(content, name, change):
    graph = tf.compat.v1.GraphDef.FromString(content)
    (node,) = (node for node in graph.node if node.name == name)
    change(node)
    return graph.SerializeToString()


def set_input(node, name):
    node.input[0] = name


def set_values(node, array):
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))


@pytest.mark.parametrize(
    "name, change, said",
    [
        ("pool_3", lambda node: setattr(node, "name", "pool_4"), "it has no node 'pool_3'"),
        ("mixed_6/conv", lambda node: setattr(node, "op", "Elu"), "node mixed_6/conv has the operation 'Elu'"),
        (
            "ResizeBilinear/size",
            lambda node: set_values(node, np.int32([331, 299])),
            "node mixed_6/conv has the shape",
        ),
        ("pool_3", lambda node: set_input(node, "mixed_9/conv"), "node pool_3 has the shape (1, 1, "),
        ("mixed_6/conv", lambda node: set_input(node, "mixed_10/join"), "node mixed_10/join is its own input"),
        ("pool_3", lambda node: node.attr["ksize"].list.i.__setitem__(1, 7), "node pool_3 has the shape (2, 1, 2048)"),
        ("ResizeBilinear", lambda node: set_input(node, "Cast"), "node Cast has the operation 'Cast'"),
        (
            "softmax/weights",
            lambda node: set_values(node, np.ones((8, 4), np.float32)),
            "node softmax/logits/MatMul has no constant of 2048 rows",
        ),
        ("softmax/logits/MatMul", lambda node: node.input.pop(), "node softmax/logits/MatMul is no product"),
    ],
)
def test_another_graph_is_refused_by_its_node(content, tmp_path, name, change, said):
    (tmp_path / "graph.pb").write_bytes(changed(content, name, change))
    with pytest.raises(ValueError) as caught:
        load_inception(tmp_path / "graph.pb")
    wanted = f"--inception={tmp_path / 'graph.pb'} is not classify_image_graph_def.pb of 2015-12-05, or damaged ({said}"
    assert str(caught.value).startswith(wanted)


@pytest.fixture
def inert(monkeypatch):
    """Nothing that runs a graph is there, and no variables are made, which take longer than all the rest."""

    def refuse(*_, **__):
        raise AssertionError("the graph was imported")

    for name in ("tf.import_graph_def", "tf.graph_util.import_graph_def", "tf.compat.v1.import_graph_def"):
        monkeypatch.setattr(eval(name.rpartition(".")[0]), name.rpartition(".")[2], refuse)
    monkeypatch.setattr(InceptionFeatures, "_hold", lambda self, name, arrays: list(arrays))


def mutations(content):
    """60 files: 15 cut short, 30 with another byte at the beginning of some node, 15 with a byte more or less there."""
    rng = np.random.default_rng(0)
    names = [node.name for node in tf.compat.v1.GraphDef.FromString(content).node]
    for i in range(60):
        if i < 15:
            yield content[: rng.integers(len(content))]
            continue
        at = content.index(rng.choice(names).encode()) + int(rng.integers(-6, 60))
        replaced, byte = int(rng.integers(0, 2)) if i >= 45 else 1, bytes([rng.integers(256)])
        yield content[:at] + (byte if replaced or i % 2 else b"") + content[at + replaced :]


def test_a_damaged_file_is_one_sentence(content, tmp_path, inert):
    path, refused = tmp_path / "graph.pb", 0
    for damaged in mutations(content):
        path.write_bytes(damaged)
        try:
            load_inception(path)  # where a name that leads nowhere, or a number was changed
        except ValueError as error:
            sentence, refused = str(error), refused + 1
            assert sentence.startswith(
                f"--inception={path} is not classify_image_graph_def.pb of 2015-12-05, or damaged ("
            )
            assert sentence.isprintable() and len(sentence) < 700 and sentence.endswith(" anew.")
    assert 30 < refused < 60
