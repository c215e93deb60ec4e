"""A work directory: one process at a time writes to it, and it says in one sentence when it cannot be written to."""

import contextlib
import errno
import fcntl
import os
import re
import socket
import time

import tensorflow as tf

_PATIENCE_SECONDS = 5.0  # a process that was just killed holds its lock until its memory is given back
_HELD = (errno.EAGAIN, errno.EACCES)  # what flock says of another's lock; the second on some network disks


def is_remote(path):
    """Whether a path is on a file system such as gs://, where a directory cannot be renamed at once."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def hold(workdir):
    """Make the directory, and lock WORKDIR/lock for as long as the context or this process lasts, however it ends.

    ValueError where another process holds it. On a remote file system nothing is locked: gs:// has no locks that end
    with their process, so there two trainings in one place are not noticed.
    """
    if is_remote(workdir):
        yield
        return
    with writing_to(workdir):
        os.makedirs(workdir, exist_ok=True)
        file = open(os.path.join(workdir, "lock"), "a+", encoding="utf-8")
    with file:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not _lock(file):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read(100).strip() or "unknown"
                raise ValueError(
                    f"--workdir={workdir} is in use by another run ({holder}): wait until it ends, or choose "
                    "another --workdir."
                )
            time.sleep(0.1)
        with writing_to(workdir):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def _lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            return True  # a disk without locks, as some network disks are: as on a remote file system
        return False
    return True


@contextlib.contextmanager
def writing_to(workdir):
    """ValueError where what is done inside fails: a full disk, a quota, a limit of file sizes, a folder of another's.
    Python's files raise an OSError then, TensorFlow's an OpError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written to ({reason(error)}): make room, or choose another --workdir; the "
            "same command goes on from the newest checkpoint."
        ) from error


def reason(error):
    """What an error says, on one line and without TensorFlow's names of the operation."""
    said = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    lines = said.strip().splitlines() or [type(error).__name__]
    return re.sub(r" \[Op:\w+\]$", "", lines[0].split("}} ")[-1]).rstrip(".")
