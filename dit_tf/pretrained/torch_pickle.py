"""PyTorch's files (.pt, .pth, .ckpt) without PyTorch: read as views of the file, written as torch.load reads them."""

import collections
import mmap
import os
import struct
import types
import zipfile

import numpy as np

from dit_tf.pretrained.foreign_objects import Foreign, ForeignGlobal
from dit_tf.pretrained.state_pickle import pickle_state
from dit_tf.pretrained.torch_file import read_file
from dit_tf.pretrained.torch_globals import Storage, Tensor

_DEEPEST = 100  # containers within each other
_PLAIN = (str, int, float, bool, types.NoneType, bytes, set, frozenset, Foreign)
_ALIGNMENT = 64  # bytes


def read_torch(path):
    """What torch.load(path) would give, tensors and parameters as NumPy arrays, read-only views of the mapped file.

    OrderedDict stays one, but without a module's _metadata; argparse.Namespace is types.SimpleNamespace, torch.Size a
    tuple, torch.dtype NumPy's, a device its name, an object of any other class a `Foreign`. Nothing named there is run.
    Bytes of arrays are read when they are used, and no checksum of theirs is looked at; the file must not be cut short
    meanwhile. Whatever is wrong is one ValueError that names the file.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ValueError("it is not a file")
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _resolve(*read_file(view))
    except ForeignGlobal as error:
        refusal = "which no checkpoint needs: it is refused, nothing was run"
        raise ValueError(f"{path} asks for the global {_printable(error)}, {refusal}.") from None
    except Exception as error:  # a damaged file fails in as many ways as zip files, pickles and arrays have
        raise ValueError(f"{path} cannot be read as a PyTorch file: {_reason(error)}.") from error


def _reason(error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    kind = "" if type(error) in (ValueError, OSError, zipfile.BadZipFile) else f"{type(error).__name__} "
    return (kind + _printable(error)).strip().rstrip(".")


def _printable(error):
    text = " ".join(str(error).split())
    return (text if text.isprintable() else ascii(text))[:200]


def _resolve(root, storages):
    """The records of tensors in a value replaced by arrays. What is held twice stays one object, also when written out
    it would be too large for any memory."""
    done = {}  # {id: (result, how many containers it is deep)}

    def resolve(value, depth):
        if type(value) in _PLAIN or isinstance(value, np.dtype | np.generic):
            return value, 0
        if depth + done.get(id(value), (None, 0))[1] > _DEEPEST:
            raise ValueError(f"it nests more than {_DEEPEST} deep, or holds itself")
        if id(value) not in done:
            done[id(value)] = None, _DEEPEST  # until it is known: only what holds itself comes back here before
            done[id(value)] = build(value, depth)
        return done[id(value)]

    def build(value, depth):
        kind = type(value)
        if kind is Tensor:
            return _array(value, storages[value.storage.key]), 0
        if kind is Storage:
            return _array(Tensor(value, 0, (value.count,), (1,)), storages[value.key]), 0
        if kind in (dict, collections.OrderedDict):
            items, height = parts(value.values(), depth)
            return kind(zip(value, items)), height
        if kind is types.SimpleNamespace:
            items, height = parts(vars(value).values(), depth)
            return kind(**dict(zip(vars(value), items))), height
        if kind in (list, tuple):
            items, height = parts(value, depth)
            return kind(items), height
        raise ValueError(f"it holds a {kind.__name__}, which is not a value")

    def parts(values, depth):
        pairs = [resolve(value, depth + 1) for value in values]
        return [result for result, _ in pairs], 1 + max((height for _, height in pairs), default=0)

    return resolve(root, 0)[0]


def _array(tensor, content):
    """A view of the storage's bytes. That it stays inside its part of the storage was seen when it was read."""
    part, size = tensor.storage, tensor.storage.dtype.itemsize
    if part.numel * size > len(content):
        raise ValueError(f"its storage {part.key} has {len(content)} bytes, {part.numel * size} are needed")
    if 0 in tensor.shape:
        return np.empty(tensor.shape, part.dtype)
    strides = [stride * size for stride in tensor.strides]
    return np.ndarray(tensor.shape, part.dtype, content, (part.first + tensor.offset) * size, strides)


def write_torch(path, state):
    """Arrays, in dictionaries within each other with strings or integers as keys, to a zip file of PyTorch's layout.

    Lists, tuples, strings, bytes, numbers, booleans and None may stand beside them. The bytes follow from the values
    alone. Each array is written on its own, under another name that becomes path at the end. ValueError for values that
    have no place in such a file.
    """
    content, arrays = pickle_state(state)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            _write_entry(file, archive, "data.pkl", content)
            _write_entry(file, archive, "byteorder", b"little")
            for number, array in enumerate(arrays):
                elements = np.ascontiguousarray(array).reshape(-1)
                _write_entry(file, archive, f"data/{number}", elements.view(np.uint8).data)
            _write_entry(file, archive, "version", b"3\n")
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def _write_entry(file, archive, name, content):
    info = zipfile.ZipInfo(f"archive/{name}")  # of 1980, the first year that a zip file knows
    info.create_system, info.file_size = 0, len(content)
    long = 20 if info.file_size * 1.05 > zipfile.ZIP64_LIMIT else 0  # zipfile's own rule and field, ahead of ours
    start = file.tell() + 30 + len(info.filename) + long + 4
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        entry.write(content)
