"""Weights in the safetensors format: one file, or shards that an index lists, read one array at a time."""

import contextlib
import json
import pathlib
import struct
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  makes bfloat16 known to NumPy, which the reader relies on
from safetensors import SafetensorError, safe_open

_INDEX = ".safetensors.index.json"
_LARGEST_HEADER = 10_000_000  # bytes, of a header and of an index; a DiT-XL/2 has 50 thousand
_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


class SafetensorsFile(Mapping):
    """{name: array} of a .safetensors file, of a *.safetensors.index.json or of a directory that holds one of either.

    Opening it reads the headers alone, asking for a name that array alone; it must stay unchanged meanwhile. bfloat16
    is that of ml_dtypes. Whatever is wrong is one ValueError that names the file: no file or several, damaged headers,
    a header longer than its file (before anything is allocated), dtypes that NumPy has no name for, an index that
    names files elsewhere, missing shards, and tensors that the index lists and its shard lacks, or the reverse.
    """

    def __init__(self, path):
        path = _find(pathlib.Path(path))
        shards = _read_index(path) if path.name.endswith(_INDEX) else {path: None}
        self.path, self.files = path, tuple({path: None} | shards)  # files: all that are read
        self._home = {}  # {name: (file, handle)}
        for file, listed in shards.items():
            handle, names = _open(file)
            if listed is not None and listed != names:
                here, there = sorted(names - listed), sorted(listed - names)
                raise ValueError(f"{file} does not hold what {path.name} lists: lacks {there}, has beyond it {here}.")
            self._home.update({name: (file, handle) for name in sorted(names)})

    def __getitem__(self, name):
        file, handle = self._home[name]
        with _named(file):
            return handle.get_tensor(name)

    def __contains__(self, name):
        return name in self._home

    def __iter__(self):
        return iter(self._home)

    def __len__(self):
        return len(self._home)


@contextlib.contextmanager
def _named(file):
    """Whatever the library or the system says about a file becomes one ValueError with the file's name."""
    try:
        yield
    except (SafetensorError, OSError, AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise ValueError(f"{file} cannot be read as safetensors: {what or type(error).__name__}.") from error


def _find(path):
    with _named(path):
        if not path.is_dir():
            return path
        for ending in (_INDEX, ".safetensors"):
            found = sorted(file for file in path.iterdir() if file.name.endswith(ending))
            if len(found) > 1:
                raise ValueError(f"it holds several, name one of {', '.join(file.name for file in found)}")
            if found:
                return found[0]
        raise ValueError("it holds no .safetensors file")


def _open(file):
    with _named(file):
        if not file.is_file():
            raise ValueError("no such file")
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
        header = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if header < 2 or header > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"it has {size} bytes and announces a header of {header}")
        handle = safe_open(file, framework="numpy")
        names = set(handle.keys())
        for name in names:
            dtype = handle.get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise ValueError(f"{name!r} has the dtype {dtype}")
        return handle, names


def _read_index(path):
    """{file of a shard: the names that the index puts there}."""
    with _named(path):
        if not path.is_file():
            raise ValueError("no such file")
        if path.stat().st_size > _LARGEST_HEADER:
            raise ValueError("the index is too large")
        try:
            index = json.loads(path.read_bytes())
        except RecursionError as error:
            raise ValueError("the index is nested too deeply") from error
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError("the index has no weight_map")
        shards = {}
        for name, file in weight_map.items():
            plain = isinstance(file, str) and file.isprintable() and not set(file) & set("/\\:")
            if not plain or not file.endswith(".safetensors"):
                raise ValueError(f"{name!r} must lie in a .safetensors file beside the index, not in {file!r}")
            shards.setdefault(path.parent / file, set()).add(name)
        return shards
