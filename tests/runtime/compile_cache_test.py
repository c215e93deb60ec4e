"""Compiled programs on disk: whose they are, how many, and what becomes of damaged ones."""

import os
import time

import numpy as np
import pytest

import dit_tf
from dit_tf import build
from dit_tf.runtime import compile_cache
from dit_tf.runtime.processor import this_processor
from tests.commands import Command, run_command

_WITHOUT = {"TF_XLA_FLAGS": ""}  # the tests' own cache
# Later flags win: the network with the fewest operations, and ten steps.
_SMALLEST = ["--model=DiT-16x1x1/4", "--objective=flow", "--nolearn_sigma", "--ema_stds=", "--ema_snapshot_every=0"]
_SMALLEST += ["--train_steps=10", "--sample_every=0", "--checkpoint_every=10", "--log_every=10"]


def entry(content=b"machine code"):
    """As TensorFlow writes an entry: a message with a key, a program and machine code."""
    return b"".join(bytes([field << 3 | 2, len(part)]) + part for field, part in enumerate((b"k", b"hlo", content), 1))


def write(file, content=None, age=0):
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(entry() if content is None else content)
    os.utime(file, times=(time.time() - age,) * 2)
    return file


@pytest.fixture
def fresh(monkeypatch):
    """A process in which TensorFlow has not started, and nobody has named a cache."""
    monkeypatch.setattr(compile_cache, "has_started", lambda: False)
    monkeypatch.setattr(compile_cache.atexit, "register", lambda *call: None)
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setenv(compile_cache.VARIABLE, "")
    return monkeypatch


def test_a_whole_file_stays_and_a_changed_one_is_removed_with_a_line(tmp_path, capsys):
    files = [write(tmp_path / f"{name}.pb") for name in ("kept", "flipped", "cut", "touched")]
    compile_cache.look_over(tmp_path)
    kept, flipped, cut, touched = files
    write(flipped, entry(b"machine CODE"))
    write(cut, entry()[:-1])
    os.utime(touched)
    compile_cache.look_over(tmp_path)
    assert [file.exists() for file in files] == [True, False, False, True]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"compile cache: {file} is damaged; its program is compiled again." for file in (cut, flipped)]
    write(flipped, entry(b"new"))  # compiled again: its old checksum must not condemn it
    write(tmp_path / "other", entry(b"by another process")).replace(kept)
    compile_cache.look_over(tmp_path)
    assert flipped.exists() and kept.exists() and not capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", entry()[:-1], entry() + b"x", b"\xff" * 40, b"no message", entry()[3:5]])
def test_what_a_killed_process_or_a_full_disk_left_is_no_entry(tmp_path, content, capsys):
    file = write(tmp_path / "a.pb", content)
    compile_cache.look_over(tmp_path)
    assert not file.exists() and capsys.readouterr().err.count("\n") == 1


def test_an_unfinished_file_belongs_to_its_writer_for_an_hour(tmp_path):
    now, old = write(tmp_path / "now.tmp"), write(tmp_path / "old.tmp", age=3601)
    compile_cache.look_over(tmp_path)
    assert now.exists() and not old.exists()


def test_the_oldest_files_of_all_folders_go_first(tmp_path):
    files = [write(tmp_path / folder / f"{age}.pb", b"x" * 100, age) for folder in "ab" for age in (10, 20)]
    files.append(write(tmp_path / "c" / "0.pb", b"x" * 100, 0))
    compile_cache.trim(tmp_path, limit=300)
    assert [file.exists() for file in files] == [True, False, True, False, True]
    compile_cache.trim(tmp_path, limit=300)
    assert sum(file.exists() for file in files) == 3


def test_another_processor_or_compiler_has_another_folder(fresh, tmp_path):
    def folder():
        fresh.setenv("TF_XLA_FLAGS", "")
        return compile_cache.enable(str(tmp_path))

    own, machine = folder(), this_processor()
    assert own.startswith(f"{tmp_path}/tensorflow-2.") and folder() == own
    others = []
    for change in (
        dict(instruction_sets=machine.instruction_sets - {"avx2", "asimd"} | {"avx512f"}), dict(name="another"),
        dict(cores=64),
    ):  # fmt: skip
        with fresh.context() as patch:
            patch.setattr(compile_cache, "this_processor", lambda: machine._replace(**change))
            others.append(folder())
    fresh.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    others.append(folder())
    fresh.setattr(compile_cache, "gpu_names", lambda: "Model: NVIDIA H200")
    others.append(folder())
    assert len({own, *others}) == 6


