"""One process at a time has a work directory, and its end, whatever it is, gives it back."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from dit_tf.runtime import workdir

# Holds the lock of a directory without loading TensorFlow, as `hold` does, until it is killed.
_HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1] + "/lock", "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("process 7 on host")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A directory that another process holds, and that process."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield tmp_path, process
    process.kill()
    process.communicate()


def test_a_directory_in_use_is_refused_in_one_sentence(held, monkeypatch):
    monkeypatch.setattr(workdir, "_PATIENCE_SECONDS", 0.0)
    sentence = (
        rf"^--workdir={held[0]} is in use by another run \(process 7 on host\): wait until it ends, or .*\.$"
    )
    with pytest.raises(ValueError, match=sentence), workdir.hold(str(held[0])):
        pass


def test_a_killed_process_holds_nothing(held):
    directory, process = held
    process.send_signal(signal.SIGKILL)  # not waited for: `hold` has the patience
    with workdir.hold(str(directory)):
        assert (directory / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_it_is_given_back_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "_PATIENCE_SECONDS", 0.0)
    path = str(tmp_path / "new" / "run")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), workdir.hold(path):
            with pytest.raises(ValueError, match="in use"), workdir.hold(path):
                pass
            raise KeyboardInterrupt


def test_a_remote_directory_is_not_locked():
    with workdir.hold("ram://held"), workdir.hold("ram://held"):
        assert not tf.io.gfile.exists("ram://held/lock")


def test_a_directory_under_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match=rf"^--workdir={path} cannot be written to \(Not a directory\): make room"):
        with workdir.hold(path):
            pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "{{function_node x}} No space left on device\nmore"),
    ],
)
def test_failures_of_python_and_tensorflow_read_alike(error):
    with pytest.raises(
        ValueError, match=r"^--workdir=W cannot be written to \(No space left on device\): make room.*\.$"
    ):
        with workdir.writing_to("W"):
            raise error


def test_other_errors_pass():
    with pytest.raises(KeyError), workdir.writing_to("W"):
        raise KeyError
