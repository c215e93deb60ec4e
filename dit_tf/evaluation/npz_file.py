"""The arrays of an .npz file, or the one of an .npy, as streams of rows: what is in memory is a batch, whatever the
file claims.

    NAME.npy, of a zip file   magic, version 1 to 3, header {descr, fortran_order, shape}, elements

Stored and deflated entries are read. Nothing is unpickled: what an array must be is held against its header first, and
the header against the entry's length. Whatever is wrong is one ValueError that begins with the flag and the file.
"""

import contextlib
import functools
import hashlib
import io
import math
import os
import zipfile
from typing import NamedTuple

import numpy as np
import tqdm
from numpy.lib import format as npy_format

from dit_tf.runtime.bounded_file import open_bounded, version_of
from dit_tf.runtime.progress import BAR_DELAY

_MOST_AT_ONCE = 2**20  # bytes of one read, the zip file's directory included
_MOST_OF_A_HEADER = 2**14  # bytes; NumPy refuses above 10,000


class Header(NamedTuple):
    """What an .npy says about itself."""

    shape: tuple
    dtype: np.dtype
    fortran_order: bool
    start: int  # bytes before the elements

    def __str__(self):
        return f"{self.dtype} {self.shape}"[:100]


class NpzFile:
    """The arrays of `path`, which was given as `flag`; names: theirs, of an .npy arr_0. It is opened anew for each, so
    it must not change."""

    def __init__(self, flag, path):
        self.path, self.title, self._alone = path, f"{flag}={path}", str(path).endswith(".npy")
        if self._alone:
            self.names = ("arr_0",)
            return
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
        with self._reading(), self._entry(name) as (entry, length):
            head = io.BytesIO(entry.read(_MOST_OF_A_HEADER))
            version = npy_format.read_magic(head)
            if version == (1, 0):
                shape, fortran_order, dtype = npy_format.read_array_header_1_0(head)
            else:  # version 3 differs from 2 where fields have names beyond Latin-1, and numbers have no fields
                shape, fortran_order, dtype = npy_format.read_array_header_2_0(head)
            found = Header(shape, dtype, fortran_order, head.tell())
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
                entry, _ = stack.enter_context(self._entry(name))
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
        with open_bounded(self.path, _MOST_AT_ONCE) as file:
            try:
                archive = zipfile.ZipFile(file)
            except zipfile.BadZipFile as error:
                file.seek(0)
                start = file.read(6)
                if start.startswith(b"PK\3\4"):
                    raise ValueError(f"it is cut short or damaged ({error}), get or make it again") from error
                if start == npy_format.MAGIC_PREFIX:
                    raise ValueError("it is a single array: call it .npy") from error
                raise
            with archive:
                yield archive

    @contextlib.contextmanager
    def _entry(self, name):
        """The file of an array, and how many bytes it has."""
        if self._alone:
            with open_bounded(self.path, _MOST_AT_ONCE) as file:
                length = file.seek(0, os.SEEK_END)
                file.seek(0)
                yield file, length
            return
        with self._opened() as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                raise ValueError(f"its {name} is encrypted or neither stored nor deflated, np.savez does neither")
            with archive.open(info) as entry:
                yield entry, info.file_size


def sha256_of(path):
    """Of a file, in hexadecimal; read once as long as its size and date stay."""
    return _sha256_of(path, *version_of(path))


@functools.lru_cache
def _sha256_of(path, size, date):
    digest, name = hashlib.sha256(), os.path.basename(path)
    bar = tqdm.tqdm(total=size, unit="B", unit_scale=True, desc=f"sha256 {name}", delay=BAR_DELAY, dynamic_ncols=True)
    with bar, open_bounded(path, _MOST_AT_ONCE) as file:
        while part := file.read(min(_MOST_AT_ONCE, size - file.tell())):
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
