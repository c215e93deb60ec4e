"""What of TensorFlow's C++ messages comes to stderr: its errors, and no remark."""

import subprocess
import sys

import pytest

from dit_tf.runtime.log_filter import is_remark

_NOW, _ABSEIL = "2026-11-30 20:22:43.679702: {} ", "{}0000 00:00:1796070216.756304    4304 "
REMARKS = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    _ABSEIL.format("I") + "device_compiler.h:196] Compiled cluster using XLA!  This line is logged at most once",
    _ABSEIL.format("W") + "computation_placer.cc:177] computation placer already registered.",
    _ABSEIL.format("E") + "text_format.cc:430] Error parsing text-format tensorflow.XlaSerializedCacheEntry: 2:1: Exp",
    _ABSEIL.format("E") + "cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register factory for plug",
    _NOW.format("I") + "tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow binary is optimized",
    _NOW.format("E") + "tensorflow/core/util/util.cc:131] oneDNN supports DT_HALF only on platforms with AVX-512.",
]
OTHERS = [
    _ABSEIL.format("E") + "cuda_driver.cc:1] failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device",
    _ABSEIL.format("F") + "check.cc:1] Check failed: a == b",
    _NOW.format("E") + "tensorflow/core/framework/op.cc:1] Out of memory",
    _NOW.format("F") + "tensorflow/core/platform/default/env.cc:74] Check failed: ret == 0",
    "training: 40%|####      | 40/100 [00:01<00:02]",
    "W1130 20:58:00.123456 139872 checkpoint.py:99] Unreadable: checkpoints/00000180",
    "I0 is a fine name for an image",
    "WARNING: of ours",
    "",
]


@pytest.mark.parametrize("line", REMARKS)
def test_a_remark_is_known(line):
    assert is_remark(line.encode() + b"\n")


@pytest.mark.parametrize("line", OTHERS)
def test_anything_else_is_not(line):
    assert not is_remark(line.encode() + b"\n")


PROGRAM = """
import os, subprocess, sys, time
from dit_tf.runtime import log_filter
log_filter.hide_remarks()
{}
"""


def run(code, **environment):
    command = [sys.executable, "-c", PROGRAM.format(code)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ".", **environment}, timeout=60)
    return done.returncode, done.stderr


def test_both_ways_to_stderr_are_told_apart_and_the_end_waits_for_the_last_line():
    code, errors = run(
        f"""
print({REMARKS[1]!r}, file=sys.stderr)  # Python's own words are never filtered
os.write(2, {(REMARKS[1] + chr(10)).encode()!r})
os.write(2, b"begun, ")
time.sleep(0.2)
os.write(2, b"ended\\n" + {(REMARKS[0] + chr(10)).encode()!r} + {OTHERS[0].encode()!r})
"""
    )
    assert (code, errors) == (0, f"{REMARKS[1]}\nbegun, ended\n{OTHERS[0]}")


def test_the_last_words_of_a_crash_arrive():
    code, errors = run(f"os.write(2, {(OTHERS[1] + chr(10)).encode()!r}); os.abort()")
    assert code == -6 and OTHERS[1] in errors


def test_what_the_program_starts_is_filtered_too():
    script = f"echo '{REMARKS[0]}' >&2; echo mine >&2"
    assert run(f"subprocess.run(['sh', '-c', {script!r}])") == (0, "mine\n")


def test_whoever_asks_for_the_remarks_gets_them():
    code = f"os.write(2, {(REMARKS[0] + chr(10)).encode()!r})"
    assert run(code, TF_CPP_MIN_LOG_LEVEL="0") == (0, REMARKS[0] + "\n")
    assert run(code, TF_CPP_MIN_LOG_LEVEL="2") == (0, "")


def test_a_closed_stderr_is_no_trouble():
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, PROGRAM.format("print(1)")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n")
