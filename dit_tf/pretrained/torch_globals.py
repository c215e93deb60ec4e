"""The names that a PyTorch checkpoint may use, what stands for each, and records of the tensors it describes.

A state dict needs few: tensors, parameters, storages, OrderedDict. Training checkpoints add argparse.Namespace (DiT's
"args"), NumPy scalars and one class of PyTorch Lightning (CompVis' callbacks). Everything else is a `Foreign` value,
which has a name and nothing more.
"""

import collections
import dataclasses
import re
import types

import ml_dtypes
import numpy as np

from dit_tf.pretrained.foreign_objects import Foreign, foreign

_COUNTS = 2**63  # sizes, strides and offsets are below

# Python hashes an integer modulo 2^61 - 1: larger ones could be chosen to collide, all of them.
_INTEGER_KEYS = 2**60


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    key: str
    dtype: np.dtype
    numel: int  # elements of the whole storage
    first: int  # the part of it that this one is, in elements
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    storage: Storage
    offset: int  # these three in elements, from the first of the storage's part
    shape: tuple
    strides: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    name: str
    make: collections.abc.Callable


STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def find(module, name):
    known = _KNOWN.get(f"{module}.{name}")
    return foreign(module, name) if known is None else known


def call(function, arguments):
    if type(function) is Foreign:
        return Foreign(function.name)
    if type(function) is not Function or type(arguments) is not tuple:
        raise ValueError(f"a pickle calls a {type(function).__name__}")
    try:
        return function.make(*arguments)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise ValueError(f"{function.name} is called with what it does not take: {error}") from error


def build(target, state):
    """Set the state of an object; target is changed where the state is of interest."""
    if type(target) is types.SimpleNamespace and type(state) is dict:
        if not all(type(name) is str for name in state):
            raise ValueError("an attribute of a Namespace is not named by a string")
        vars(target).update(state)
    elif isinstance(target, np.dtype):  # (version, byte order, and what plain types do not have)
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", "|"):
            raise ValueError("a NumPy type is not little-endian")
    elif type(target) not in (Foreign, collections.OrderedDict):  # whose state is a module's _metadata: left out
        raise ValueError(f"a pickle sets the state of a {type(target).__name__}")


def put(target, items):
    """Keys and values, one after the other, into a dictionary."""
    if type(target) is Foreign:
        return target
    if type(target) not in (dict, collections.OrderedDict):
        raise ValueError(f"a pickle sets an item of a {type(target).__name__}")
    for k, value in zip(items[::2], items[1::2], strict=True):
        target[key(k)] = value
    return target


def key(value):
    """Only what hashes at once, and where nobody can choose the hashes, may be a key or the element of a set. A tuple,
    which may hold anything, stands there as a `Foreign`."""
    plain = str, bytes, float, bool, types.NoneType, Foreign
    if type(value) in plain or type(value) is int and abs(value) < _INTEGER_KEYS:
        return value
    if type(value) is tuple:
        return Foreign("a tuple")
    raise ValueError(f"a {type(value).__name__} is a key" + (" and too large" if type(value) is int else ""))


def storage(identity):
    """("storage", type, key, device, numel[, None or (key, first, count)]), wherever it was."""
    if type(identity) is not tuple or not 5 <= len(identity) <= 6 or identity[0] != "storage":
        raise ValueError("a persistent object is not a storage")
    _, dtype, name, _, numel, *part = identity
    if not isinstance(dtype, np.dtype) or type(name) is not str:
        raise ValueError("a storage has no type or no key")
    _, first, count = part[0] if part and part[0] is not None else (name, 0, numel)
    if _count(first) + _count(count) > _count(numel):
        raise ValueError(f"a part of the storage {name} leaves it")
    return Storage(name, dtype, numel, first, count)


def _count(value):
    if type(value) is not int or not 0 <= value < _COUNTS:
        raise ValueError("a size, stride or offset is not a whole number from 0 to 2^63")
    return value


def _tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None):
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple or metadata:
        raise ValueError("not a storage, offset, size and stride")
    if len(shape) != len(strides):
        raise ValueError("as many strides as sizes are needed")
    steps = [(_count(n) - 1) * _count(stride) for n, stride in zip(shape, strides)]
    if _count(offset) + (0 if 0 in shape else sum(steps) + 1) > storage.count:
        raise ValueError(f"a tensor leaves its storage {storage.key}")
    return Tensor(storage, offset, shape, strides)


def _parameter(tensor, requires_grad=True, hooks=None, state=None):
    if type(tensor) is not Tensor:
        raise ValueError("not a tensor")
    return tensor


def _device(kind, index=None):
    if type(kind) is not str:
        raise ValueError("not a string")
    return kind if index is None else f"{kind}:{_count(index)}"


def _ordered_dict(pairs=()):
    return put(collections.OrderedDict(), [item for k, value in pairs for item in (k, value)])


def _encode(text, encoding):
    """How the second protocol spells bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("not latin1")
    return text.encode("latin1")


def _numpy_dtype(code, align=False, copy=True):
    if not re.fullmatch(r"[fiu][1248]|b1", code):
        raise ValueError("not a plain type")
    return np.dtype(code)


def _numpy_scalar(dtype, content):
    if not isinstance(dtype, np.dtype):
        raise ValueError("not a type")
    (value,) = np.frombuffer(content, dtype)
    return value


_FUNCTIONS = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": lambda sizes: tuple(map(_count, sizes)),
    "torch.device": _device,
    "collections.OrderedDict": _ordered_dict,
    "argparse.Namespace": lambda: types.SimpleNamespace(),
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
for _builtins in ("builtins", "__builtin__"):  # the second protocol keeps the names of Python 2
    _FUNCTIONS[f"{_builtins}.set"] = lambda items=(): set(map(key, items))
    _FUNCTIONS[f"{_builtins}.frozenset"] = lambda items=(): frozenset(map(key, items))
    _FUNCTIONS[f"{_builtins}.bytes"] = lambda: b""

_DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]

# A class that CompVis' checkpoints have as a key, above its settings. It stays a name: nothing can be made of it.
_MODEL_CHECKPOINT = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"

_KNOWN = {
    **{name: Function(name, make) for name, make in _FUNCTIONS.items()},
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{f"torch.{name}": dtype for name, dtype in zip(_DTYPES, STORAGES.values(), strict=True)},
    _MODEL_CHECKPOINT: _MODEL_CHECKPOINT,
}
