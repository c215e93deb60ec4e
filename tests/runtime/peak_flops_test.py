import time
import types

import pytest
import tensorflow as tf

from dit_tf.runtime import peak_flops


def test_the_figure_is_two_flops_a_multiply_add_over_the_shortest_time(monkeypatch):
    """A clock that says 3, 2 and 5 seconds: 2 (2 x 2 x 2) / 2."""
    ticks = iter([0, 3, 10, 12, 20, 25])
    monkeypatch.setattr(peak_flops, "_SIZES", dict(CPU=2, GPU=2))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert peak_flops.measure_peak_flops(trials=3) == 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_product_is_of_the_dtype_and_waited_for(monkeypatch, dtype):
    seen, matmul = [], tf.matmul
    monkeypatch.setattr(peak_flops, "_SIZES", dict(CPU=64, GPU=64))
    monkeypatch.setattr(tf, "matmul", lambda a, b: seen.append((a.dtype.name, a.shape.as_list())) or matmul(a, b))
    assert 1e3 < peak_flops.measure_peak_flops(dtype, trials=2) < 1e15
    assert seen == [(dtype, [64, 64])] * 3  # one before the clock starts


def devices(replicas, *names):
    extended = types.SimpleNamespace(worker_devices=names)
    return types.SimpleNamespace(num_replicas_in_sync=replicas, extended=extended)


@pytest.mark.parametrize(
    "strategy, times",
    [
        (devices(1, "/CPU:0"), 1),
        (devices(2, "/CPU:0", "/CPU:1"), 1),  # two parts of one
        (devices(2, "/job:worker/task:0/device:CPU:0"), 2),  # two machines
        (devices(4, "/GPU:0", "/GPU:1", "/GPU:2", "/GPU:3"), 4),
        (devices(8, "/job:worker/task:1/device:GPU:0", "/job:worker/task:1/device:GPU:1"), 8),
    ],
)
def test_the_peak_is_that_of_all_devices_together(monkeypatch, strategy, times):
    monkeypatch.setattr(peak_flops, "measure_peak_flops", {"bfloat16": 100.0}.get)
    assert peak_flops.peak_flops(strategy, "bfloat16") == 100.0 * times


@pytest.mark.parametrize(
    "numbers, kind, tflops",
    [
        (("0x1ae0", "0x005e", "0x0000"), "v4", 275),
        (("0x1ae0", "0x0063", "0x0000"), "v5e", 197),
        (("0x1ae0", "0x0027", "0x004e"), "v2", 46 / 2),  # of one of two cores
        (("0x1ae0", "0x0027", "0x004f"), "v3", 123 / 2),
        (("0x1ae0", "0x0042", "0x0000"), None, None),  # Google's network card
        (("0x8086", "0x005e", "0x0000"), None, None),  # another's
    ],
)
def test_a_tpu_has_the_figure_of_its_kind(monkeypatch, tmp_path, numbers, kind, tflops):
    for place, found in {"0000:00:01.0": ("0x8086", "0x7000", "0x0000"), "0000:00:05.0": numbers}.items():
        (tmp_path / place).mkdir()
        for name, number in zip(("vendor", "device", "subsystem_device"), found):
            (tmp_path / place / name).write_text(f"{number}\n")
    (tmp_path / "0000:00:00.0").mkdir()
    monkeypatch.setattr(peak_flops, "_PCI", tmp_path)
    monkeypatch.setattr(peak_flops, "is_tpu", lambda strategy: True)
    assert peak_flops.tpu_kind() == kind
    assert peak_flops.peak_flops(devices(8, "/TPU:0"), "float32") == (kind and pytest.approx(8e12 * tflops))
    assert peak_flops.count_chips(devices(8, "/TPU:0")) == (4 if kind in ("v2", "v3") else 8)


def test_other_devices_are_chips_by_themselves():
    assert peak_flops.count_chips(devices(4, "/GPU:0", "/GPU:1", "/GPU:2", "/GPU:3")) == 4
