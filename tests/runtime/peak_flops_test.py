import time

import pytest
import tensorflow as tf

from dit_tf.runtime import peak_flops


def test_the_figure_is_two_flops_a_multiply_add_over_the_shortest_time(monkeypatch):
    """A clock that says 3, 2 and 5 seconds: 2 (2 x 2 x 2) / 2."""
    ticks = iter([0, 3, 10, 12, 20, 25])
    monkeypatch.setattr(peak_flops, "_SIZE", 2)
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert peak_flops.measure_peak_flops(trials=3) == 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_product_is_of_the_dtype_and_waited_for(monkeypatch, dtype):
    seen, matmul = [], tf.matmul
    monkeypatch.setattr(peak_flops, "_SIZE", 64)
    monkeypatch.setattr(tf, "matmul", lambda a, b: seen.append((a.dtype.name, a.shape.as_list())) or matmul(a, b))
    assert 1e3 < peak_flops.measure_peak_flops(dtype, trials=2) < 1e15
    assert seen == [(dtype, [64, 64])] * 3  # one before the clock starts
