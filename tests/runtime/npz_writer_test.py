"""Files are np.savez's byte for byte, whatever the batches were and wherever a run was killed in between."""

import os
import pathlib
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest

from dit_tf.runtime.npz_writer import PartialArray, Rows, write_arrays

REPOSITORY = pathlib.Path(__file__).parents[2]
KEY = {"model": "a", "seed": 1}


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (11, 6, 5, 3), np.uint8)


@pytest.fixture
def labels(rng):
    return rng.integers(0, 10, 11)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "samples.npz")


def split(array, size):
    return [array[first : first + size] for first in range(0, len(array), size)]


def savez(tmp_path, *arrays, **named):
    np.savez(tmp_path / "theirs.npz", *arrays, **named)
    return (tmp_path / "theirs.npz").read_bytes()


def names(path):
    return sorted(file.name for file in pathlib.Path(path).parent.iterdir())


@pytest.mark.parametrize("size", [1, 4, 11, 50])
def test_written_in_batches_the_file_is_that_of_savez(tmp_path, path, images, labels, size):
    write_arrays(path, {"arr_0": Rows(images.shape, np.uint8, iter(split(images, size))), "arr_1": labels})
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, images, labels)


def test_arrays_have_the_names_dtypes_and_order_that_they_were_given(tmp_path, path, rng):
    arrays = dict(
        arr_0=np.zeros((0, 2), np.uint8), mu=rng.normal(size=5).astype(np.float32), sigma=rng.normal(size=(5, 5))
    )
    arrays["turned"] = rng.normal(size=(3, 4)).T
    write_arrays(str(tmp_path / "new" / "folder" / "file.npz"), arrays)
    with np.load(tmp_path / "new" / "folder" / "file.npz", allow_pickle=False) as found:
        assert found.files == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_what_a_killed_run_left_is_overwritten(tmp_path, path, images):
    pathlib.Path(f"{path}.unfinished").write_bytes(b"more than will be written" * 100)
    write_arrays(path, {"arr_0": images})
    assert names(path) == ["samples.npz"]
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, images)


@pytest.mark.parametrize(
    "batches, what",
    [
        (lambda images: [images[:9]], r"arr_0 was announced as uint8 \(11, 6, 5, 3\), got 9 rows\."),
        (lambda images: [images, images], "got 22 rows or more"),
        (lambda images: [images[:, :5]], r"got rows of uint8 \(11, 5, 5, 3\)"),
        (lambda images: [images.astype(np.float32)], "got rows of float32"),
    ],
)
def test_what_was_announced_must_come_and_nothing_is_left_where_it_does_not(path, images, batches, what):
    with pytest.raises(ValueError, match=what):
        write_arrays(path, {"arr_0": Rows(images.shape, np.uint8, batches(images))})
    assert not names(path)


@pytest.mark.parametrize("size", [1, 4, 11])
def test_an_unbroken_run_gives_the_file_of_savez_and_nothing_else(tmp_path, path, images, labels, size):
    array = PartialArray(path, KEY, images.shape)
    for rows in split(images, size):
        array.append(rows)
        assert names(path) == ["samples.npz.partial", "samples.npz.partial.of"]  # nothing that looks finished
    array.finish(labels)
    assert names(path) == ["samples.npz"]
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, images, labels)


def test_arrays_with_names_come_behind_those_without(tmp_path, path, images, labels, rng):
    named = dict(mu=rng.normal(size=5), provenance=np.frombuffer(b"{}", np.uint8))
    array = PartialArray(path, KEY, images.shape)
    array.append(images)
    array.finish(labels, **named)
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, **dict(arr_0=images, arr_1=labels) | named)


def test_rows_that_are_there_can_be_read_and_have_their_notes(path, rng):
    features = rng.normal(size=(7, 3)).astype(np.float32)
    array = PartialArray(path, KEY, features.shape, np.float32)
    assert array.finished().shape == (0, 3)
    array.append(features[:2], note={"evaluations": [26, 32]})
    array.append(features[2:5])
    again = PartialArray(path, KEY, features.shape, np.float32)
    assert (again.count, again.notes) == (5, [{"evaluations": [26, 32]}, None])
    np.testing.assert_array_equal(again.finished(), features[:5])
    again.remove()
    assert not names(path)


@pytest.mark.parametrize(
    "key, shape, dtype",
    [({"seed": 2}, (11, 6, 5, 3), np.uint8), (KEY, (12, 6, 5, 3), np.uint8), (KEY, (11, 6, 5, 3), np.int8)],
)
def test_rows_of_something_else_are_not_taken_up(tmp_path, path, images, key, shape, dtype):
    PartialArray(path, KEY, images.shape).append(images[:4])
    array = PartialArray(path, key, shape, dtype)
    assert (array.count, array.notes) == (0, []) and os.path.getsize(f"{path}.partial") < 360  # of 4 rows of 90
    rows = np.full(shape, 7, dtype)
    array.append(rows)
    array.finish()
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, rows)


