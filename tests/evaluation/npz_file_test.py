"""Streams of rows are what np.load gives; everything else is one sentence, and no more memory than a batch."""

import io
import pathlib
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy_format

from dit_tf.evaluation.npz_file import NpzFile, sha256_of
from dit_tf.evaluation.npz_images import NpzImages
from tests.damaged_bytes import damaged

REPOSITORY = pathlib.Path(__file__).parents[2]
SAVES = {"stored": np.savez, "deflated": np.savez_compressed}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "samples.npz")


@pytest.fixture
def images(rng):
    images = rng.integers(0, 256, (23, 6, 5, 3), np.uint8)
    images[3:9] = 7  # deflate finds something to do
    return images


def write(path, *entries, compression=zipfile.ZIP_STORED):
    """A zip file of (name, bytes)."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def npy(shape, dtype="|u1", content=b"", fortran_order=False, version=(1, 0)):
    """An .npy whose header says this, whatever its content is."""
    buffer = io.BytesIO()
    header = repr(dict(descr=dtype, fortran_order=fortran_order, shape=shape)).encode() + b"\n"
    buffer.write(npy_format.magic(*version) + len(header).to_bytes(2 if version == (1, 0) else 4, "little") + header)
    return buffer.getvalue() + content


def sentence_of(path, read=lambda path: list(NpzImages("--samples", path).batches(8))):
    with pytest.raises(ValueError) as caught:
        read(path)
    sentence = str(caught.value)
    assert type(caught.value) is ValueError and sentence.startswith(f"--samples={path}"), sentence
    assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < len(path) + 500
    return sentence.removeprefix(f"--samples={path}")


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
@pytest.mark.parametrize("size", [1, 7, 23, 100])
def test_batches_are_the_images_whatever_their_size(path, images, save, size):
    save(path, images, np.arange(23, dtype=np.int32))
    found = NpzImages("--samples", path)
    assert (found.count, found.shape) == (23, (6, 5, 3))
    for first in (0, 5, 23):
        batches = list(found.batches(size, first))
        assert [len(batch) for batch in batches[:-1]] == [size] * len(batches[:-1])
        assert all(batch.dtype == np.uint8 for batch in batches)
        np.testing.assert_array_equal(np.concatenate([images[:0], *batches]), images[first:])
    assert found.labels().dtype == np.int64
    np.testing.assert_array_equal(found.labels(), np.arange(23))


def test_images_need_no_labels_and_may_have_one_channel(path, images):
    np.savez(path, images[..., :1])
    found = NpzImages("--samples", path, channels=(1, 3))
    assert found.labels() is None and found.shape == (6, 5, 1)
    assert found.provenance() == dict(file=path, sha256=sha256_of(path), images=23, size=[6, 5, 1])
    np.testing.assert_array_equal(np.concatenate(list(found.batches(4))), images[..., :1])


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_npy_is_read(path, images, version):
    buffer = io.BytesIO()
    npy_format.write_array(buffer, images, version)
    write(path, ("arr_0.npy", buffer.getvalue()))
    np.testing.assert_array_equal(next(NpzImages("--samples", path).batches(100)), images)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_small_arrays_are_read_whole_in_either_byte_order(path, rng, dtype):
    array = rng.normal(size=(4, 3)).astype(dtype)
    np.savez(path, sigma=array)
    np.testing.assert_array_equal(NpzFile("--reference", path).read("sigma", (4, 3), "f"), array)


def test_a_large_entry_is_read_in_pieces(path, rng):
    images = rng.integers(0, 256, (3, 800, 700, 3), np.uint8)  # 1.7 MB each, more than one read
    np.savez_compressed(path, images)
    np.testing.assert_array_equal(np.concatenate(list(NpzImages("--samples", path).batches(2))), images)


def test_sha256_is_that_of_the_file(path):
    pathlib.Path(path).write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "array, what",
    [
        (np.zeros((2, 4, 4, 3), np.float32), "must be uint8 .* got float32 .*: multiply by 255, round, and save it"),
        (np.full((2, 4, 4, 3), -0.5), "it reaches from -1 to 1: add 1, multiply by 127.5, round"),
        (np.full((2, 4, 4, 3), 7.5), "got float64 .*: round and convert it"),
        (np.full((2, 4, 4, 3), np.nan), "must be uint8 .* got float64"),
        (np.zeros((2, 4, 4, 3), np.int8), "must be uint8 .* got int8"),
        (np.zeros((2, 4, 4, 1), np.uint8), r"must be uint8 \(N, H, W, 3\), got uint8 \(2, 4, 4, 1\)"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"got uint8 \(2, 4, 4, 4\)"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"got uint8 \(2, 3, 4, 4\)"),
        (np.zeros((2, 48), np.uint8), r"got uint8 \(2, 48\)"),
        (np.uint8(1), r"got uint8 \(\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one image"),
        (np.zeros((2, 0, 4, 3), np.uint8), "1 to 2048 pixels"),
        (np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8)), "Fortran order, C order is needed"),
        (np.array([{}, "a"], object), "Python objects"),
        (np.zeros(2, [("a", np.uint8), ("b", object)]), "Python objects"),
        (np.zeros(2, [("a", np.uint8, (4, 4, 3))]), "must be uint8"),
    ],
)
def test_arrays_that_are_no_images_are_refused(path, array, what):
    np.savez(path, array)
    with pytest.raises(ValueError, match=what):
        NpzImages("--samples", path)
    sentence_of(path)


@pytest.mark.parametrize(
    "labels, what",
    [
        (np.zeros(2), r"arr_1 must be integers of shape \(3,\), got float64 \(2,\)"),
        (np.zeros(4, np.int64), r"got int64 \(4,\)"),
        (np.zeros((3, 10), np.int64), r"got int64 \(3, 10\)"),
        (np.array(["a", "b", "c"], object), "Python objects"),
    ],
)
def test_labels_that_are_none_are_refused(path, labels, what):
    np.savez(path, np.zeros((3, 4, 4, 3), np.uint8), labels)
    with pytest.raises(ValueError, match=what):
        NpzImages("--samples", path).labels()


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b"[" * 2**15,
                                  b"{}" + b" " * 2**16, np.zeros(3), np.zeros((1, 2), np.uint8)])  # fmt: skip
def test_provenance_that_is_no_json_object_is_refused(path, images, told):
    np.savez(path, images, provenance=np.frombuffer(told, np.uint8) if isinstance(told, bytes) else told)
    said = sentence_of(path, lambda path: NpzImages("--samples", path).provenance())
    assert said.startswith(": its provenance must be uint8 (n,), the text of a JSON object of at most 65,536 bytes")


IMAGES = b"\0" * 96  # two of 4 x 4 x 3
WRONG_ENTRIES = {
    "no arr_0": ([("images.npy", npy((2, 4, 4, 3), content=IMAGES))], "has no array arr_0, it has 'images'"),
    "nothing": ([], "has no array arr_0, it has no arrays"),
    "too large": ([("arr_0.npy", npy((3, 4, 4, 3), content=IMAGES))], r"uint8 \(3, 4, 4, 3\) .* has 96 bytes"),
    "too small": ([("arr_0.npy", npy((1, 4, 4, 3), content=IMAGES))], "has 96 bytes"),
    "negative": ([("arr_0.npy", npy((-2, -4, 4, 3), content=IMAGES))], "is damaged"),
    "no numbers": ([("arr_0.npy", npy(("2", 4, 4, 3), content=IMAGES))], "shape is not valid"),
    "no magic": ([("arr_0.npy", b"PNG" * 20)], "magic"),
    "short": ([("arr_0.npy", b"\x93NUMPY\1")], "cannot be read as an .npz file"),
    "no header": ([("arr_0.npy", npy_format.magic(2, 0) + b"\xff\xff\xff\xff")], "cannot be read as an .npz file"),
    "no Python": ([("arr_0.npy", npy_format.magic(1, 0) + b"\x09\0__import_")], "cannot be read as an .npz file"),
    "nested": ([("arr_0.npy", npy_format.magic(1, 0) + b"\x00\x20" + b"(" * 2**13)], "cannot be read as an .npz file"),
    "version": ([("arr_0.npy", npy_format.magic(9, 0) + b"\0" * 99)], "cannot be read as an .npz file"),
    "subarray": ([("arr_0.npy", npy((2,), ("|u1", (4, 4, 3)), IMAGES))], "must be uint8"),
}


@pytest.mark.parametrize("entries, what", WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=SAVES)
def test_entries_that_are_not_what_they_say_are_refused(path, entries, what, compression):
    write(path, *entries, compression=compression)
    with pytest.raises(ValueError, match=what):
        NpzImages("--samples", path)
    sentence_of(path)


def test_files_that_are_no_npz_are_refused(path, tmp_path, images):
    assert "No such file" in sentence_of(path)
    assert "it is a directory" in sentence_of(str(tmp_path))
    pathlib.Path(path).write_bytes(npy((1,), content=b"\0"))
    assert "it is a single array: call it .npy" in sentence_of(path)
    pathlib.Path(path).write_bytes(b"<html>")
    assert "not a zip file" in sentence_of(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        write(path, *[("arr_0.npy", npy((2, 4, 4, 3), content=IMAGES))] * 2)
    assert "twice" in sentence_of(path)
    write(path, ("arr_0.npy", npy((2, 4, 4, 3), content=IMAGES)), compression=zipfile.ZIP_LZMA)
    assert "nor deflated" in sentence_of(path)
    np.savez(path, images)
    content = bytearray(pathlib.Path(path).read_bytes())
    for length in range(0, len(content), 60):
        pathlib.Path(path).write_bytes(content[:length])
        assert ("cut short" in sentence_of(path)) == (length >= 4)
    content[len(content) // 2] ^= 1
    pathlib.Path(path).write_bytes(content)
    assert "Bad CRC-32" in sentence_of(path)


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_damaged_files_are_refused_or_read_unchanged(path, images, save, rng):
    save(path, images, np.arange(23))
    content, refused = pathlib.Path(path).read_bytes(), 0

    def read(path):
        found = NpzImages("--samples", path)
        return np.concatenate(list(found.batches(8))), found.labels()

    read(path)  # what is imported and compiled once
    for k in range(150):
        pathlib.Path(path).write_bytes(damaged(content, k, rng))
        tracemalloc.start()
        try:
            found, labels = read(path)
        except ValueError:
            refused += 1
            sentence_of(path, read)
        else:
            np.testing.assert_array_equal(found, images)
            assert labels is None or np.array_equal(labels, np.arange(23))  # none where damage is to their name
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 4 * 2**20  # one read is a MiB at most, of a file of a few kB
    assert refused > 100


def bomb(path, shape, megabytes):
    """An entry that deflates a thousandfold: its header and its length agree, the images are not those of a camera."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as entry:
            entry.write(npy(shape))
            for _ in range(megabytes):
                entry.write(bytes(2**20))


