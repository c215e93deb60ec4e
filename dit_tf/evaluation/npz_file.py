"""The arrays of an .npz file as streams of rows: what is in memory is a batch, whatever the file claims.

    NAME.npy, of a zip file   magic, version 1 to 3, header {descr, fortran_order, shape}, elements

Stored and deflated entries are read. Nothing is unpickled: what an array must be is held against its header first, and
the header against the entry's length. Whatever is wrong is one ValueError that begins with the flag and the file.
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import zipfile
from typing import NamedTuple

import numpy as np
import tqdm
from numpy.lib import format as npy_format

from dit_tf.runtime.bounded_file import BoundedFile
from dit_tf.runtime.progress import BAR_DELAY

_MOST_AT_ONCE = 2**20  # bytes of one read, the zip file's directory included
_MOST_OF_A_HEADER = 2**14  # bytes; NumPy refuses above 10,000
_LARGEST_IMAGE = 2048  # pixels a side
_MOST_LABELS = 2**24
_MOST_PROVENANCE = 2**16  # bytes


class Header(NamedTuple):
    """What an .npy says about itself."""

    shape: tuple
    dtype: np.dtype
    fortran_order: bool
    start: int  # bytes before the elements

    def __str__(self):
        return f"{self.dtype} {self.shape}"[:100]


class NpzFile:
    """The arrays of `path`, which was given as `flag`; names: theirs. Opened anew for each, so it must not change."""

    def __init__(self, flag, path):
        self.path, self.title = path, f"{flag}={path}"
        with self._reading(), self._opened() as archive:
            files = archive.namelist()
            if len(set(files)) < len(files):
                raise ValueError("it has an entry twice")
        self.names = tuple(file.removesuffix(".npy") for file in files if file.endswith(".npy"))

    def header(self, name):
        """The `Header` of an array of numbers in C order; ValueError where it is none."""
        if name not in self.names:
            held = ", ".join(map(ascii, self.names[:8]))[:200] or "no arrays"
            raise ValueError(f"{self.title} has no array {name}, it has {held}: np.savez(FILE, {name}=...) makes one.")
        with self._reading(), self._opened() as archive, self._entry(archive, name) as entry:
            head = io.BytesIO(entry.read(_MOST_OF_A_HEADER))
            version = npy_format.read_magic(head)
            if version == (1, 0):
                shape, fortran_order, dtype = npy_format.read_array_header_1_0(head)
            else:  # version 3 differs from 2 where fields have names beyond Latin-1, and numbers have no fields
                shape, fortran_order, dtype = npy_format.read_array_header_2_0(head)
            found = Header(shape, dtype, fortran_order, head.tell())
            length = archive.getinfo(f"{name}.npy").file_size
        if dtype.hasobject:
            raise ValueError(f"{self.title}: its {name} has Python objects, which are never read: save it as numbers.")
        if fortran_order:
            raise ValueError(
                f"{self.title}: its {name} is in Fortran order, C order is needed: save np.ascontiguousarray of it."
            )
        if min(shape, default=0) < 0 or found.start + math.prod(shape) * dtype.itemsize != length:
            raise ValueError(
                f"{self.title}: its {name} is {found} by its header and has {length - found.start:,} bytes; "
                "it is damaged, get or make the file again."
            )
        return found

    def read(self, name, shape, kinds):
        """A whole array, which must have this shape and a dtype whose kind is one of `kinds` ("iu", "f")."""
        found = self.header(name)
        if found.shape != tuple(shape) or found.dtype.kind not in kinds:
            wanted = " or ".join({"f": "floats", "i": "integers"}[kind] for kind in kinds if kind in "fi")
            raise ValueError(f"{self.title}: its {name} must be {wanted} of shape {tuple(shape)}, got {found}.")
        return next(self.rows(name, found.shape[0]))

    def rows(self, name, batch_size, first=0):
        """Yields (B, ...) from row `first` on; the last batch may be shorter. Its checksum is checked at the end."""
        found = self.header(name)
        row_bytes = math.prod(found.shape[1:]) * found.dtype.itemsize
        with contextlib.ExitStack() as stack:
            with self._reading():
                entry = stack.enter_context(self._entry(stack.enter_context(self._opened()), name))
                for _ in _parts(entry, found.start + first * row_bytes, name):
                    pass
            for begin in range(first, found.shape[0], batch_size):
                batch = np.empty((min(batch_size, found.shape[0] - begin), *found.shape[1:]), found.dtype)
                flat, filled = batch.reshape(-1).view(np.uint8), 0
                with self._reading():
                    for part in _parts(entry, batch.nbytes, name):
                        flat[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
                        filled += len(part)
                yield batch

    @contextlib.contextmanager
    def _reading(self):
        """Damage shows in as many ways as zip files, deflate and NumPy's headers have: each becomes one sentence."""
        try:
            yield
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            if isinstance(error, EOFError):  # zipfile's way of saying that the file ends within an entry
                reason = "it is cut short, get or make it again"
            reason = " ".join(reason.split())[:300].rstrip(".") or type(error).__name__
            reason = reason if reason.isprintable() else ascii(reason)
            raise ValueError(f"{self.title} cannot be read as an .npz file: {reason}.") from error

    @contextlib.contextmanager
    def _opened(self):
        if os.path.isdir(self.path):
            raise ValueError("it is a directory")
        with BoundedFile(self.path, _MOST_AT_ONCE) as file:
            try:
                archive = zipfile.ZipFile(file)
            except zipfile.BadZipFile as error:
                file.seek(0)
                start = file.read(6)
                if start.startswith(b"PK\3\4"):
                    raise ValueError(f"it is cut short or damaged ({error}), get or make it again") from error
                if start == npy_format.MAGIC_PREFIX:
                    raise ValueError("it is a single .npy, np.savez makes an .npz") from error
                raise
            with archive:
                yield archive

    def _entry(self, archive, name):
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ValueError(f"its {name} is encrypted or neither stored nor deflated, np.savez does neither")
        return archive.open(info)