def test_tensorflow_is_told_in_its_environment(fresh, tmp_path):
    fresh.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug")
    fresh.setenv(compile_cache.VARIABLE, str(tmp_path))
    folder = dit_tf.enable_compile_cache()
    assert os.environ["TF_XLA_FLAGS"] == (
        f"--tf_xla_clustering_debug --tf_xla_persistent_cache_directory={folder} "
        "--tf_xla_persistent_cache_device_types=CPU,GPU"
    )
    assert compile_cache.enable(str(tmp_path / "other")) is None  # one is named already
    assert not (tmp_path / "other").exists()


def test_what_the_process_starts_has_the_same(fresh, tmp_path):
    for directory in (str(tmp_path), "off"):
        fresh.setenv("TF_XLA_FLAGS", "")
        compile_cache.enable(directory)
        assert os.environ[compile_cache.VARIABLE] == directory


def test_off_is_off_without_a_word(fresh, capsys):
    assert compile_cache.enable("off") is None and os.environ["TF_XLA_FLAGS"] == ""
    assert capsys.readouterr().err == ""


def test_where_there_can_be_none_one_line_says_so(fresh, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"^--compile_cache must be a local directory, or off, got 'gs://b/c'\.$"):
        compile_cache.enable("gs://b/c")
    (tmp_path / "file").write_text("")
    fresh.setattr(compile_cache.shutil, "disk_usage", lambda folder: type("Usage", (), dict(free=2**27)))
    assert compile_cache.enable(str(tmp_path / "file" / "c")) is None and compile_cache.enable(str(tmp_path)) is None
    fresh.undo()
    fresh.setenv("TF_XLA_FLAGS", "")
    assert compile_cache.enable(str(tmp_path)) is None
    assert capsys.readouterr().err.splitlines() == [
        f"compile cache: off, {tmp_path}/file/c cannot be written (Not a directory).",
        f"compile cache: off, less than 256 MiB are free in {tmp_path}.",
        "compile cache: off, TensorFlow has started already; enable it before the first computation.",
    ]


def test_trainings_with_and_without_it_have_equal_bits(tiny_flags, tmp_path):
    """None; two at once into an empty one; one that finds a damaged file, and compiles its program alone."""
    cache = tmp_path / "cache"

    def train(name, directory):
        flags = [*tiny_flags, *_SMALLEST, f"--workdir={tmp_path / name}", f"--compile_cache={directory}"]
        return Command("dit_tf.train", *flags, environment=_WITHOUT)

    def weights(name):
        return build.load_model(str(tmp_path / name)).get_weights()

    def programs():
        return {file.name: file.stat().st_mtime_ns for file in cache.glob("*/*.pb")}

    started = [train("off", "off"), train("one", cache), train("two", cache)]
    ends = [command.communicate() for command in started]
    assert [command.returncode for command in started] == [0] * 3, ends
    assert not [errors for _, errors in ends if "compile cache" in errors]
    first = programs()
    assert first and all(file.with_suffix(".sum").exists() for file in cache.glob("*/*.pb"))
    smallest = min(cache.glob("*/*.pb"), key=lambda file: file.stat().st_size)
    assert len(first) > 1 and smallest.stat().st_size > 5000
    os.truncate(smallest, 5000)
    third = train("three", cache)
    _, errors = third.communicate()
    assert third.returncode == 0 and errors.count("compile cache: ") == 1 and f"{smallest.name} is damaged" in errors
    again = programs()
    assert again.keys() == first.keys() and [name for name in first if again[name] != first[name]] == [smallest.name]
    for name in ("one", "two", "three"):
        for actual, expected in zip(weights(name), weights("off"), strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_a_cache_that_cannot_be_written_to_ends_a_command_in_one_sentence(trained, tmp_path):
    cache = tmp_path / "cache"
    sampling = [f"--workdir={trained}", "--labels=3", "--num_steps=3", f"--output={tmp_path / 'three.png'}"]
    command = run_command("dit_tf.sample", *sampling, f"--compile_cache={cache}", environment=_WITHOUT, limit=9000)
    assert command.returncode == 1
    message = command.stderr.splitlines()[-1]
    assert "Traceback" not in command.stderr
    assert message.startswith(f"dit_tf.sample: --compile_cache={cache}/tensorflow-")
    assert message.endswith(" cannot be written: make room, or run with --compile_cache=off.")