def test_what_files_claim_is_not_allocated(tmp_path):
    """In a process that may take 256 MiB of addresses beyond what it has: what asks for more ends in a MemoryError."""
    bomb(tmp_path / "wide.npz", (1, 2**17, 2**10, 3), 384)
    bomb(tmp_path / "long.npz", (2**27, 1, 1, 3), 384)
    long_header = npy_format.magic(2, 0) + (2**32 - 1).to_bytes(4, "little") + b" " * 2**20
    write(tmp_path / "header.npz", ("arr_0.npy", long_header * 400), compression=zipfile.ZIP_DEFLATED)
    write(tmp_path / "shape.npz", ("arr_0.npy", npy((2**40, 2048, 2048, 3), content=b"\0" * 100)))
    whole = tmp_path / "directory.npz"
    np.savez(whole, np.zeros((2, 4, 4, 3), np.uint8))
    content = whole.read_bytes()
    end = content.rindex(b"PK\5\6")
    with whole.open("wb") as file:  # a hole of 4 GiB before a directory that claims to be all of it
        file.truncate(2**32 - 2)
        file.seek(2**32 - 2)
        file.write(content[end : end + 12] + (2**32 - 2).to_bytes(4, "little") + bytes(6))
    program = textwrap.dedent(f"""
        import pathlib, re, resource
        from dit_tf.evaluation.npz_images import NpzImages
        size = int(re.search(r"VmSize:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + 2**28, resource.RLIM_INFINITY))
        for name in ("wide", "header", "shape", "directory", "long"):
            try:
                images = NpzImages("--samples", f"{tmp_path}/{{name}}.npz")
                count = sum(len(batch) for batch in images.batches(2**20))
                print(name, count)
                images.labels()
            except ValueError as error:
                assert "MemoryError" not in repr(error.__cause__), error
                print(error)
        """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0].rstrip(":") for line in lines[:4]] == [
        f"--samples={tmp_path}/{name}.npz" for name in ("wide", "header", "shape", "directory")
    ]
    assert lines[4:] == [f"long {2**27}"]  # its images are there, a batch at a time
