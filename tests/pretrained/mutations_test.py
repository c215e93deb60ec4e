"""Two hundred damaged files of every kind, through the functions by which the command reads them: each is refused in
one sentence that names it, or read, where the damage is to numbers alone. Nothing is run, memory stays bounded.

The readers' own tests damage files as those layouts know them; here a file is a string of bytes.
"""

import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from safetensors.numpy import save_file

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.data.class_names import numbered
from dit_tf.pretrained.dit_map import to_official, to_ours
from dit_tf.pretrained.torch_pickle import write_torch
from dit_tf.pretrained.weight_files import read_weight_file
from dit_tf.runtime import model_file
from tests.damaged_bytes import damaged
from tests.pretrained import torch_files as by_hand

CONFIG = RunConfig(model="DiT-8x1x2/2", image_size=4, num_classes=3)
EACH = 50  # files of each of the four kinds


@pytest.fixture(scope="module")
def model():
    model = build.make_model(CONFIG)
    for v in model.trainable_variables:
        v.assign(np.random.default_rng(0).standard_normal(v.shape))
    return model


@pytest.fixture(scope="module")
def state(model):
    weights = {v.path.split("/", 1)[1]: v.numpy() for v in model.trainable_variables}
    return dict(to_official(weights, model.patch_embedder.position_table, 2))


def write_zip(path, model, state):
    write_torch(path, {"model": state, "ema": state, "opt": {"lr": 1e-4}})


def write_legacy(path, model, state):
    parts = {}
    for k, (name, a) in enumerate(state.items()):
        strides = tuple(int(np.prod(a.shape[i + 1 :])) for i in range(a.ndim))
        parts[name] = by_hand.tensor(by_hand.storage("float32", str(k), a.size), 0, a.shape, strides)
    by_hand.write_legacy(path, by_hand.dictionary(**parts), {str(k): a for k, a in enumerate(state.values())})


def write_safetensors(path, model, state):
    save_file(state, path)


def write_keras(path, model, state):
    model_file.save(path, model, build.model_texts(CONFIG, numbered(3), {"source": "a test"}))


def read_public(path):
    return dict(to_ours(read_weight_file(path, "dit").state))


def read_ours(path):
    build.load_classes(path)
    return {v.path.split("/", 1)[1]: v.numpy() for v in build.load_model(path).trainable_variables}


KINDS = {
    "weights.pt": (write_zip, read_public),
    "legacy.pt": (write_legacy, read_public),
    "weights.safetensors": (write_safetensors, read_public),
    "model.keras": (write_keras, read_ours),
}


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read(tmp_path, model, state, name):
    write, read = KINDS[name]
    path = tmp_path / name
    write(path, model, state)
    content, whole, rng = path.read_bytes(), read(str(path)), np.random.default_rng(len(name))
    refused = 0
    for k in range(EACH):
        path.write_bytes(damaged(content, k, rng))
        try:
            found = read(str(path))
        except ValueError as error:
            sentence = str(error)
            assert type(error) is ValueError and str(path) in sentence, sentence
            assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < len(str(path)) + 3000
            refused += 1
            continue
        # What is read has every weight in its shape; of our own files, with their checksums, unchanged.
        assert {p: a.shape for p, a in found.items()} == {p: a.shape for p, a in whole.items()}
        if name == "model.keras":
            assert all(np.array_equal(a, whole[p]) for p, a in found.items())
    # A fifth is cut off and a fifth lacks some bytes; of the others some hit numbers, which have no checksum elsewhere.
    assert refused >= EACH * (3 if name == "model.keras" else 2) // 5 - 1
    path.write_bytes(content)
    assert all(np.array_equal(a, whole[p]) for p, a in read(str(path)).items())


SPARSE = 2**38  # bytes that files claim to have, or have as a hole


def claims(tmp_path):
    """Files whose lengths speak of far more than there is."""
    files = {
        "header.safetensors": (SPARSE).to_bytes(8, "little") + b"{}",
        "tensor.safetensors": b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (SPARSE // 4, SPARSE),
        "string.pt": by_hand.legacy_pickles(b"")[0] + b"\x80\2X" + (2**32 - 1).to_bytes(4, "little"),
        "memo.pt": by_hand.legacy_pickles(b"")[0] + b"\x80\2Nr\xff\xff\xff\xff.",
    }
    files["tensor.safetensors"] = len(files["tensor.safetensors"]).to_bytes(8, "little") + files["tensor.safetensors"]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    huge = by_hand.tensor(by_hand.storage("float32", "0", SPARSE), 0, (SPARSE,), (1,))
    by_hand.write_zip(tmp_path / "storage.pt", by_hand.dictionary(weight=huge), {"0": np.zeros(4, np.float32)})
    return [*files, "storage.pt"]


def test_what_files_claim_is_not_allocated(tmp_path):
    """In a process that may take 2 GiB of addresses beyond what it has: what asks for more fails with MemoryError."""
    names = claims(tmp_path)
    program = textwrap.dedent(f"""
        import pathlib, re, resource
        from dit_tf.pretrained.weight_files import read_weight_file
        size = int(re.search(r"VmSize:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**31, resource.RLIM_INFINITY))
        for name in {names!r}:
            try:
                read_weight_file("{tmp_path}/" + name)
            except ValueError as error:
                assert "MemoryError" not in repr(error.__cause__), error
                print(error)
        """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=_REPOSITORY)
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    assert [sentence.split()[0].rstrip(":") for sentence in sentences] == [f"{tmp_path}/{name}" for name in names]


_REPOSITORY = pathlib.Path(__file__).parents[2]


def test_a_model_file_that_asks_for_another_class_gives_the_one_of_its_configuration(tmp_path, model, state):
    """The texts are checked against the weights: numbers for a larger model are not there."""
    path = tmp_path / "model.keras"
    larger = CONFIG.to_json().replace("DiT-8x1x2/2", "DiT-8x2x2/2")
    model_file.save(path, model, build.model_texts(CONFIG, numbered(3)) | {"run.json": larger})
    with pytest.raises(ValueError, match=f"{path} cannot be read as a model of dit_tf: .* the model has"):
        build.load_model(str(path))
