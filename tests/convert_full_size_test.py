"""A checkpoint of DiT-XL/2's size through the command, in a process of its own: memory, time, and every bit back."""

import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from dit_tf.models.costs import abstract
from dit_tf.models.dit import DiT, size_of
from dit_tf.models.embeddings import sincos_position_table
from dit_tf.pretrained.dit_map import weight_map
from dit_tf.pretrained.torch_pickle import read_torch, write_torch

_GIBIBYTE = 2**30


def xl_state():
    """DiT-XL/2's state dict by name and shape, filled from one vector of random numbers, each array from another
    place: 2.7 GB that take 160 MB."""
    model = abstract(lambda: DiT(**size_of("DiT-XL/2"), input_size=32, in_channels=4, num_classes=1000))
    shapes = {v.path.split("/", 1)[1]: v.shape for v in model.trainable_variables}
    noise = np.random.default_rng(0).standard_normal(40_000_000, np.float32)
    state, first = {"pos_embed": np.float32(sincos_position_table((16, 16), 1152))[None]}, 0
    for ours, theirs, transform in weight_map(28):
        shape = transform.write(np.broadcast_to(np.float32(0), shapes[ours]), 2).shape
        size = int(np.prod(shape))
        state[theirs] = noise[first : first + size].reshape(shape)
        first = (first + size + 1009) % (len(noise) - 9_000_000)
    return state


def peak_memory(command):
    """-> (seconds, the most memory that the process itself held, in bytes; mapped files are not its own)."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    reader = threading.Thread(target=process.communicate, daemon=True)
    reader.start()
    while process.poll() is None:
        try:
            lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
        except OSError:
            break
        fields = dict(line.split(":", 1) for line in lines)
        peak = max(peak, sum(int(fields.get(f, "0 kB").split()[0]) for f in ("RssAnon", "RssShmem")) * 1024)
        time.sleep(0.02)
    reader.join()
    assert process.returncode == 0, command
    return time.monotonic() - start, peak


@pytest.mark.slow
def test_a_full_size_checkpoint_converts_in_9_gib_and_3_minutes_and_back_bit_for_bit(tmp_path, capsys):
    source, model, back = (str(tmp_path / name) for name in ("xl.pt", "xl.keras", "back.pt"))
    write_torch(source, xl_state())
    command = [sys.executable, "-m", "dit_tf.convert"]
    for arguments in ([f"--source={source}", f"--output={model}"], [f"--source={model}", f"--output={back}"]):
        seconds, peak = peak_memory(command + arguments)
        with capsys.disabled():
            print(f"\n{arguments[1]}: {seconds:.0f} s, {peak / _GIBIBYTE:.2f} GiB")
        assert peak < 9 * _GIBIBYTE and seconds < 180
    expected, found = read_torch(source), read_torch(back)
    assert list(found) == list(expected) and len(found) == 292
    for name, a in expected.items():
        assert found[name].dtype == a.dtype and np.array_equal(found[name], a), name
