"""safetensors: what is written comes back, shard by shard and lazily; what is damaged is one sentence."""

import json
import pathlib
import random
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from dit_tf.pretrained.safetensors_file import SafetensorsFile

_GOLDEN = pathlib.Path(__file__).parents[1] / "goldens/hf_dit/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        "a": rng.standard_normal((3, 4), np.float32),
        "b": rng.standard_normal(5).astype(np.float16),
        "c": rng.standard_normal((2, 3)).astype(ml_dtypes.bfloat16),
        "d": rng.standard_normal((2, 0, 3)),
        "e": np.arange(6).reshape(1, 2, 3),
        "f": np.array(True),
    }


def _assert_equal(file, arrays):
    assert set(file) == set(arrays) and len(file) == len(arrays)
    for name, a in arrays.items():
        assert name in file and file[name].dtype == a.dtype and file[name].shape == a.shape
        assert file[name].tobytes() == a.tobytes()


@pytest.fixture
def sharded(tmp_path, arrays):
    """Two shards and their index; the path of the index."""
    names = sorted(arrays)
    weight_map = {}
    for k, part in enumerate((names[:2], names[2:])):
        file = f"model-{k + 1:05}-of-00002.safetensors"
        save_file({name: arrays[name] for name in part}, tmp_path / file)
        weight_map.update(dict.fromkeys(part, file))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


# Round trips


@pytest.mark.parametrize("whole", [True, False])
def test_one_file_by_name_or_by_directory(tmp_path, arrays, whole):
    file = tmp_path / "model.safetensors"
    save_file(arrays, file, metadata={"format": "np"})
    (tmp_path / "config.json").write_text("{}")
    _assert_equal(SafetensorsFile(str(file) if whole else tmp_path), arrays)


@pytest.mark.parametrize("whole", [True, False])
def test_shards_by_index_or_by_directory(sharded, arrays, whole):
    file = SafetensorsFile(sharded if whole else sharded.parent)
    _assert_equal(file, arrays)
    assert file.path == sharded


def test_arrays_are_read_when_they_are_asked_for(tmp_path):
    """Opening a file of 1 TB that is almost all hole takes no memory, and one array of it can be read."""
    size = 2**40
    header = json.dumps({
        "small": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "large": {"dtype": "U8", "shape": [size], "data_offsets": [8, 8 + size]},
    }).encode()  # fmt: skip
    file = tmp_path / "sparse.safetensors"
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header + np.array([1.5, -2], np.float32).tobytes())
        try:
            stream.truncate(8 + len(header) + 8 + size)
        except OSError:
            pytest.skip("this file system has no files of 1 TB")
    np.testing.assert_array_equal(SafetensorsFile(file)["small"], [1.5, -2])


# What is refused


def _refusal(path):
    """The sentence with which a file is refused, or None where all its arrays can be read."""
    try:
        file = SafetensorsFile(path)
        for name in file:
            assert file[name].nbytes >= 0
    except ValueError as error:
        sentence = str(error)
        assert sentence.isprintable() and sentence.endswith(".") and str(path.name) in sentence
        return sentence


_CONTENT = _GOLDEN.read_bytes()
_HEADER = int.from_bytes(_CONTENT[:8], "little")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 8 + _HEADER - 1, 8 + _HEADER, 10_000, len(_CONTENT) - 1])
def test_a_truncated_file_is_refused(tmp_path, size):
    file = tmp_path / "cut.safetensors"
    file.write_bytes(_CONTENT[:size])
    assert _refusal(file)


def test_a_file_that_grew_is_refused(tmp_path):
    file = tmp_path / "long.safetensors"
    file.write_bytes(_CONTENT + b"\0")
    assert _refusal(file)


@pytest.mark.parametrize("length", [0, 1, _HEADER - 1, len(_CONTENT) - 7, 10**8, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_wrong_header_length_is_refused(tmp_path, length):
    file = tmp_path / "header.safetensors"
    file.write_bytes(struct.pack("<Q", length) + _CONTENT[8:])
    assert ("announces a header" in _refusal(file)) == (length < 2 or length > len(_CONTENT) - 8)


def test_damaged_headers_are_refused_or_read(tmp_path):
    """Bytes replaced, removed and inserted: 120 files, never another exception; most are refused."""
    rng = random.Random(0)
    file = tmp_path / "damaged.safetensors"
    refused = 0
    for k in range(120):
        content = bytearray(_CONTENT[:8])
        header = bytearray(_CONTENT[8 : 8 + _HEADER])
        at = rng.randrange(_HEADER)
        if k % 3 == 0:
            header[at] = rng.randrange(256)
        elif k % 3 == 1:
            header[at] = ord(rng.choice('0123456789{}[]",:-eE'))
        else:
            header[at : at + 8] = bytes(rng.randrange(256) for _ in range(rng.randrange(16)))
        file.write_bytes(content + header + _CONTENT[8 + _HEADER :])
        refused += _refusal(file) is not None
    assert 60 < refused < 120


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
    {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**63]},
    {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]},
    {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]},
    {"dtype": "F32", "shape": [2]},
    [],
    None,
])  # fmt: skip
def test_impossible_entries_are_refused(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    file = tmp_path / "entry.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert _refusal(file)


@pytest.mark.parametrize("index", [
    b"", b"{", b"[]", b"{}", b'{"weight_map": 1}', b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}', b"\xff\xfe",
    b"[" * 10**5,
])  # fmt: skip
def test_a_damaged_index_is_refused(sharded, index):
    sharded.write_bytes(index)
    assert _refusal(sharded)


@pytest.mark.parametrize("file", [
    "../model-00001-of-00002.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "..\\model.safetensors",
    "C:model.safetensors", "..", "", "model.bin", "model\0.safetensors", "model\ud800.safetensors",
])  # fmt: skip
def test_an_index_cannot_name_files_elsewhere(sharded, file):
    index = json.loads(sharded.read_text())
    index["weight_map"]["a"] = file
    sharded.write_text(json.dumps(index))
    assert "'a' must lie in a .safetensors file beside the index" in _refusal(sharded)


def test_a_missing_shard_is_named(sharded):
    gone = sharded.parent / "model-00002-of-00002.safetensors"
    gone.unlink()
    with pytest.raises(ValueError, match=f"{gone.name} .*no such file"):
        SafetensorsFile(sharded)


def test_arrays_that_the_index_and_a_shard_disagree_on_are_named(sharded):
    index = json.loads(sharded.read_text())
    index["weight_map"]["z"] = index["weight_map"]["a"]
    del index["weight_map"]["b"]
    sharded.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"00001-of-00002.safetensors .*lacks \['z'\], has beyond it \['b'\]"):
        SafetensorsFile(sharded)


def test_a_directory_must_hold_one_set(tmp_path, arrays):
    with pytest.raises(ValueError, match="no .safetensors file"):
        SafetensorsFile(tmp_path)
    for name in ("model.safetensors", "model.fp16.safetensors"):
        save_file(arrays, tmp_path / name)
    with pytest.raises(ValueError, match="several, name one of model.fp16.safetensors, model.safetensors"):
        SafetensorsFile(tmp_path)


def test_what_is_not_there_or_no_file_is_refused(tmp_path):
    assert "no such file" in _refusal(tmp_path / "none.safetensors")
    assert "no such file" in _refusal(tmp_path / "none.safetensors.index.json")
    (tmp_path / "folder.safetensors").mkdir()
    assert "holds no .safetensors file" in _refusal(tmp_path / "folder.safetensors")
