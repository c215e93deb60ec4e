"""Files that a command writes: there whole or not at all, and one sentence where they cannot be written."""

import contextlib
import json
import os

import tensorflow as tf

from dit_tf.runtime.workdir import is_remote, reason


def write_json(path, content):
    """The numbers of a command, to the file that its --output names."""
    with writing(path, "--output"):
        replace_file(path, (json.dumps(content, indent=1) + "\n").encode())


def replace_file(path, content):
    """Write bytes to a file all at once; missing directories are made. What a killed run leaves, PATH.unfinished, the
    next one overwrites. On gs:// a file is there when it has been written whole."""
    if is_remote(path):
        tf.io.gfile.makedirs(os.path.dirname(path))
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(content)
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unfinished = f"{path}.unfinished"
    with open(unfinished, "wb") as file:
        file.write(content)
    os.replace(unfinished, path)


@contextlib.contextmanager
def writing(path, flag=""):
    """ValueError where a file, the value of a flag if that is given, cannot be written: a full disk, a folder that is
    another's. Python's files raise an OSError then, TensorFlow's an OpError."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(
            f"{flag and f'{flag}='}{path} cannot be written ({reason(error)}): make room or give another place; the "
            "same command goes on where it stopped."
        ) from error
