"""PyTorch's two layouts by hand: a small assembler of pickles (protocol 2), and both files around one.

The functions before `whole` return the instructions that put one value on the stack.
"""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from dit_tf.pretrained.torch_pickle import read_torch

KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def plain(value):
    """Whatever Python pickles without a name: numbers, strings, lists, dictionaries."""
    return pickle.dumps(value, protocol=2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def sequence(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(function, *parts):
    return function + sequence(*parts) + b"R"


def dictionary(**parts):
    return b"}(" + b"".join(plain(key) + part for key, part in parts.items()) + b"u"


def storage(dtype, key, numel, part=b""):
    kind = name("torch", KINDS[dtype])
    return sequence(plain("storage"), kind, plain(key), plain("cuda:0"), plain(numel), part) + b"Q"


def tensor(stored, offset=0, shape=(), strides=()):
    arguments = (stored, plain(offset), plain(shape), plain(strides), b"\x89", ordered_dict())
    return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def ordered_dict():
    return call(name("collections", "OrderedDict"))


def whole(instructions):
    return b"\x80\2" + instructions + b"."


def write_zip(path, instructions, storages, byteorder=b"little", compression=zipfile.ZIP_STORED, root="archive"):
    """storages: {key: array}. The layout before alignment: data begin anywhere."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", whole(instructions))
        if byteorder:
            archive.writestr(f"{root}/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"{root}/data/{key}", np.ascontiguousarray(array).tobytes())
        archive.writestr(f"{root}/version", b"3\n")
    return path


def legacy_pickles(instructions, keys=(), little_endian=True):
    facts = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    return [whole(plain(0x1950A86A20F9469CFC6C)), whole(plain(1001)), whole(plain(facts)), whole(instructions),
            whole(plain(list(keys)))]  # fmt: skip


def write_legacy(path, instructions, storages, **facts):
    sections = legacy_pickles(instructions, storages, **facts)
    for array in storages.values():
        sections += [struct.pack("<q", array.size), array.tobytes()]
    path.write_bytes(b"".join(sections))
    return path


def refusal(path):
    """The one sentence, which names the file, of a file that cannot be read."""
    with pytest.raises(ValueError) as caught:
        read_torch(path)
    sentence = str(caught.value)
    assert type(caught.value) is ValueError and sentence.startswith(f"{path} ") and sentence.endswith(".")
    assert sentence.isprintable() and len(sentence) < len(str(path)) + 500
    return sentence