@pytest.mark.parametrize("cut", [None, 0, 100, 400])
def test_where_rows_are_lost_all_are_made_anew(tmp_path, path, images, cut):
    PartialArray(path, KEY, images.shape).append(images[:4])
    rows = pathlib.Path(f"{path}.partial")
    rows.unlink() if cut is None else rows.write_bytes(rows.read_bytes()[:cut])
    array = PartialArray(path, KEY, images.shape)
    assert array.count == 0
    array.append(images)
    array.finish()
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, images)


def test_two_processes_that_do_the_same_do_not_count_twice(tmp_path, path, images):
    array, other = (PartialArray(path, KEY, images.shape) for _ in range(2))
    for rows in split(images, 4)[:2]:
        array.append(rows)
        other.append(rows)
    array = PartialArray(path, KEY, images.shape)
    assert array.count == 8
    array.append(images[8:])
    array.finish()
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, images)


@pytest.mark.parametrize(
    "rows", [np.zeros((12, 2), np.uint8), np.zeros((1, 3), np.uint8), np.zeros((1, 2)), np.uint8(3)]
)
def test_rows_that_do_not_belong_there_are_refused(path, rows):
    array = PartialArray(path, KEY, (11, 2))
    with pytest.raises(ValueError, match=r"samples.npz takes rows of uint8 \(11, 2\) and has 0 of them, got"):
        array.append(rows)
    with pytest.raises(ValueError, match="has 0 rows of 11"):
        array.finish()


@pytest.mark.parametrize("anew", [False, True], ids=["same", "another"])
def test_ended_before_the_file_has_its_name_the_rows_are_still_there(tmp_path, path, images, labels, monkeypatch, anew):
    def ended(source, target):
        raise KeyboardInterrupt

    array = PartialArray(path, KEY, images.shape)
    array.append(images)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", ended)
        array.finish(np.arange(1000))
    if anew:
        array = PartialArray(path, KEY, images.shape)
        assert array.count == len(images)
    array.finish(labels)
    assert names(path) == ["samples.npz"]
    assert pathlib.Path(path).read_bytes() == savez(tmp_path, images, labels)


# Children of one small process: each goes on where the last was ended, at some line that it would have run, without
# flushing anything, as by a signal. Whole runs come often enough that one of them gets to the end.
KILLED = """
    import os, sys, threading
    import numpy as np
    import tqdm
    from dit_tf.runtime import npz_writer
    from dit_tf.runtime.npz_writer import PartialArray

    path, whole = sys.argv[1:]
    ENDS = ("", ".partial", ".partial.of")
    images = np.random.default_rng(0).integers(0, 256, (11, 6, 5, 3), np.uint8)
    tqdm.tqdm.set_lock(threading.RLock())  # its own is shared with children, and one that is ended may hold it
    npz_writer._CHUNK = 256  # a batch is written in two pieces

    def run(path, last):
        lines = 0
        def count(frame, event, argument):
            nonlocal lines
            lines += 1
            if lines == last:
                os._exit(9)
            return count
        sys.settrace(count)
        array = PartialArray(path, {"seed": 1}, images.shape)
        while array.count < len(images):
            array.append(images[array.count : array.count + 4])
        array.finish(np.arange(11))
        sys.settrace(None)
        return lines

    run(whole, None)  # with what is done but once in a process
    lines = run(whole, None)
    rng, killed, found = np.random.default_rng(0), 0, set()
    for finished in range(20):
        while True:
            last, child = int(rng.integers(1, 1.1 * lines)), os.fork()
            if not child:
                run(path, last)
                os._exit(0)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
                break
            killed += 1
            found.add(tuple(os.path.getsize(path + end) if os.path.exists(path + end) else -1 for end in ENDS))
            assert all(name.endswith((".npz", *ENDS[1:])) for name in os.listdir(os.path.dirname(path)))
            assert not os.path.exists(path) or open(path, "rb").read() == open(whole, "rb").read()
        assert open(path, "rb").read() == open(whole, "rb").read()
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
        os.remove(path)
    print(killed, len(found))
"""


def test_killed_anywhere_it_goes_on_to_the_same_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (11, 6, 5, 3), np.uint8)
    (tmp_path / "killed").mkdir()
    program = [sys.executable, "-c", textwrap.dedent(KILLED)]
    paths = [str(tmp_path / "killed" / "samples.npz"), str(tmp_path / "whole.npz")]
    done = subprocess.run([*program, *paths], capture_output=True, text=True, cwd=REPOSITORY, timeout=100)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "whole.npz").read_bytes() == savez(tmp_path, images, np.arange(11))
    killed, states = map(int, done.stdout.split())
    assert killed >= 20 and states >= 6  # sizes of the three files


def test_memory_is_that_of_a_batch(path):
    rows = np.zeros((64, 64, 64, 3), np.uint8)  # 0.8 MB
    tracemalloc.start()
    try:
        array = PartialArray(path, KEY, (40 * 64, 64, 64, 3))
        for _ in range(40):  # 31 MB
            array.append(rows)
        array.finish(np.zeros(40 * 64, np.int64))
        write_arrays(path, {"arr_0": Rows(array.shape, np.uint8, (rows for _ in range(40)))})
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20  # a chunk of a MiB, a second one while it is replaced
    finally:
        tracemalloc.stop()
