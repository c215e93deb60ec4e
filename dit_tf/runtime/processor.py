"""This machine's processor: its name and instruction sets, and the GPUs beside it. Nothing here needs TensorFlow."""

import os
import pathlib
import platform
import subprocess
from typing import NamedTuple


class Processor(NamedTuple):
    name: str
    instruction_sets: frozenset  # as the system names them: "avx2", "avx512f"
    cores: int  # that this process may use

    @property
    def has_avx512(self):
        return any(name.lower().startswith("avx512f") for name in self.instruction_sets)

    def __str__(self):
        return f"{self.name}, {self.cores} cores, {'with' if self.has_avx512 else 'without'} AVX-512"


def this_processor():
    if platform.system() == "Darwin":
        name = _sysctl("machdep.cpu.brand_string")
        features = f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}"
    else:
        rows = _cpuinfo()
        name, features = rows.get("model name", ""), rows.get("flags") or rows.get("Features") or ""  # x86; ARM
        if "cpu family" in rows:  # a virtual machine may call every generation by one name
            name = f"{name} (family {rows['cpu family']}, model {rows.get('model')})"
    return Processor(name or platform.processor() or platform.machine(), frozenset(features.split()), _usable_cores())


def gpu_names():
    """The models of the NVIDIA GPUs and the version of their driver, as text; empty where there are none."""
    driver = pathlib.Path("/proc/driver/nvidia")
    files = [*sorted(driver.glob("gpus/*/information")), driver / "version"]
    lines = [line for file in files if file.is_file() for line in file.read_text().splitlines()]
    return "\n".join(line for line in lines if line.startswith(("Model:", "NVRM version:")))


def _cpuinfo():
    """The rows of the first processor in /proc/cpuinfo; empty where there is no such file."""
    try:
        first = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _sysctl(name):
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True)
    return done.stdout.strip()


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
