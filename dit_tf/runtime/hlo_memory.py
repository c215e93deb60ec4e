"""What takes the memory of a program: the arrays that live together at its fullest moment, from its text.

The text of a TPU program lists its instructions in the order in which they run, so the life of an array lasts from its
line to the last that names it. Where the compiler writes a result over an argument that ends there, both are counted
here: the sum is a little above the compiler's own.
"""

import re
from typing import NamedTuple

from dit_tf.runtime.hlo_text import computations

_SAME_MEMORY = ("bitcast", "optimization-barrier", "while", "copy-done")


class Temporary(NamedTuple):
    """`count` arrays of one kind and one place in the model, the blocks taken together; bytes: of all of them."""

    bytes: int
    count: int
    array: str
    place: str


def largest_temporaries(text, count=10):
    """(bytes at the fullest moment, the `count` largest kinds of what lives then)."""
    bodies, entry = computations(text)
    total, living = _fullest(bodies, entry, set())
    kinds = {}
    for array, place in living:
        kind = (str(array), re.sub(r"block\d+", "block*", place))
        number, size = kinds.get(kind, (0, 0))
        kinds[kind] = number + 1, size + array.bytes
    found = [Temporary(size, number, *kind) for kind, (number, size) in kinds.items()]
    return total, sorted(found, reverse=True)[:count]


def _fullest(bodies, name, outer):
    """(bytes, [(array, place)]) at the fullest moment of a computation; what it is given and what it gives are left
    out. Where it calls a loop, the loop's body is at its fullest too. outer: computations that are being looked at."""
    instructions = bodies.get(name, [])
    buffers, places = _buffers(instructions), _places(instructions)
    given = {buffer for i in instructions if i.is_root for buffer in buffers[i.name]}
    last_use = {}
    for moment, instruction in enumerate(instructions):
        for operand in (instruction.name, *instruction.operands):
            last_use.update(dict.fromkeys(buffers.get(operand, ()), moment))
    ends = {}
    for buffer, moment in last_use.items():
        ends.setdefault(moment, []).append(buffer)

    living, size, most, fullest = {}, 0, 0, []
    for moment, instruction in enumerate(instructions):
        for number, buffer in enumerate(buffers[instruction.name]):
            new = buffer == (instruction.name, number) and buffer not in given
            if new and instruction.arrays[number].in_hbm:
                living[buffer] = instruction.arrays[number], places[instruction.name]
                size += instruction.arrays[number].bytes
        inner, within = _inner(bodies, instruction, outer | {name})
        if size + inner > most:
            most, fullest = size + inner, [*living.values(), *within]
        for buffer in ends.get(moment, ()):
            if buffer in living:
                size -= living.pop(buffer)[0].bytes
    return most, fullest


def _inner(bodies, instruction, outer):
    """What the body of a loop, or the larger branch of a choice, takes besides."""
    if instruction.opcode not in ("while", "conditional", "call"):
        return 0, []
    called = re.findall(r"(?:body|to_apply|true_computation|false_computation)=(%[\w.-]+)", instruction.rest)
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    called += re.findall(r"%[\w.-]+", branches[1]) if branches else []
    return max((_fullest(bodies, name, outer) for name in called if name not in outer), default=(0, []))


def _buffers(instructions):
    """{instruction: for each leaf of its result the one it is made as, (instruction, number); None of arguments and
    constants, which are not temporaries}."""
    found, by_name = {}, {i.name: i for i in instructions}
    for i in instructions:
        first = found.get(i.operands[0], []) if i.operands else []
        own = [(i.name, number) for number in range(len(i.arrays))]
        if i.opcode in ("parameter", "constant"):
            own = [None] * len(own)
        elif i.opcode == "get-tuple-element":
            index = int(re.search(r"index=(\d+)", i.rest)[1])
            own = first[index : index + 1]
        elif i.opcode == "tuple":
            own = [leaf for operand in i.operands for leaf in found.get(operand, [])]
        elif i.opcode in _SAME_MEMORY:
            own = first[: len(own)]
        elif i.opcode == "copy-start":  # the copy, the original, a counter
            own[1:2] = first[:1]
        elif i.opcode.endswith("-start"):  # the originals, the results, counters
            originals = [leaf for operand in i.operands for leaf in found.get(operand, [])]
            own[: len(originals)] = originals
        elif i.opcode.endswith("-done"):
            originals = sum(len(found.get(operand, [])) for operand in by_name[i.operands[0]].operands)
            own = first[originals : originals + len(own)]
        found[i.name] = own
    return found


def _places(instructions):
    """{instruction: where the model made it, of a copy where the original was made, else the compiler's name}."""
    found = {}
    for i in instructions:
        original = found.get(i.operands[0], "") if i.operands and i.opcode.startswith("copy") else ""
        found[i.name] = i.place or original or i.name.lstrip("%")
    return found