class NpzImages:
    """Images as ADM's evaluator takes them: arr_0 uint8 (N, H, W, C) and, where it is there, arr_1, their labels.

    count: N. shape: (H, W, C), C one of `channels`. ValueError for anything else, before it is read.
    """

    def __init__(self, flag, path, channels=(3,)):
        self._file = NpzFile(flag, path)
        found, title = self._file.header("arr_0"), self._file.title
        wanted = f"uint8 (N, H, W, {' or '.join(map(str, channels))})"
        if found.dtype != np.uint8:
            raise ValueError(f"{title}: its arr_0 must be {wanted}, 0 to 255, got {found}: round and convert it.")
        if len(found.shape) != 4 or found.shape[-1] not in channels:
            raise ValueError(f"{title}: its arr_0 must be {wanted}, got {found}.")
        if not found.shape[0]:
            raise ValueError(f"{title}: its arr_0 must hold at least one image, got {found}.")
        if not all(1 <= side <= _LARGEST_IMAGE for side in found.shape[1:3]):
            raise ValueError(f"{title}: its images must be of 1 to {_LARGEST_IMAGE} pixels a side, got {found}.")
        self.path, self.count, self.shape = path, found.shape[0], found.shape[1:]

    def batches(self, batch_size, first=0):
        """Yields uint8 (B, H, W, C) from image `first` on; the last batch may be shorter."""
        return self._file.rows("arr_0", batch_size, first)

    def labels(self):
        """(N,) int64, or None where the file has none."""
        if "arr_1" not in self._file.names:
            return None
        if self.count > _MOST_LABELS:
            raise ValueError(f"{self._file.title}: {_MOST_LABELS:,} labels at most are read, got {self.count:,}.")
        return self._file.read("arr_1", (self.count,), "iu").astype(np.int64)

    def sha256(self):
        return sha256_of(self.path)

    def provenance(self):
        """Which images these are, JSON-able; made_by: what the file says about that itself, where it does."""
        told = {} if "provenance" not in self._file.names else dict(made_by=self._told())
        return dict(file=self.path, sha256=self.sha256(), images=self.count, size=list(self.shape), **told)

    def _told(self):
        """The dict of the array `provenance`, the bytes of a JSON object, as `dit_tf.sample` writes it."""
        found, title = self._file.header("provenance"), f"{self._file.title}: its provenance"
        rule = f"must be uint8 (n,), the text of a JSON object of at most {_MOST_PROVENANCE:,} bytes"
        if found.dtype != np.uint8 or len(found.shape) != 1 or not 0 < found.shape[0] <= _MOST_PROVENANCE:
            raise ValueError(f"{title} {rule}, got {found}: save the file without it.")
        text = self._file.read("provenance", found.shape, "u").tobytes()
        try:
            told = json.loads(text)
            json.dumps(told, allow_nan=False)  # what is told is written on, and 1e999 is read as no number of JSON's
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{title} {rule}, got what is none ({error}): save the file without it.") from error
        if not isinstance(told, dict):
            raise ValueError(f"{title} {rule}, got a {type(told).__name__}: save the file without it.")
        return told


def sha256_of(path):
    """Of a file, in hexadecimal; read once as long as its size and date stay."""
    status = os.stat(path)
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256_of(path, *version):
    digest, size, name = hashlib.sha256(), os.path.getsize(path), os.path.basename(path)
    bar = tqdm.tqdm(total=size, unit="B", unit_scale=True, desc=f"sha256 {name}", delay=BAR_DELAY, dynamic_ncols=True)
    with bar, open(path, "rb") as file:
        while part := file.read(_MOST_AT_ONCE):
            digest.update(part)
            bar.update(len(part))
    return digest.hexdigest()


def _parts(entry, count, name):
    """The next `count` bytes of an entry."""
    while count:
        part = entry.read(min(count, _MOST_AT_ONCE))
        if not part:
            raise ValueError(f"its {name} ends {count:,} bytes before its end: get or make it again")
        count -= len(part)
        yield part
