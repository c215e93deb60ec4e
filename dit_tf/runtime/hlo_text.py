"""The text of a program that XLA has optimised, as records."""

import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NESTED = r"\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\)"  # four deep: a tuple of tuples of tiled arrays
_INSTRUCTION = re.compile(
    rf"^\s+(?P<root>ROOT )?(?P<name>%[\w.-]+) = (?P<type>{_NESTED}|\S+) (?P<opcode>[\w-]+)\((?P<rest>.*)$"
)
_HEADER = re.compile(r"^(?P<entry>ENTRY )?(?P<name>%[\w.-]+) \(.*\{$")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


class Array(NamedTuple):
    """dtype: XLA's name, such as bf16; layout: what stands in braces, such as 1,0:T(8,128)S(1)."""

    dtype: str
    shape: tuple
    layout: str

    @property
    def in_hbm(self):
        """Memory space 0; the others are the chip's own small ones, or the host's."""
        return re.search(r"S\([1-9]\d*\)", self.layout) is None

    @property
    def bytes(self):
        """With the padding of its tiles: the two fastest axes are whole multiples of the tile."""
        order, _, rest = self.layout.partition(":")
        minor_first = [self.shape[int(axis)] for axis in order.split(",") if axis] or list(reversed(self.shape))
        tile = re.match(r"T\(([\d,]+)\)", rest)
        for axis, size in enumerate(reversed([int(n) for n in tile[1].split(",")] if tile else [])):
            if axis < len(minor_first):
                minor_first[axis] = -(-minor_first[axis] // size) * size
        return math.ceil(math.prod(minor_first) * _bits(self.dtype) / 8)

    def __str__(self):
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Instruction(NamedTuple):
    """arrays: of the result, the leaves where it is a tuple; operands: names; rest: what follows the opcode."""

    name: str
    opcode: str
    arrays: list
    operands: list
    rest: str
    is_root: bool

    @property
    def place(self):
        """Where the model made it, such as dit/block3/mlp/expand/MatMul; empty where the compiler did."""
        found = _OP_NAME.search(self.rest)
        return place_of(found[1]) if found else ""


def place_of(op_name):
    """The name of an operation without what the tracing put around it, and without Keras' count of calls.

    A name of two parts, joined by a semicolon, stands for operations that were merged: the first is taken.
    """
    name = re.sub(r"^(jit\([^)]*\)|shard_map|call_tf|PartitionedCall|\w*StatefulPartitionedCall|/)+", "", op_name)
    return re.sub(r"_\d+(?=/)", "", name.split(";")[0])


def computations(text):
    """({name: list of `Instruction`} in the order of the text, the name of the one that runs)."""
    found, entry, current = {}, None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = found.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif current is not None and " = " in line:
            instruction = _INSTRUCTION.match(line)
            if instruction:
                current.append(_record(instruction))
    if entry is None:
        raise ValueError("This is not the text of a program: no line begins with ENTRY.")
    return found, entry


def _record(match):
    operands = re.findall(r"%[\w.-]+", match["rest"].partition(")")[0])  # printed without their types
    return Instruction(
        match["name"], match["opcode"], arrays_of(match["type"]), operands, match["rest"], bool(match["root"])
    )


def arrays_of(type_text):
    """ "(f32[2,3]{1,0}, s32[])" -> its `Array`s."""
    return [
        Array(dtype, tuple(int(n) for n in shape.split(",") if n), layout)
        for dtype, shape, layout in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", type_text))
    ]


def _bits(dtype):
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)  # f8e4m3 has 8
    return int(digits[0]) if digits else 0
