"""Arrays in files that other programs wrote: none is read before it is known to be one of latents or labels."""

import contextlib
import os

import ml_dtypes  # noqa: F401  makes bfloat16 known to NumPy, which the reader of safetensors relies on
import numpy as np
from safetensors import safe_open

from dit_tf.latent_scale import CHANNELS

_FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors calls them
_INTEGERS = {"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"}
_MOST_CLASSES = 100_000  # ImageNet-21k has 21,841; a damaged label may be anything


@contextlib.contextmanager
def naming(path):
    """Whatever is wrong with a file becomes one ValueError with its path."""
    try:
        yield
    except Exception as error:  # a damaged file fails in as many ways as headers and arrays have
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        text = " ".join(text.split()).rstrip(".")[:300] or type(error).__name__
        text = text if text.isprintable() else ascii(text)
        raise ValueError(f"--from_latents: {path} cannot be used: {text}.") from error


def read_npy(path, kinds, check_shape):
    """The array of an .npy file. kinds: of dtypes, "f" or "iu"; check_shape(shape) raises ValueError for wrong ones.

    Its length is held against the shape before anything is read; pickled objects are refused. ValueError, to be named.
    """
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"it is an .npy file of version {version}, 1.0 and 2.0 are read")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not read")
        if dtype.kind not in kinds:
            raise ValueError(f"it holds {dtype}, {'floats' if 'f' in kinds else 'integers'} are needed")
        check_shape(shape)
        wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
        there = os.fstat(file.fileno()).st_size - file.tell()
        if there != wanted:
            raise ValueError(f"it has {there} bytes of values, {wanted} are needed")
        return np.frombuffer(file.read(wanted), dtype).reshape(shape, order="F" if by_columns else "C")


def open_safetensors(path, side=None):
    """{name: slice of the file, as the library gives it}: of the arrays latents, labels and, where it is there,
    latents_flip, whose shapes and dtypes fit together and to `side`. ValueError, to be named."""
    handle = safe_open(path, framework="numpy")
    names = set(handle.keys())
    for name in ("latents", "labels"):
        if name not in names:
            raise ValueError(f"it has no array {name}, but {', '.join(sorted(names)) or 'nothing'}")
    slices = {name: handle.get_slice(name) for name in ("latents", "latents_flip", "labels") if name in names}
    for name, part in slices.items():
        allowed = _INTEGERS if name == "labels" else _FLOATS
        if part.get_dtype() not in allowed:
            raise ValueError(f"{name} has the dtype {part.get_dtype()}, one of {', '.join(sorted(allowed))} is needed")
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    check_latents(shapes["latents"], side)
    fitting = dict(latents_flip=shapes["latents"], labels=shapes["latents"][:1])
    for name, shape in fitting.items():
        if shapes.get(name, shape) != shape:
            raise ValueError(f"{name} has the shape {shapes[name]}, latents {shapes['latents']}")
    return slices


def check_latents(shape, side=None, count=None):
    """ValueError unless it is (count, 4, side, side); None: any number, but not 0."""
    if len(shape) == 4 and 0 not in shape and shape[1] != CHANNELS:
        raise ValueError(f"its latents have {shape[1]} channels, those of an autoencoder with {CHANNELS} are read")
    given = side or (shape[-1] if len(shape) == 4 else None)
    if len(shape) != 4 or 0 in shape or tuple(shape) != (count or shape[0], CHANNELS, given, given):
        wanted = f"({count or 'N'}, {CHANNELS}, {side or 'h'}, {side or 'h'})"
        raise ValueError(f"its latents have the shape {tuple(shape)}, {wanted} is needed")


def as_latents(array, factor):
    """Any floats -> float32, divided by the factor that they were multiplied by. ValueError for NaN and infinities."""
    with np.errstate(over="ignore"):
        latents = array.astype(np.float32) / np.float32(factor)
    if not np.isfinite(latents).all():
        raise ValueError("it has latents that are not finite")
    return latents


def as_labels(array):
    """Integers -> the same as a list. ValueError for what no label is."""
    for label in array.tolist():
        if not 0 <= label < _MOST_CLASSES:
            raise ValueError(f"a label must be from 0 to {_MOST_CLASSES - 1}, got {label}")
    return array.tolist()
