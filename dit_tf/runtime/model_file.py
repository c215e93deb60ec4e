"""A .keras file, and the texts that travel in it: run.json, classes.json, provenance.json.

    metadata.json, config.json   Keras' own description of the model, for keras.saving.load_model; never read here
    model.weights.h5             the weights, as Keras lays them out
    run.json, ...                ours

Nothing is compressed. What a file says can choose no class and run nothing here: the caller makes the model, from a
configuration, and takes numbers from the file into it. Whatever is wrong with a file is one ValueError that names it.
"""

import contextlib
import json
import os
import shutil
import tempfile
import zipfile

import h5py
import keras
import tensorflow as tf

from dit_tf.runtime.bounded_file import open_bounded
from dit_tf.runtime.workdir import is_remote

_WEIGHTS = "model.weights.h5"
_MOST_AT_ONCE = 2**22  # bytes of a text and of the archive's directory, whatever their lengths say
_MOST_LINKS = 100_000  # of an HDF5 file; a DiT-XL/2 has 1,300
_CHUNK = 2**20


def save(path, model, texts):
    """Write a built model and {name: text}; the bytes follow from these alone. Missing directories are made. A path on
    gs:// gets a copy of a temporary file ($TMPDIR).

    Weights go to a file beside `path` first and then into the archive, one at a time: no copy of them is held. The file
    gets its name at the end, so that an interrupted save leaves the one that was there.
    """
    remote = is_remote(path)
    directory = None if remote else os.path.dirname(os.path.abspath(path))
    tf.io.gfile.makedirs(os.path.dirname(path) if remote else directory)
    described = {
        "metadata.json": json.dumps({"keras_version": keras.__version__}),
        "config.json": json.dumps(keras.saving.serialize_keras_object(model)),
    }
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=directory) as unfinished:
        archive_path, weights_path = os.path.join(unfinished, "archive"), os.path.join(unfinished, _WEIGHTS)
        model.save_weights(weights_path)
        with zipfile.ZipFile(archive_path, "w") as archive:
            for name, text in {**described, **texts}.items():
                archive.writestr(zipfile.ZipInfo(name), text)  # a ZipInfo is of 1980: no clock in the file
            entry = zipfile.ZipInfo(_WEIGHTS)
            entry.file_size = os.path.getsize(weights_path)
            with open(weights_path, "rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        if remote:
            tf.io.gfile.copy(archive_path, path, overwrite=True)
        else:
            os.replace(archive_path, path)


def read_text(path, name):
    """One of the texts, or None where the file has none of that name."""
    with _reading(path), _opened(path) as archive:
        if name not in archive.namelist():
            return None
        with archive.open(_stored(archive, name)) as entry:
            return entry.read(_MOST_AT_ONCE + 1).decode()


def load_weights(path, model):
    """Set the weights of a built model of the same architecture.

    They are copied to a temporary file, while their checksum is taken, because Keras reads HDF5 from files of their
    own; so as much room is needed there ($TMPDIR).
    """
    with _reading(path), tempfile.TemporaryDirectory(prefix="dit_tf-") as directory:
        copy = os.path.join(directory, _WEIGHTS)
        with _opened(path) as archive:
            if _WEIGHTS not in archive.namelist():
                raise ValueError(f"it has no {_WEIGHTS}")
            with archive.open(_stored(archive, _WEIGHTS)) as source, open(copy, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)  # at its end the checksum is looked at
        _check_weights(copy, len(model.variables))
        model.load_weights(copy)


@contextlib.contextmanager
def _reading(path):
    """A damaged file fails in as many ways as zip files, HDF5 and Keras have: each becomes one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, SystemError) and error.__cause__ is not None:
            error = error.__cause__  # h5py's way of saying that another one came in between
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(reason.split())[:300].rstrip(".") or type(error).__name__
        reason = reason if reason.isprintable() else ascii(reason)
        raise ValueError(f"{path} cannot be read as a model of dit_tf: {reason}.") from error


@contextlib.contextmanager
def _opened(path):
    if os.path.isdir(path):
        raise ValueError("it is a directory")
    with open_bounded(path, _MOST_AT_ONCE) as file, zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError("it has an entry twice")
        yield archive


def _stored(archive, name):
    """The entry, if it is what it says: neither compressed nor encrypted, so not longer than the file."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise ValueError(f"its entry {name} is compressed or encrypted")
    if name != _WEIGHTS and info.file_size > _MOST_AT_ONCE:
        raise ValueError(f"its entry {name} has {info.file_size} bytes, {_MOST_AT_ONCE} are allowed")
    return info


def _check_weights(path, count):
    """HDF5 can point to other files, make arrays of nothing, and hold itself: here it may hold groups and plain arrays,
    together no larger than the file."""
    links, arrays, total = [], 0, 0
    with h5py.File(path, "r") as file:
        # What is raised inside a visit is lost in the library, and what it returns ends the visit.
        file.visititems_links(lambda name, link: links.append((name, link)) if len(links) < _MOST_LINKS else True)
        for name, link in links:
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"its {_WEIGHTS} has a {type(link).__name__}, {name}")
            found = file[name]
            if isinstance(found, h5py.Group):
                continue
            plain = isinstance(found, h5py.Dataset) and not (found.is_virtual or found.external or found.chunks)
            if not plain or found.dtype.kind not in "fiu" or found.nbytes != found.id.get_storage_size():
                raise ValueError(f"its {_WEIGHTS} has {name}, which is no plain array of numbers")
            arrays, total = arrays + 1, total + found.nbytes
    if total > os.path.getsize(path) or arrays < count:
        raise ValueError(f"its {_WEIGHTS} has {arrays} arrays of {total} bytes, the model has {count}")
