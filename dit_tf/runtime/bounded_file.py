"""A file of which nobody takes much at once, whatever lengths it claims to hold."""

import io
import os


class BoundedFile(io.FileIO):
    """For zipfile, which would read a directory of any length. A read of over `most` bytes is a ValueError."""

    def __init__(self, path, most):
        super().__init__(path)
        self._most = most

    def read(self, count=-1):
        if count is None or count < 0:
            count = os.fstat(self.fileno()).st_size - self.tell()
        if count > self._most:
            raise ValueError(f"{count:,} bytes are one piece, {self._most:,} are allowed")
        return super().read(count)
