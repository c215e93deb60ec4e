"""How fast the devices of a training can multiply matrices: the denominator of the MFU."""

import pathlib
import time

import tensorflow as tf

from dit_tf.runtime.distribution import is_tpu
from dit_tf.runtime.tpu_chips import CHIPS

_SIZES = {"CPU": 1024, "GPU": 2048}  # of the square matrices: large enough, and done in a tenth of a second
_PCI = pathlib.Path("/sys/bus/pci/devices")
_GOOGLE = "0x1ae0"  # the vendor
# TensorFlow does not say of which kind a TPU is; the machine that it is plugged into does. These are the numbers that
# Google's tpu-info knows. v2 and v3 have one device number and differ in the subsystem's.
_KINDS = {"0x005e": "v4", "0x0063": "v5e", "0x0062": "v5p", "0x006f": "v6e"}
_SUBSYSTEM_KINDS = {("0x0027", "0x004e"): "v2", ("0x0027", "0x004f"): "v3"}


def peak_flops(strategy, dtype):
    """FLOPs per second that all devices of a strategy do together at best. None on a TPU that is not of this machine,
    whose kind nothing tells.

    Of a TPU by Google's figure, in bfloat16 whatever the dtype; of a CPU or GPU measured, once. Several devices of one
    CPU are parts of it, GPUs are taken to be alike, and so are machines.
    """
    if is_tpu(strategy):
        kind = tpu_kind()
        return None if kind is None else CHIPS[kind].peak_flops * strategy.num_replicas_in_sync
    replicas, devices = strategy.num_replicas_in_sync, strategy.extended.worker_devices
    on_gpu = "GPU" in devices[0]
    return measure_peak_flops(dtype) * (replicas if on_gpu else replicas // len(devices))


def count_chips(strategy):
    """Of a strategy: GPUs, TPU chips, of which v2 and v3 have two replicas each, or parts of a CPU. On a TPU of unknown
    kind the replicas."""
    kind = tpu_kind() if is_tpu(strategy) else None
    return strategy.num_replicas_in_sync / (CHIPS[kind].cores if kind else 1)


def tpu_kind():
    """A key of `CHIPS`, or None where this machine has no TPU, or one that is not in the table."""
    for device in sorted(_PCI.glob("*")):
        try:
            vendor, number, subsystem = (
                (device / name).read_text().strip() for name in ("vendor", "device", "subsystem_device")
            )
        except OSError:
            continue
        kind = _KINDS.get(number) or _SUBSYSTEM_KINDS.get((number, subsystem))
        if vendor == _GOOGLE and kind:
            return kind
    return None


def measure_peak_flops(dtype="float32", trials=5):
    """FLOPs per second of the fastest of a few products of square matrices on the first device."""
    size = _SIZES["GPU" if tf.config.list_logical_devices("GPU") else "CPU"]
    a = tf.cast(tf.random.normal((size, size)), dtype)
    tf.matmul(a, a)[0, 0].numpy()
    fastest = min(_seconds(a) for _ in range(trials))
    return 2 * size**3 / fastest


def _seconds(a):
    began = time.perf_counter()
    tf.matmul(a, a)[0, 0].numpy()
    return time.perf_counter() - began
