"""The pickle of a state dict as PyTorch writes it: protocol 2, tensors as calls that name storages outside of it."""

import collections
import struct
import types

import numpy as np

from dit_tf.pretrained.torch_globals import STORAGES

_DEEPEST = 100  # containers within each other
_STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
_CONSTANTS = {True: b"\x88", False: b"\x89", None: b"N"}


def pickle_state(state):
    """-> (the pickle, [the array behind the storage "0", "1", ...]); ValueError for what has no place in such a file.

    Storages hold the elements of an array one after the other, the last axis fastest.
    """
    arrays = []
    return b"\x80\2" + b"".join(_put(state, arrays, ())) + b".", arrays


def _put(value, arrays, place):
    """The instructions that put a value on the stack. place: the keys that lead to it."""
    kind = type(value)
    if len(place) > _DEEPEST:
        raise ValueError(f"The state nests more than {_DEEPEST} deep, or holds itself.")
    if kind in (dict, collections.OrderedDict):
        yield b"}("
        for key, item in value.items():
            if type(key) not in (str, int):
                raise ValueError(f"{_name(place)} has the key {key!r}, neither a string nor an integer.")
            yield from _put(key, arrays, place)
            yield from _put(item, arrays, (*place, key))
        yield b"u"
    elif kind in (list, tuple):
        yield b"](" if kind is list else b"("
        for i, item in enumerate(value):
            yield from _put(item, arrays, (*place, i))
        yield b"e" if kind is list else b"t"
    elif kind is str:
        content = value.encode()
        yield b"X" + struct.pack("<I", len(content)) + content
    elif kind is bytes:
        yield from _call("_codecs encode", (value.decode("latin1"), "latin1"), arrays, place)
    elif kind is float:
        yield b"G" + struct.pack(">d", value)
    elif kind is int and value.bit_length() < 255 * 8:
        content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        yield b"\x8a" + bytes([len(content)]) + content
    elif kind in (bool, types.NoneType):
        yield _CONSTANTS[value]
    elif isinstance(value, np.ndarray) and value.dtype in _STORAGE_NAMES:
        yield from _put_tensor(value, arrays, place)
    else:
        kind = f"{kind.__name__} of {value.dtype}" if isinstance(value, np.ndarray) else kind.__name__
        raise ValueError(f"{_name(place)} is a {kind}, for which a PyTorch file has no place.")


def _put_tensor(array, arrays, place):
    """_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks), the storage by its persistent id."""
    strides = [int(np.prod(array.shape[axis + 1 :], dtype=np.int64)) for axis in range(array.ndim)]
    yield b"ctorch._utils\n_rebuild_tensor_v2\n("
    yield b"("
    yield from _put("storage", arrays, place)
    yield f"ctorch\n{_STORAGE_NAMES[array.dtype]}\n".encode()
    for item in (str(len(arrays)), "cpu", array.size):
        yield from _put(item, arrays, place)
    yield b"tQ"
    for item in (0, array.shape, tuple(strides), False):
        yield from _put(item, arrays, place)
    yield from _call("collections OrderedDict", (), arrays, place)
    yield b"tR"
    arrays.append(array)


def _call(name, arguments, arrays, place):
    yield b"c" + "\n".join(name.split()).encode() + b"\n"
    yield from _put(arguments, arrays, place)
    yield b"R"


def _name(place):
    return "/".join(map(str, place)) or "The state"
