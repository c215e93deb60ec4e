"""Where a PyTorch file keeps its pickle and the bytes of its storages, in both layouts.

    zip (since 1.6)   NAME/data.pkl, NAME/byteorder, NAME/version, NAME/data/KEY; nothing compressed, data aligned
    legacy            pickles of a magic number, a version, the machine's facts, the object and the list of keys; then
                      of each key in this order the number of elements, int64, and the elements

Lengths in a file are held against its size before anything is done with them. Storages are not read here.
"""

import struct
import zipfile
import zlib

from dit_tf.pretrained.inert_pickle import read_pickle

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_ZIP = b"PK\3\4"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., bytes of the name, of the extra field
_MOST_AT_ONCE = 2**24  # bytes of one string, or of the directory of a zip file: whatever the length field says


class _Reader:
    """A view of bytes as the file that pickletools and zipfile ask for, which copies no more than it has to."""

    def __init__(self, view):
        self.view, self.position = view, 0

    def seek(self, offset, whence=0):
        position = offset + (0, self.position, len(self.view))[whence]
        if position < 0:
            raise OSError("a position before the file's beginning")
        self.position = position
        return position

    def tell(self):
        return self.position

    def read(self, count=-1):
        left = max(0, len(self.view) - self.position)
        count = left if count is None or count < 0 else min(count, left)
        if count > _MOST_AT_ONCE:
            raise ValueError(f"{count} bytes are one string or one directory, {_MOST_AT_ONCE} are allowed")
        content = bytes(self.view[self.position : self.position + count])
        self.position += count
        return content

    def readline(self):
        """A global's name or a number: short, so that a missing end is found soon."""
        content = bytes(self.view[self.position : self.position + 8192])
        content = content[: content.find(b"\n") + 1]
        self.position += len(content)
        return content


def read_file(view):
    """The bytes of a file -> (value, {key: the bytes of the storage}), value as `read_pickle` gives it."""
    if view[:4] == _ZIP:
        return _read_zip(view)
    if view[:1] == b"\x80":
        return _read_legacy(view)
    raise ValueError(f"it begins with {bytes(view[:8])}, neither a zip file nor a pickle")


def _read_zip(view):
    listed = zipfile.ZipFile(_Reader(view)).infolist()
    entries = {info.filename: info for info in listed}
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(entries) < len(listed) or len(pickles) != 1:
        raise ValueError("it is a zip file, but has an entry twice, or not one entry data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries:
        order = bytes(_checked(view, entries[f"{root}byteorder"])[:16])
        if order != b"little":
            raise ValueError(f"its byte order is {order}")
    value, storages = read_pickle(_Reader(_checked(view, entries[pickles[0]])))
    missing = [key for key in storages if f"{root}data/{key}" not in entries]
    if missing:
        raise ValueError(f"it has no storage {missing[0]}")
    return value, {key: _stored(view, entries[f"{root}data/{key}"]) for key in storages}


def _stored(view, info):
    """The bytes of an entry, where they lie; fewer where the file ends before them."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise ValueError(f"its entry {info.filename} is compressed or encrypted")
    header = view[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or header[:4] != _ZIP:
        raise ValueError(f"its entry {info.filename} is not where the directory says")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    return view[start : start + info.file_size]


def _checked(view, info):
    """Of small entries alone: to sum up the storages would read the whole file."""
    content = _stored(view, info)
    if zlib.crc32(content) != info.CRC:
        raise ValueError(f"its entry {info.filename} does not have the checksum that was stored")
    return content


def _read_legacy(view):
    file = _Reader(view)
    if read_pickle(file)[0] != _MAGIC_NUMBER:
        raise ValueError("it is a pickle, but does not begin with PyTorch's magic number")
    read_pickle(file)  # the version of the layout: there is one
    if read_pickle(file)[0]["little_endian"] is not True:
        raise ValueError("its byte order is big")
    value, storages = read_pickle(file)
    keys, contents = read_pickle(file)[0], {}
    for key in keys:
        numel, start = int.from_bytes(file.read(8), "little"), file.tell()
        if numel != storages[key].numel:
            raise ValueError(f"its storage {key} has {numel} elements, {storages[key].numel} are expected")
        file.seek(numel * storages[key].dtype.itemsize, 1)
        if file.tell() > len(view):
            raise ValueError(f"its storage {key} is cut short")
        contents[key] = view[start : file.tell()]
    if contents.keys() != storages.keys():
        raise ValueError(f"it has no storage {min(storages.keys() - contents.keys())}")
    return value, contents
