"""An .npz written row by row, as `np.savez` lays it out: what is in memory is a batch.

`write_arrays` writes one in one go. `PartialArray` writes one over as many runs as it takes:

    PATH.partial      arr_0 where it will lie in the finished file, with room for the headers before it
    PATH.partial.of   JSON, a line for the rows that are there and what they are of (see partial_results.py)
    PATH              the finished file, byte for byte what np.savez(PATH, arr_0, ...) gives

So nothing is copied at the end, and the disk never holds the rows twice.
"""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import tqdm
from numpy.lib import format as npy_format

from dit_tf.runtime.partial_results import PartialResults
from dit_tf.runtime.progress import BAR_DELAY

_CHUNK = 2**20  # bytes


class Rows(NamedTuple):
    """An array that comes in batches (B, *shape[1:])."""

    shape: tuple
    dtype: type
    batches: Iterable


def write_arrays(path, arrays):
    """{name: array or `Rows`} to an .npz; the bytes follow from these alone. Missing directories are made.

    The file gets its name at the end; what a killed run leaves, PATH.unfinished, the next one overwrites. ValueError
    where batches do not make up the shape that was announced.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f"{path}.unfinished"
    try:
        with zipfile.ZipFile(unfinished, "w") as archive:
            for name, array in arrays.items():
                _write(archive, name, array)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)


class PartialArray:
    """The first rows of an array (N, ...), kept on disk until all are there: `PartialArray(path, key, shape)` finds
    those that another run has appended under the same path, key (JSON), shape and dtype, and starts anew otherwise.

    count: rows that are there. notes: of each batch, what was appended with it.
    """

    def __init__(self, path, key, shape, dtype=np.uint8):
        self.path, self.shape, self.dtype = path, tuple(map(int, shape)), np.dtype(dtype)
        self._rows_path = f"{path}.partial"
        self._row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        self._start = _start_of_elements(self.shape, self.dtype)
        head = dict(of=key, shape=self.shape, dtype=self.dtype.str)
        self._journal = PartialResults(f"{self._rows_path}.of", head)
        self._take_up()
        if self.count and self._end() > _size_of(self._rows_path):  # rows that the journal knows are gone
            self._journal.remove()
            self._journal = PartialResults(f"{self._rows_path}.of", head)
            self._take_up()
        with open(self._rows_path, "ab") as file:
            file.truncate(self._end())  # of a batch that was not finished; or longer, by zeros for the headers

    def append(self, rows, note=None):
        """The next rows (B, ...), and whatever JSON is to be kept with them. On disk when this returns."""
        rows = np.asarray(rows)
        fits = rows.dtype == self.dtype and rows.shape[1:] == self.shape[1:] and rows.ndim == len(self.shape)
        if not fits or self.count + len(rows) > self.shape[0]:
            raise ValueError(
                f"{self.path} takes rows of {self.dtype} {self.shape} and has {self.count} of them, got {rows.dtype} "
                f"{rows.shape}."
            )
        with open(self._rows_path, "r+b") as file:
            file.seek(self._end())
            for chunk in _chunks(rows):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())  # before the line that says so
        self._journal.append([self.count, len(rows), note])
        self.count += len(rows)
        self.notes.append(note)

    def finished(self):
        """The rows that are there, (count, ...), to read only: they stay on disk."""
        if not self.count:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        shape = (self.count, *self.shape[1:])
        return np.memmap(self._rows_path, self.dtype, "r", offset=self._start, shape=shape)

    def finish(self, *arrays, **named):
        """Make `path` of all rows as arr_0, of `arrays` as arr_1, ... and of `named`, in this order, and leave nothing
        else.

        Killed here, another run finds all rows again: they are written where they are, and the rest behind them.
        """
        if self.count != self.shape[0]:
            raise ValueError(f"{self.path} has {self.count} rows of {self.shape[0]}: append the others first.")
        behind = {f"arr_{i}": array for i, array in enumerate(arrays, start=1)} | named
        with open(self._rows_path, "r+b") as file:
            file.truncate(self._end())  # of what an earlier try has left
            with zipfile.ZipFile(file, "w") as archive:
                _write(archive, "arr_0", Rows(self.shape, self.dtype, self._read_back()))
                for name, array in behind.items():
                    _write(archive, name, array)
        os.replace(self._rows_path, self.path)
        self._journal.remove()

    def remove(self):
        """Forget the rows."""
        self._journal.remove()
        os.remove(self._rows_path)

    def _take_up(self):
        """Count the batches of the journal that follow one upon another: a second process may have left its own."""
        self.count, self.notes = 0, []
        for first, count, note in self._journal.batches:
            if first == self.count:
                self.count += count
                self.notes.append(note)

    def _end(self):
        return self._start + self.count * self._row_bytes

    def _read_back(self):
        step, name = max(1, _CHUNK // max(1, self._row_bytes)), os.path.basename(self.path)
        bar = tqdm.tqdm(total=self.count, unit="row", desc=f"writing {name}", delay=BAR_DELAY, dynamic_ncols=True)
        with bar, open(self._rows_path, "rb") as file:
            file.seek(self._start)
            for first in range(0, self.count, step):
                count = min(step, self.count - first)
                rows = np.frombuffer(file.read(count * self._row_bytes), self.dtype)
                yield rows.reshape(count, *self.shape[1:])
                bar.update(count)


def _write(archive, name, array):
    """One entry of an .npz, not compressed; force_zip64 as NumPy has it, since the length is not known beforehand."""
    rows = array if isinstance(array, Rows) else Rows(array.shape, array.dtype, [array])
    shape, dtype, count = tuple(rows.shape), np.dtype(rows.dtype), 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
        _write_header(entry, shape, dtype)
        for batch in rows.batches:
            batch = np.asarray(batch)
            if batch.dtype != dtype or batch.shape[1:] != shape[1:]:
                raise ValueError(f"{name} was announced as {dtype} {shape}, got rows of {batch.dtype} {batch.shape}.")
            count += len(batch)
            if count > shape[0]:
                break
            for chunk in _chunks(batch):
                entry.write(chunk)
    if count != shape[0]:
        raise ValueError(f"{name} was announced as {dtype} {shape}, got {count} rows{' or more' * (count > shape[0])}.")


def _write_header(file, shape, dtype):
    fields = dict(descr=npy_format.dtype_to_descr(dtype), fortran_order=False, shape=shape)
    npy_format.write_array_header_1_0(file, fields)


def _start_of_elements(shape, dtype):
    """At which byte of an .npz the elements of its first array lie: two headers are before them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as entry:
        _write_header(entry, shape, dtype)
        return buffer.tell()


def _chunks(array):
    """The bytes of an array in C order, some at a time."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return (flat[first : first + _CHUNK].data for first in range(0, len(flat), _CHUNK))


def _size_of(path):
    return os.path.getsize(path) if os.path.exists(path) else 0
