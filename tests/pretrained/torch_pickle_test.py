"""PyTorch's files: both layouts as written by hand and by PyTorch, round trips, and views in place of copies."""

import collections
import os
import pathlib
import pickle
import struct
import tracemalloc
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from dit_tf.pretrained.torch_pickle import read_torch, write_torch
from tests.pretrained import torch_files as by_hand

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "dit"
_MEBIBYTE = 2**20

LAYOUTS = pytest.mark.parametrize("write", [by_hand.write_zip, by_hand.write_legacy])
DTYPES = pytest.mark.parametrize("dtype", list(by_hand.KINDS))


def same(actual, expected):
    """Type, shape and every bit, NaNs included."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def numbers(dtype):
    """Seven elements of random bits: NaNs, infinities and denormal numbers may be among them."""
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    content = np.random.default_rng(3).integers(0, 2 if dtype.kind == "b" else 256, 7 * dtype.itemsize, np.uint8)
    return content.view(dtype)


@LAYOUTS
@DTYPES
def test_a_tensor_of_each_dtype(tmp_path, write, dtype):
    stored = by_hand.storage(dtype, "4", 7)
    file = write(tmp_path / "file.pt", by_hand.tensor(stored, 1, (2, 3), (3, 1)), {"4": numbers(dtype)})
    same(read_torch(file), numbers(dtype)[1:].reshape(2, 3))


@LAYOUTS
@pytest.mark.parametrize(
    "offset, shape, strides, expected",
    [
        (0, (4, 6), (6, 1), lambda a: a),
        (0, (6, 4), (1, 6), lambda a: a.T),
        (12, (6,), (1,), lambda a: a[2]),
        (7, (3, 2), (6, 3), lambda a: a[1:, 1::3]),
        (23, (), (), lambda a: a[3, 5]),
        (4, (2, 3), (0, 1), lambda a: np.broadcast_to(a.reshape(-1)[4:7], (2, 3))),
        (24, (0, 5), (5, 1), lambda a: np.zeros((0, 5), np.float32)),
        (0, (3, 0), (2**40, 1), lambda a: np.zeros((3, 0), np.float32)),
    ],
)
def test_views_of_a_storage(tmp_path, write, offset, shape, strides, expected):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    stored = by_hand.storage("float32", "0", 24)
    file = write(tmp_path / "file.pt", by_hand.tensor(stored, offset, shape, strides), {"0": base})
    same(read_torch(file), np.asarray(expected(base)))


@LAYOUTS
def test_tensors_share_a_storage_and_have_their_own(tmp_path, write):
    a, b = np.arange(6, dtype=np.float32), np.arange(5, dtype=np.int64)
    parts = {"head": ("float32", "a", 6, 0, 2), "b": ("int64", "b", 5, 0, 5), "tail": ("float32", "a", 6, 1, 5)}
    tensors = {
        name: by_hand.tensor(by_hand.storage(dtype, key, numel), offset, (size,), (1,))
        for name, (dtype, key, numel, offset, size) in parts.items()
    }
    state = read_torch(write(tmp_path / "file.pt", by_hand.dictionary(**tensors), {"b": b, "a": a}))
    assert list(state) == ["head", "b", "tail"]
    assert np.shares_memory(state["head"], state["tail"]) and not np.shares_memory(state["head"], state["b"])
    for name, expected in {"head": a[:2], "b": b, "tail": a[1:]}.items():
        same(state[name], expected)


@LAYOUTS
def test_a_part_of_a_storage_starts_where_it_says(tmp_path, write):
    """Files of the years before the zip layout name a part: (its own key, first element, elements)."""
    part = by_hand.sequence(by_hand.plain("view"), by_hand.plain(2), by_hand.plain(3))
    stored = by_hand.storage("float32", "0", 6, part)
    base = np.arange(6, dtype=np.float32)
    file = write(tmp_path / "file.pt", by_hand.tensor(stored, 1, (2,), (1,)), {"0": base})
    same(read_torch(file), base[3:5])
    file = write(tmp_path / "file.pt", stored, {"0": base})
    same(read_torch(file), base[2:5])
    file = write(tmp_path / "file.pt", by_hand.tensor(stored, 1, (3,), (1,)), {"0": base})
    with pytest.raises(ValueError, match="a tensor leaves its storage 0"):
        read_torch(file)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_protocol(tmp_path, protocol):
    value = {"a": [1, -1, 255, 2**40, -(2**70), True, None], 3: (1.5, "ü", ()), None: {"s": {1, "x"}, "e": []}}
    if protocol > 2:
        value |= {b"b": b"\0\xff" * 200}
    if protocol > 3:
        value |= {"f": frozenset({2})}
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(value, protocol))
    found = read_torch(tmp_path / "file.pt")
    assert found == value and repr(found) == repr(value)


def test_numpy_scalars_namespaces_and_the_class_of_compvis_checkpoints(tmp_path):
    dtype = by_hand.call(by_hand.name("numpy", "dtype"), *map(by_hand.plain, ("f8", False, True)))
    dtype += by_hand.plain((3, "<", None, None, None, -1, -1, 0)) + b"b"
    one = map(by_hand.plain, ("\0" * 6 + "\xf0?", "latin1"))
    content = by_hand.call(by_hand.name("_codecs", "encode"), *one)
    score = by_hand.call(by_hand.name("numpy.core.multiarray", "scalar"), dtype, content)
    callback = "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"
    state = by_hand.dictionary(
        callbacks=b"}" + by_hand.name(*callback) + by_hand.dictionary(best_model_score=score) + b"s",
        args=by_hand.name("argparse", "Namespace") + b")\x81" + by_hand.plain({"epochs": 3}) + b"b",
        weight=by_hand.call(by_hand.name("torch._utils", "_rebuild_parameter"),
                            by_hand.tensor(by_hand.storage("float32", "0", 1)), b"\x88", by_hand.ordered_dict()),
        module=by_hand.ordered_dict() + by_hand.plain({"_metadata": {"": {"version": 1}}}) + b"b",
    )  # fmt: skip
    found = read_torch(by_hand.write_zip(tmp_path / "file.ckpt", state, {"0": np.float32([7])}))
    assert found["callbacks"] == {".".join(callback): {"best_model_score": 1.0}}
    assert found["args"] == types.SimpleNamespace(epochs=3)
    assert type(found["module"]) is collections.OrderedDict and not found["module"] and not vars(found["module"])
    same(found["weight"], np.float32(7))


@DTYPES
def test_what_is_written_is_read_back(tmp_path, dtype):
    a = numbers(dtype)
    state = {
        "vector": a,
        "nested": {"matrix": a[:6].reshape(2, 3), 7: {"transposed": a[:6].reshape(2, 3).T}},
        "backwards": a[::-2],
        "repeated": np.broadcast_to(a[1], (2, 2)),
        "number": a[3:4].reshape(()),
        "empty": a[:0].reshape(0, 5),
    }
    write_torch(tmp_path / "new" / "file.pt", state)
    found = read_torch(tmp_path / "new" / "file.pt")
    assert list(found) == list(state) and list(found["nested"]) == ["matrix", 7]
    for key in ("vector", "backwards", "repeated", "number", "empty"):
        same(found[key], state[key])
    same(found["nested"]["matrix"], state["nested"]["matrix"])
    same(found["nested"][7]["transposed"], state["nested"][7]["transposed"])


def test_plain_values_are_read_back(tmp_path):
    state = {"a": [1, -1, 255, -(2**63), 2**64, 1.5, True, False, None], "b": ("ü", b"\0\xff", (), [], {})}
    write_torch(tmp_path / "file.pt", state)
    found = read_torch(tmp_path / "file.pt")
    assert found == state and repr(found) == repr(state)


def data_offsets(path):
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            header = path.read_bytes()[info.header_offset : info.header_offset + 30]
            yield info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))


@pytest.mark.parametrize("limit", [None, 100])  # an entry of 95 bytes then counts as one of 2 GiB
def test_written_data_are_aligned_and_depend_on_values_alone(tmp_path, monkeypatch, limit):
    if limit:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    state = {f"a{i}": np.arange(i * i, dtype=np.float32) for i in range(9)}
    write_torch(tmp_path / "one.pt", state)
    write_torch(tmp_path / "another.pt", {key: a.copy() for key, a in state.items()})
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()
    assert {offset % 64 for offset in data_offsets(tmp_path / "one.pt")} == {0}
    with zipfile.ZipFile(tmp_path / "one.pt") as archive:
        assert archive.testzip() is None and archive.read("archive/version") == b"3\n"
    for key, a in read_torch(tmp_path / "one.pt").items():
        same(a, state[key])


@pytest.mark.parametrize("value, detail", [
    (np.zeros(2, np.complex64), "outer/inner is a ndarray of complex64"),
    (np.zeros(2, ">f4"), "outer/inner is a ndarray of >f4"),
    (np.float32(1), "outer/inner is a float32"),
    (object(), "outer/inner is a object"),
    ({"x": {1.5: 0}}, "outer/inner/x has the key 1.5"),
])  # fmt: skip
def test_what_has_no_place_in_a_file_is_refused_and_the_old_file_stays(tmp_path, monkeypatch, value, detail):
    write_torch(tmp_path / "file.pt", {"old": np.zeros(3)})
    with pytest.raises(ValueError, match=detail):
        write_torch(tmp_path / "file.pt", {"outer": {"inner": value}})

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_torch(tmp_path / "file.pt", {"new": np.zeros(3)})
    assert list(read_torch(tmp_path / "file.pt")) == ["old"] and os.listdir(tmp_path) == ["file.pt"]


def test_a_state_that_holds_itself_is_refused(tmp_path):
    state = {}
    state["self"] = state
    with pytest.raises(ValueError, match="holds itself"):
        write_torch(tmp_path / "file.pt", state)


def peak_of(function):
    """-> (result, bytes that were allocated beyond those before)."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_large_arrays_are_neither_copied_when_written_nor_when_read(tmp_path):
    state = {"a": np.ones((8, _MEBIBYTE), np.float32), "b": np.ones((8, _MEBIBYTE), np.float32)}
    _, peak = peak_of(lambda: write_torch(tmp_path / "file.pt", state))
    assert peak < 2 * _MEBIBYTE
    found, peak = peak_of(lambda: read_torch(tmp_path / "file.pt"))
    assert os.path.getsize(tmp_path / "file.pt") > 64 * _MEBIBYTE and peak < 2 * _MEBIBYTE
    assert found["a"].flags.aligned and not found["a"].flags.writeable and found["b"][7, -1] == 1


