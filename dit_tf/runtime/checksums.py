"""The SHA-256 of every file of a directory, in a file beside them that is written last.

SHA256SUMS    lines of "digest  name", which `sha256sum --check SHA256SUMS` reads too
"""

import hashlib
import os
import re

import tensorflow as tf

CHECKSUMS = "SHA256SUMS"
_CHUNK = 2**22  # bytes


def write_checksums(directory):
    """Of all files that are there, as they are read back."""
    names = sorted(name for name in tf.io.gfile.listdir(directory) if name != CHECKSUMS)
    lines = [f"{_digest(os.path.join(directory, name))}  {name}\n" for name in names]
    with tf.io.gfile.GFile(os.path.join(directory, CHECKSUMS), "w") as file:
        file.write("".join(lines))


def check_checksums(directory, only=None):
    """ValueError where a file is not what it was; `only`: look at the file of that name alone. Without SHA256SUMS, in
    what older versions wrote, all is well."""
    if not has_checksums(directory):
        return
    with tf.io.gfile.GFile(os.path.join(directory, CHECKSUMS), "rb") as file:
        text = file.read().decode("ascii", "replace")
    digests = {m[2]: m[1] for m in re.finditer(r"^([0-9a-f]{64})  (.+)\n", text, re.MULTILINE)}
    if not digests or len(digests) != len(text.splitlines()):
        raise ValueError(f"{CHECKSUMS} is damaged")
    for name in digests if only is None else {only} & digests.keys():
        if _digest(os.path.join(directory, name)) != digests[name]:
            raise ValueError(f"{name} does not match its SHA-256")


def has_checksums(directory):
    return tf.io.gfile.exists(os.path.join(directory, CHECKSUMS))


def _digest(path):
    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
