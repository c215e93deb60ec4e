"""The matrix products and convolutions of a program and what they are computed in, from its text."""

import math
import re
from typing import NamedTuple

from dit_tf.runtime.hlo_text import computations

BFLOAT16 = "bfloat16"  # factors as they lie in memory, or rounded while they are read
ROUNDED = "rounded"  # float32 factors, which a TPU rounds to bfloat16 where nothing else is asked for
FLOAT32 = "float32"  # in several passes


class Product(NamedTuple):
    flops: int  # of one run of it; approximately, as padding counts
    kind: str
    place: str


def products(text):
    """Every product of the text, the largest first; one in the body of a loop is there once."""
    found = []
    for instructions in computations(text)[0].values():
        arrays = {i.name: i.arrays[0] for i in instructions if len(i.arrays) == 1}
        for i in instructions:
            if i.opcode in ("convolution", "dot"):
                factors = [arrays[name] for name in i.operands]
                place = i.place or i.name.lstrip("%")
                found.append(Product(_flops(i, factors), _kind(i.rest, factors), place))
    return sorted(found, reverse=True)


def share_of(kind, found):
    """The part of the FLOPs of these products that is of one kind, 0 to 1."""
    total = sum(product.flops for product in found)
    return sum(product.flops for product in found if product.kind == kind) / total if total else 0.0


def _kind(rest, factors):
    if all(factor.dtype == "bf16" for factor in factors):
        return BFLOAT16
    precision = re.search(r"operand_precision=\{([^}]*)\}", rest)
    return FLOAT32 if precision and precision[1] != "default,default" else ROUNDED


def _flops(instruction, factors):
    """2 FLOPs a multiply-add; none for what falls on padding. Products of many pairs of matrices are convolutions on a
    TPU, along whose axes nearly everything does."""
    out = math.prod(instruction.arrays[0].shape)
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        return 2 * out * math.prod(factors[0].shape[int(axis)] for axis in axes[1].split(",") if axis)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest).groups()
    image, kernel, result = (
        dict(zip(labels[i], array.shape)) for i, array in enumerate((*factors, instruction.arrays[0]))
    )
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    total = 2 * result["b"] * result["f"] * kernel["i"]
    for axis in (label for label in labels[1] if label.isdigit()):
        sizes = {name: value.split("x")[int(axis)] for name, value in fields.items()}
        total *= _multiply_adds(image[axis], result[axis], sizes)
    return total


def _multiply_adds(length, results, window):
    """How many of the pairs (result, place in the window) along one axis meet an entry of the image."""
    size, stride, spread, holes = (int(window.get(name, 1)) for name in ("size", "stride", "rhs_dilate", "lhs_dilate"))
    before = int(window["pad"].split("_")[0]) if "pad" in window else 0
    places = (first * stride - before + step * spread for first in range(results) for step in range(size))
    return sum(place % holes == 0 and 0 <= place // holes < length for place in places)
