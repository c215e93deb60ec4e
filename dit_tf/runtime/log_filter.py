"""Keeps the remarks of TensorFlow's C++ code off stderr, and lets its errors through.

Part of that code logs by a library that TensorFlow never initialises, which then writes everything to file descriptor
2, whatever TF_CPP_MIN_LOG_LEVEL says. So descriptor 2 becomes a pipe into a small process, which passes on what is no
remark; a process, because what C++ writes as it crashes must be read by somebody who is still there. Python's own
stderr goes where it went before.
"""

import atexit
import contextlib
import io
import os
import re
import select
import signal
import sys

# TensorFlow's, and Abseil's, which has no date before it is initialised (Python's Abseil, which we log by, has one).
_STAMP = rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: %s |%s0000 00:00:\d+\.\d+ +\d+ )"
_REMARKS = re.compile(_STAMP.replace(b"%s", b"[IW]") + rb"|WARNING: All log messages before absl::InitializeLog\(\)")
_ERRORS = re.compile(_STAMP.replace(b"%s", b"E"))
# Errors by name that are none: a file of the compile cache is first tried as text; plugins of CUDA that are registered
# twice; a notice about a CPU.
_HARMLESS = re.compile(
    rb"Error parsing text-format tensorflow\.XlaSerializedCacheEntry"
    rb"|Unable to register cu(DNN|BLAS|FFT) factory"
    rb"|oneDNN supports DT_(HALF|BFLOAT16) only on platforms"
)
_LAST = b"\0dit_tf ends here\0"  # from the program to the small process
_PATIENCE = 0.05  # seconds that the beginning of a line is held for its end


def is_remark(line):
    """Whether a line of stderr, as bytes, is nothing that a user needs to read."""
    return bool(_REMARKS.match(line) or (_ERRORS.match(line) and _HARMLESS.search(line)))


def hide_remarks():
    """From now on, in this process and what it starts. Call it before TensorFlow is imported: what forks must not have
    threads. Does nothing where the environment asks for the remarks, TF_CPP_MIN_LOG_LEVEL=0 or 1."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1") or not hasattr(os, "fork"):
        return
    if sys.stderr is None:  # it is closed
        return
    errors = os.dup(2)
    (reader, writer), (ended, end) = os.pipe(), os.pipe()
    if not os.fork():
        os.close(writer)
        _pass_on(reader, errors, end)
    os.close(reader)
    os.close(end)
    os.dup2(writer, 2)
    os.close(writer)
    how = dict(encoding=sys.stderr.encoding, errors="backslashreplace", line_buffering=True, write_through=True)
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(open(errors, "wb", 0), **how)
    atexit.register(_finish, errors, ended)


def _pass_on(reader, errors, end):
    """The small process, from here to its end, which comes when nobody is left who could write. `end` is closed when
    all that the program wrote has been passed on; what it started may outlive it, and write still."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the program, whose last words are still to come
    for stream in {0, 1, 2} - {reader, errors, end}:
        os.closerange(stream, stream + 1)
    held = b""
    while True:
        if held and not select.select([reader], [], [], _PATIENCE)[0]:
            _write(errors, held)
            held = b""
        more = os.read(reader, 1 << 16)
        text = held + more
        if _LAST in text:
            before, _, text = text.partition(_LAST)
            _write_shown(errors, before)
            os.close(end)
        whole = len(text) if not more else text.rfind(b"\n") + 1
        _write_shown(errors, text[:whole])
        held = text[whole:]
        if not more:
            os._exit(0)


def _write_shown(errors, text):
    _write(errors, b"".join(line for line in text.splitlines(keepends=True) if not is_remark(line)))


def _write(errors, content):
    while content:
        try:
            content = content[os.write(errors, content) :]
        except OSError:  # nobody reads it any more
            return


def _finish(errors, ended):
    """Wait until the small process has passed on what is there, so that nothing comes after the program's end."""
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # it has been killed
        os.write(2, _LAST)
        os.read(ended, 1)
    os.dup2(errors, 2)
