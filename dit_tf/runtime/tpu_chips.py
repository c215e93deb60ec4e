"""TPUs as data: what a chip can do by Google's published figures, and what its compiler leaves of the memory.

A core is a device as TPUStrategy sees it: v2 and v3 have two a chip, v4 and v5p two that act as one.
"""

import dataclasses
import math
import re

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of one core: bfloat16 FLOPs per second, bytes of HBM and of those a program may have, bytes per second of HBM."""

    cores: int  # per chip
    peak_flops: float
    hbm_bytes: int
    usable_bytes: int
    bandwidth: float
    example: str  # of a slice


def _chip(cores, tflops, hbm, usable, bandwidth, example):
    """From the figures of a whole chip: TFLOP/s, GiB, GiB of a core that a program may have, GB/s."""
    hbm, usable = round(hbm * GIB / cores), round(usable * GIB)
    return Chip(cores, tflops * 1e12 / cores, hbm, usable, bandwidth * 1e9 / cores, example)


# TFLOP/s, HBM and GB/s of a chip: cloud.google.com/tpu/docs, the pages "TPU v2" to "TPU v6e" (v2: Jouppi et al. 2020,
# "A domain-specific supercomputer for training deep neural networks", table 3). Usable: what libtpu 0.0.51 names as
# available when it refuses a program that is too large.
CHIPS = {
    #           cores TFLOP/s  HBM  usable GB/s
    "v2": _chip(2, 46, 16, 7.48, 700, "v2:2x2"),
    "v3": _chip(2, 123, 32, 15.48, 900, "v3:8x16"),
    "v4": _chip(1, 275, 32, 30.75, 1228, "v4:2x2x1"),
    "v5e": _chip(1, 197, 16, 15.75, 819, "v5e:4x4"),
    "v5p": _chip(1, 459, 95.74, 95.73, 2765, "v5p:2x2x1"),
    "v6e": _chip(1, 918, 32, 31.24, 1640, "v6e:4x4"),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    topology: str
    chip: Chip
    cores: int


def parse_topology(topology):
    """ "v3:8x16" -> `Slice`. ValueError lists the kinds. Which shapes there are the compiler alone knows."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}", shape):
        examples = ", ".join(chip.example for chip in CHIPS.values())
        raise ValueError(
            f"--topology must be KIND:SHAPE of a TPU slice with a kind of {', '.join(CHIPS)}, such as {examples}; got "
            f"{topology!r}."
        )
    chip = CHIPS[kind]
    return Slice(topology, chip, chip.cores * math.prod(map(int, shape.split("x"))))
