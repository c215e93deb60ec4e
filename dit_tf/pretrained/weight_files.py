"""A published file or directory of any known kind -> what it is, with its weights, read when they are asked for.

    .pt .pth .ckpt .bin      PyTorch's zip and legacy layouts: bare weights or a training checkpoint, in any of the ways
                             of `checkpoint_parts`
    .safetensors, its index  one file or shards
    a directory              as diffusers writes it: config.json beside either

A file's first bytes say which it is, whatever its name; its weights' names say of what.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from dit_tf.pretrained import checkpoint_parts, dit_map, vae_map
from dit_tf.pretrained.checkpoint_parts import Part
from dit_tf.pretrained.dit_config import diffusers_arguments
from dit_tf.pretrained.safetensors_file import SafetensorsFile
from dit_tf.pretrained.torch_pickle import read_torch

_CONFIG = "config.json"
_LARGEST_CONFIG = 2**20  # bytes
_TORCH_ENDINGS = (".bin", ".ckpt", ".pt", ".pth")
_STARTS = {  # of files that people have in the place of weights
    b"version https://git-lfs": "it is a pointer of Git LFS, not the weights: `git lfs pull` gets them",
    b"<": "it is a web page, not the weights: download the file itself",
    b"\x89HDF": "it is an HDF5 file: a whole .keras file, or the published one, is needed",
}


class WeightFile(NamedTuple):
    path: str
    kind: str  # "dit" (also of a SiT) or "vae"
    state: Mapping  # {name in that layout: array}
    layout: str
    part: Part  # where in the file they were
    arguments: dict  # of `dit_config.infer`, as config.json has them
    config: dict  # what lies beside diffusers' weights and an autoencoder's as config.json; empty: nothing
    files: tuple  # what was read, for a digest


def read_weight_file(path, kind=None, ema=True):
    """kind: what is wanted, None for whatever it is; ema: of a training checkpoint, the averaged weights.

    ValueError, one sentence with the path, where nothing here can be read, or where it is not of that kind. All names
    are held against the whole list of the layout; arrays are looked at when they are read.
    """
    path = os.fspath(path)
    with naming(path):
        content, files = _read(path)
        part = checkpoint_parts.choose(content, kind, ema)
        arguments, config = {}, {}
        if part.kind == "vae":
            vae_map.check_latents(part.state)
            layout, config = vae_map.layout_of(part.state).title, _config(path)
        else:
            layout = dit_map.layout_of(part.state)
            dit_map.as_official(part.state)  # refuses names that are missing or left over
            if layout == "diffusers":
                config = _config(path)
                arguments = diffusers_arguments(config) if config else {}
        return WeightFile(path, part.kind, part.state, layout, part, arguments, config, files)


def digest(files):
    """The SHA-256 of one file in hexadecimal; of several, as of the lines that `sha256sum` prints for them by name."""
    digests = {}
    for file in files:
        with open(file, "rb") as stream:
            digests[os.path.basename(file)] = hashlib.file_digest(stream, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


@contextlib.contextmanager
def naming(path):
    """A ValueError inside becomes one that begins with the path, if it does not."""
    try:
        yield
    except (ValueError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        said = said.rstrip(".") + "."
        raise ValueError(said if said.startswith(path) else f"{path}: {said}") from error


def _read(path):
    """-> (what the file holds, the files that were read)."""
    if os.path.isdir(path):
        path = _weights_in(path)
    with open(path, "rb") as file:
        start = file.read(64)
    if path.endswith((".safetensors", ".index.json")) or start[8:9] == b"{":  # after the length of the header
        file = SafetensorsFile(path)
        return file, tuple(map(str, file.files))
    for beginning, said in _STARTS.items():
        if start.lstrip().startswith(beginning):
            raise ValueError(said)
    if start[30:].startswith(b"metadata.json"):  # the first entry of a zip file that Keras writes
        raise ValueError("it is a .keras file, published weights are needed")
    return read_torch(path), (path,)


def _weights_in(directory):
    names = sorted(os.listdir(directory))
    if "model_index.json" in names:
        parts = [name for name in ("transformer", "vae") if name in names]
        raise ValueError(f"it is a whole pipeline of diffusers: name one of its parts, {' or '.join(parts)}")
    found = [name for name in names if name.endswith(_TORCH_ENDINGS)]
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names) or not found:
        return str(SafetensorsFile(directory).path)  # or its refusal
    if len(found) > 1:
        raise ValueError(f"it holds several, name one of {', '.join(found)}")
    return os.path.join(directory, found[0])


def _config(path):
    """What config.json says, in the directory or beside the file."""
    config = os.path.join(path if os.path.isdir(path) else os.path.dirname(path), _CONFIG)
    if not os.path.exists(config):
        return {}
    with open(config, "rb") as file:
        content = file.read(_LARGEST_CONFIG + 1)
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{config} is not JSON: {re.sub(r'[^ -~]', '?', str(error))}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{config} must hold an object, got a {type(fields).__name__}")
    return fields