@LAYOUTS
def test_large_views_are_not_copied_when_read(tmp_path, write):
    stored = by_hand.storage("float32", "0", 16 * _MEBIBYTE)
    instructions = by_hand.tensor(stored, 0, (_MEBIBYTE, 8), (2, 2 * _MEBIBYTE))
    base = np.zeros((8, 2 * _MEBIBYTE), np.float32)
    base[7, -2] = 3
    file = write(tmp_path / "file.pt", instructions, {"0": base})
    found, peak = peak_of(lambda: read_torch(file))
    assert peak < 2 * _MEBIBYTE and found[-1, -1] == 3 and found[-1, -2] == 0


@pytest.fixture(params=["few_weights.pt", "few_weights_legacy.pt"])
def recorded(request):
    """What PyTorch wrote: parts of tiny_train_ckpt.pt, and values made as tests/goldens/README.md says."""
    return read_torch(_GOLDENS / request.param)


def test_a_training_checkpoint_that_pytorch_wrote(recorded):
    with np.load(_GOLDENS / "tiny_train_ckpt.npz") as arrays:
        for part in ("model", "ema"):
            assert type(recorded[part]) is collections.OrderedDict and len(recorded[part]) == 5
            for name, a in recorded[part].items():
                same(a, arrays[f"{part}/{name}"])
    assert recorded["args"].image_size == 64 and recorded["args"].vae == "ema"
    (group,) = recorded["opt"]["param_groups"]
    assert group["lr"] == 1e-4 and group["betas"] == (0.9, 0.999) and group["params"] == list(range(32))
    (state,) = recorded["opt"]["state"].values()
    same(state["step"], np.float32(2))
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape and (state["exp_avg_sq"] >= 0).all()


def test_views_and_dtypes_that_pytorch_wrote(recorded):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = dict(
        base=base, row=base[2], transposed=base.T, corner=base[1:, ::2], apart=base.T[1::3, 2:], parameter=base[:, 1],
        repeated=np.float32([[1, 2]] * 3), scalar=np.float32(3.5), empty=np.zeros((0, 5), np.float32),
    )  # fmt: skip
    assert recorded["views"].keys() == expected.keys() and recorded["dtypes"].keys() == by_hand.KINDS.keys()
    for name, a in expected.items():
        same(recorded["views"][name], np.asarray(a))
    assert np.shares_memory(recorded["views"]["base"], recorded["views"]["parameter"])
    for name, a in recorded["dtypes"].items():
        same(a, np.arange(-3, 4).astype(ml_dtypes.bfloat16 if name == "bfloat16" else name))


def test_plain_values_that_pytorch_wrote(recorded):
    expected = dict(none=None, bytes=b"\0\xff", set={1, 2}, tuple=(1, (2.5, True)), size=(2, 3), big=2**70)
    assert recorded["plain"] == {**expected, "dtype": np.dtype(np.float16), "device": "cpu"}
