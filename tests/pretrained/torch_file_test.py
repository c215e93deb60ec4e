"""Damaged files, and files of another kind: each is read, or refused in one sentence that names it and says why."""

import os
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from dit_tf.pretrained.torch_pickle import read_torch
from tests.pretrained import torch_files as by_hand
from tests.pretrained.torch_files import dictionary, plain, refusal, storage, tensor, whole

_MEBIBYTE = 2**20

ONE = tensor(storage("float32", "0", 6), 0, (6,), (1,))
ZEROS = np.zeros(6, np.float32)


@pytest.mark.parametrize("write, storages, options, detail", [
    (by_hand.write_zip, {"0": ZEROS}, dict(byteorder=b"big"), "its byte order is b'big'"),
    (by_hand.write_zip, {"1": ZEROS}, {}, "it has no storage 0"),
    (by_hand.write_zip, {"0": ZEROS[:5]}, {}, "its storage 0 has 20 bytes, 24 are needed"),
    (by_hand.write_zip, {"0": ZEROS}, dict(compression=zipfile.ZIP_DEFLATED), "is compressed or encrypted"),
    (by_hand.write_legacy, {"0": ZEROS}, dict(little_endian=False), "its byte order is big"),
    (by_hand.write_legacy, {}, {}, "it has no storage 0"),
    (by_hand.write_legacy, {"0": ZEROS[:5]}, {}, "its storage 0 has 5 elements, 6 are expected"),
    (by_hand.write_legacy, {"0": np.float16(ZEROS)}, {}, "its storage 0 is cut short"),
])  # fmt: skip
def test_layouts_that_do_not_fit(tmp_path, write, storages, options, detail):
    assert detail in refusal(write(tmp_path / "file.pt", ONE, storages, **options))


@pytest.mark.parametrize("place, old, new, detail", [
    (0, b"cuda:0", b"cuda:1", "does not have the checksum"),
    (0, b"archive/data/1", b"archive/data/0", "an entry twice"),
    (0, b"archive/data.pkl", b"archive/data.pck", "not one entry data.pkl"),
    (-30, b"PK\3\4", b"PK\3\5", "archive/data/0 is not where the directory says"),
    (-26, b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0", None),  # only the directory counts
])  # fmt: skip
def test_zip_files_that_contradict_themselves(tmp_path, place, old, new, detail):
    """place: 0 for everywhere, else before the name of the entry data/0 in its own header."""
    file = by_hand.write_zip(tmp_path / "file.pt", ONE, {"0": ZEROS, "1": ZEROS})
    content = file.read_bytes()
    start = content.index(b"archive/data/0") + place if place else 0
    assert old in content[start:] and (not place or content[start:].startswith(old))
    file.write_bytes(content[:start] + content[start:].replace(old, new, 1 if place else -1))
    if detail:
        assert detail in refusal(file)
    else:
        assert read_torch(file).shape == (6,)


@pytest.mark.parametrize("content, detail", [
    (b"", "empty file"),
    (b"version https://git-lfs.github.com/spec/v1\n", "it begins with b'version ', neither a zip file nor a pickle"),
    (b"PK\3\4" + bytes(100), "not a zip file"),
    (whole(plain({})), "PyTorch's magic number"),
    (b"\x80\2" + b"cnumpy\n" + b"x" * 20_000, "no newline"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path, content, detail):
    (tmp_path / "file.pt").write_bytes(content)
    assert detail in refusal(tmp_path / "file.pt")


def test_files_that_are_not_there_are_refused(tmp_path):
    assert refusal(tmp_path / "file.pt").endswith("PyTorch file: No such file or directory.")
    assert refusal(tmp_path).endswith("it is not a file.")
    os.mkfifo(tmp_path / "fifo")
    assert refusal(tmp_path / "fifo").endswith("it is not a file.")


def damaged(content, rng):
    """Bits turned over, an end cut off, a stretch of zeros, one that comes twice, or lengths that are too large."""
    content = bytearray(content)
    first, second = sorted(rng.integers(0, len(content), 2))
    stretch = slice(first, min(second, first + int(rng.integers(1, 64))))
    match rng.integers(5):
        case 0:
            for place in rng.integers(0, len(content), rng.integers(1, 9)):
                content[place] ^= 1 << rng.integers(8)
        case 1:
            del content[second:]
        case 2:
            content[stretch] = bytes(stretch.stop - stretch.start)
        case 3:
            content[second:second] = content[stretch]
        case 4:
            content[second : second + 8] = rng.choice([b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80" * 2])
    return bytes(content)


def arrays_of(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from arrays_of(item)
    elif isinstance(value, dict):
        yield from arrays_of(list(value.values()))


@pytest.mark.parametrize("write", [by_hand.write_zip, by_hand.write_legacy])
def test_damaged_files_are_read_or_refused(tmp_path, write):
    """The files have 1.5 kB, and a reader that takes no length field's word needs little for them. Damage to the bytes
    of arrays is not seen, as nothing there has a checksum that is looked at."""
    rng = np.random.default_rng(0)
    state = dictionary(
        a=tensor(storage("float32", "0", 24), 3, (3, 4), (6, 1)),
        b=tensor(storage("float32", "0", 24), 0, (6, 4), (1, 6)),
        c=tensor(storage("int64", "1", 5), 0, (5,), (1,)),
        d=tensor(storage("bfloat16", "2", 0), 0, (0, 2), (2, 1)),
        plain=plain({"lr": 1e-4, "betas": (0.9, 0.999), "params": list(range(20)), "name": "DiT" * 10}),
    )
    storages = {"0": np.arange(24, dtype=np.float32), "1": np.arange(5), "2": np.zeros(0, np.int16)}
    file = write(tmp_path / "file.pt", state, storages)
    content, read, sentences, start = file.read_bytes(), 0, set(), time.process_time()
    assert len(list(arrays_of(read_torch(file)))) == 4
    tracemalloc.start()
    for _ in range(400):
        file.write_bytes(damaged(content, rng))
        try:
            value = read_torch(file)
        except ValueError as error:
            sentences.add(str(error))
            continue
        read += 1
        for a in arrays_of(value):  # the corners, which reach as far as the array does
            if a.size:
                a[(0,) * a.ndim].tobytes(), a[(-1,) * a.ndim].tobytes()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(s.startswith(f"{file} ") and s.endswith(".") and s.isprintable() for s in sentences)
    assert read > 20 and len(sentences) > 15
    assert peak < 8 * _MEBIBYTE and time.process_time() - start < 20
