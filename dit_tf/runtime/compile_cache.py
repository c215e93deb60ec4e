"""Compiled programs on disk, so that no program is compiled twice: TensorFlow's persistent cache of XLA.

TensorFlow writes a file for each program under a temporary name and renames it, reads the file that fits a program to
the letter, and ends in an error where it cannot be read. So the files are looked over before TensorFlow begins: each
has its checksum beside it, `FILE.sum`, written by the first process that finds it whole.

A folder of the cache belongs to one TensorFlow, one processor and its instruction sets, one number of cores, one kind
of GPU and one set of compiler flags: whatever else changes the machine code that a program becomes.
"""

import atexit
import contextlib
import hashlib
import os
import pathlib
import platform
import re
import shutil
import sys
import time

from dit_tf.runtime.function_names import name_by_content
from dit_tf.runtime.processor import gpu_names, this_processor

DEFAULT, OFF = "~/.cache/dit_tf/compiled", "off"
VARIABLE = "DIT_TF_COMPILE_CACHE"  # in the environment: another default
LIMIT = 2 * 2**30  # bytes, of all folders together

_FLAGS, _DIRECTORY_FLAG = "TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory"
_ABANDONED = 3600  # seconds after which a file that is still unfinished is nobody's
_ROOM = 2**28  # bytes that must be free: a program whose file cannot be written is not run either


def enable(directory=None):
    """Keep what XLA compiles in this process below a directory, and take it from there. Default: that of the
    environment variable `VARIABLE`, or `DEFAULT`.

    Returns the folder that serves this TensorFlow and machine. None, with one line to stderr, where there can be none:
    TensorFlow has computed something already, and no longer looks at its flags, or the directory cannot be written.
    None without a word for "off". ValueError for a remote directory.
    """
    directory = directory or os.environ.get(VARIABLE) or DEFAULT
    if "://" in directory:
        raise ValueError(f"--compile_cache must be a local directory, or {OFF}, got {directory!r}.")
    os.environ[VARIABLE] = directory  # for what this process starts
    if directory == OFF:
        return None
    if _DIRECTORY_FLAG in os.environ.get(_FLAGS, ""):  # that of the program which has started this one, or the user's
        name_by_content()
        return None
    if has_started():
        return _off("TensorFlow has started already; enable it before the first computation")
    root = pathlib.Path(directory).expanduser()
    folder = root / _name_of_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        look_over(folder)
        trim(root)
        probe = folder / f"{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return _off(f"{directory} cannot be written ({error.strerror})")
    if shutil.disk_usage(folder).free < _ROOM:
        return _off(f"less than {_ROOM >> 20} MiB are free in {directory}")
    flags = f"{_DIRECTORY_FLAG}={folder} --tf_xla_persistent_cache_device_types=CPU,GPU"
    name_by_content()
    os.environ[_FLAGS] = f"{os.environ.get(_FLAGS, '')} {flags}".strip()
    atexit.register(_close, root, folder)
    return str(folder)


def failure(error):
    """One sentence where an error of TensorFlow's is about a file of the cache, else None."""
    folder = re.search(rf"{_DIRECTORY_FLAG}=(\S+)", os.environ.get(_FLAGS, ""))
    if folder and folder[1] in str(error):
        return f"--compile_cache={folder[1]} cannot be written: make room, or run with --compile_cache={OFF}."
    return None


def look_over(folder):
    """Write the checksums that are missing; remove, with a line each, files that no longer have theirs."""
    for file in sorted(folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            stat = file.stat()
            if file.suffix == ".tmp" and time.time() - stat.st_mtime > _ABANDONED:
                file.unlink()
            elif file.suffix == ".pb" and not _is_whole(file, stat):
                print(f"compile cache: {file} is damaged; its program is compiled again.", file=sys.stderr)
                file.unlink()
                _sum_of(file).unlink(missing_ok=True)


def trim(root, limit=LIMIT):
    """Remove the oldest files until all take at most `limit` bytes. A process that reads one keeps what it has open."""
    found = []
    for file in root.glob("*/*.pb"):
        with contextlib.suppress(FileNotFoundError):
            found.append((file.stat().st_mtime, file.stat().st_size, file))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, file in sorted(found):
        if excess <= 0:
            break
        file.unlink(missing_ok=True)
        _sum_of(file).unlink(missing_ok=True)
        excess -= size


def _is_whole(file, stat):
    """Whether a file is what it was when it was first seen; if it has not been yet, whether it ends where it should.
    Its checksum stands behind its inode, size and time; where all are the same, it is not read again. Another inode is
    another file: two processes may write one program."""
    state = [str(stat.st_ino), str(stat.st_size), str(stat.st_mtime_ns)]
    seen = _sum_of(file).read_text().split() if _sum_of(file).exists() else []
    if seen[:3] == state:
        return True
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if seen[:1] == state[:1]:
        whole = seen[3:] == [digest]
    else:
        whole = _is_message(content)
    if whole:
        unfinished = file.with_suffix(f".{os.getpid()}.tmp")
        unfinished.write_text(" ".join([*state, digest]))
        unfinished.replace(_sum_of(file))
    return whole


def _is_message(content):
    """Whether bytes are fields of a protobuf message of nothing but strings and submessages, to the last byte."""
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        length, position = _varint(content, position)
        if tag is None or length is None or tag & 7 != 2 or tag >> 3 not in (1, 2, 3):
            return False
        position += length
    return 0 < position == len(content)


def _varint(content, position):
    value = 0
    for place, byte in enumerate(content[position : position + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, position + place + 1
    return None, position


def _sum_of(file):
    return file.with_suffix(".sum")


def _name_of_folder():
    import tensorflow as tf

    machine = this_processor()
    rest = (
        tf.version.GIT_VERSION, platform.machine(), machine.name, machine.cores, sorted(machine.instruction_sets),
        gpu_names(), os.environ.get("XLA_FLAGS", ""), os.environ.get(_FLAGS, ""),
    )  # fmt: skip
    return f"tensorflow-{tf.__version__}-{hashlib.sha256(repr(rest).encode()).hexdigest()[:16]}"


def has_started():
    """Whether TensorFlow has looked at the devices in this process, and with them at its flags."""
    if "tensorflow" not in sys.modules:
        return False
    from tensorflow.python.eager import context  # nothing public says it

    return context.context_safe() is not None


def _off(reason):
    print(f"compile cache: off, {reason}.", file=sys.stderr)


def _close(root, folder):
    with contextlib.suppress(OSError):
        look_over(folder)
        trim(root)
