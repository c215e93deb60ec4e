"""A file of which nobody takes much at once, whatever lengths it claims to hold; on this machine or on gs://."""

import contextlib
import io
import os
import tempfile
import zipfile

import tensorflow as tf
import tqdm

from dit_tf.runtime.progress import BAR_DELAY
from dit_tf.runtime.workdir import is_remote

_CHUNK = 2**22  # bytes that are copied at a time


def open_bounded(path, most):
    """The file for reading, to be used in a `with`. A read of over `most` bytes is a ValueError."""
    return _Remote(path, most) if is_remote(path) else BoundedFile(path, most)


class BoundedFile(io.FileIO):
    """For zipfile, which would read a directory of any length."""

    def __init__(self, path, most):
        super().__init__(path)
        self._most = most

    def read(self, count=-1):
        if count is None or count < 0:
            count = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(_allowed(count, self._most))


class _Remote(io.RawIOBase):
    """A file that TensorFlow reads, as Python's. What goes wrong is an OSError."""

    def __init__(self, path, most):
        self._most, self._position, self._file = most, 0, tf.io.gfile.GFile(path, "rb")
        with _as_os_error():
            self._size = self._file.size()

    def seekable(self):
        return True

    def readable(self):
        return True

    def tell(self):
        return self._position

    def seek(self, offset, whence=0):
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def read(self, count=-1):
        left = max(0, self._size - self._position)
        count = _allowed(left if count is None or count < 0 else min(count, left), self._most)
        if not count:
            return b""
        with _as_os_error():
            self._file.seek(self._position)
            content = self._file.read(count)
        self._position += len(content)
        return content

    def close(self):
        self._file.close()
        super().close()


def is_zip(path):
    """Whether there is a zip file, which a .keras file and an .npz are."""
    if not is_remote(path):
        return zipfile.is_zipfile(path)
    try:
        with _Remote(path, _CHUNK) as file:
            return zipfile.is_zipfile(file)
    except (OSError, ValueError):
        return False


def version_of(path):
    """Of a file: what changes when it does."""
    with _as_os_error():
        status = tf.io.gfile.stat(path)
    return status.length, status.mtime_nsec


@contextlib.contextmanager
def local_copy(path):
    """The path, or for one on gs:// that of a copy in a temporary directory ($TMPDIR) with the files of its folder, for
    what must be mapped into memory. Errors name the path that was given."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="dit_tf-") as directory, _as_os_error():
        whole = tf.io.gfile.isdir(path)
        folder = path.rstrip("/") if whole else os.path.dirname(path)
        names = [os.path.basename(path)] if not whole else []
        names += [n for n in tf.io.gfile.listdir(folder) if n == "config.json" or whole and not n.endswith("/")]
        for name in dict.fromkeys(names):
            _copy(f"{folder}/{name}", os.path.join(directory, name))
        copy = directory if whole else os.path.join(directory, os.path.basename(path))
        try:
            yield copy
        except ValueError as error:
            raise ValueError(str(error).replace(copy, path)) from error


def _copy(source, target):
    with tf.io.gfile.GFile(source, "rb") as file, open(target, "wb") as copy:
        size, name = file.size(), os.path.basename(source)
        bar = tqdm.tqdm(total=size, unit="B", unit_scale=True, desc=name, delay=BAR_DELAY, dynamic_ncols=True)
        with bar:
            while part := file.read(_CHUNK):
                copy.write(part)
                bar.update(len(part))


def _allowed(count, most):
    if count > most:
        raise ValueError(f"{count:,} bytes are one piece, {most:,} are allowed")
    return count


@contextlib.contextmanager
def _as_os_error():
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(2, "No such file or directory") from error
    except tf.errors.OpError as error:
        raise OSError(5, error.message.splitlines()[0]) from error
