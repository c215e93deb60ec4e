"""What the latents of a directory are: spec.json, written by `dit_tf.encode` before the first of them."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re

import tensorflow as tf

from dit_tf.config import FOLDER_READINGS, kind_of
from dit_tf.data.class_names import ClassTable
from dit_tf.data.damage import reason_of
from dit_tf.latent_scale import LatentScale

MOMENTS_DTYPES = ("bfloat16", "float32")
_ADDED = {"data_digest", "folder_reading"}  # since version 0.1.0
_RARE = {"shift_factor": 0.0, "latents_mean": (), "latents_std": ()}  # written where they have another value
UNFINISHED = "unfinished-"  # how names of files begin until they are whole
NAME = "spec.json"
_MOST_BYTES = 2**24  # of a file that is read; a thousand classes are 60 kB


@dataclasses.dataclass(frozen=True)
class LatentSpec:
    """What the latents of one directory are.

    image_size, crop: of the images, in pixels and as in config.CROPS; split is that of `dataset`.
    vae_sha256, precision: of the encoder, its weights and the type of its products; empty: not known.
    scaling_factor, shift_factor, latents_mean, latents_std: how a draw from the posterior is to be scaled, see
        `LatentScale`; the moments are not scaled.
    moments_shape, moments_dtype: of a record's array, (h, w, 8) and one of MOMENTS_DTYPES.
    mirrored: whether the moments of mirror images are there too.
    data_digest, folder_reading: of the images, as in `RunConfig`; those that version 0.1.0 wrote have no digest.
    """

    dataset: str
    split: str
    num_examples: int
    classes: ClassTable
    image_size: int
    crop: str
    vae_sha256: str
    precision: str
    scaling_factor: float
    moments_shape: tuple[int, ...]
    moments_dtype: str
    mirrored: bool
    examples_per_shard: int
    data_digest: str = ""
    folder_reading: int = 1
    shift_factor: float = 0.0
    latents_mean: tuple = ()
    latents_std: tuple = ()

    def __post_init__(self):
        for name in ("num_examples", "image_size", "examples_per_shard"):
            if not 1 <= getattr(self, name) < 2**63:
                raise ValueError(f"{name} must be at least 1 and have 64 bits, got {getattr(self, name)}")
        if self.moments_dtype not in MOMENTS_DTYPES:
            raise ValueError(f"moments_dtype must be one of {', '.join(MOMENTS_DTYPES)}, got {self.moments_dtype!r}")
        if len(self.moments_shape) != 3 or min(self.moments_shape) < 1:
            raise ValueError(f"moments_shape must be three positive sizes, got {self.moments_shape}")
        for name in ("vae_sha256", "data_digest"):
            if not re.fullmatch("([0-9a-f]{64})?", getattr(self, name)):
                raise ValueError(f"{name} must be 64 hexadecimal digits or empty, got {getattr(self, name)[:80]!r}")
        if self.folder_reading not in FOLDER_READINGS:
            raise ValueError(f"folder_reading must be one of {FOLDER_READINGS}, got {self.folder_reading}")
        for name, value in dataclasses.asdict(self.latent_scale).items():
            object.__setattr__(self, name, value)

    @property
    def latent_scale(self):
        return LatentScale(self.scaling_factor, self.shift_factor, self.latents_mean, self.latents_std)

    @property
    def num_shards(self):
        return -(-self.num_examples // self.examples_per_shard)

    @property
    def moments_bytes(self):
        return math.prod(self.moments_shape) * tf.as_dtype(self.moments_dtype).size

    def path(self, directory, shard):
        return os.path.join(directory, f"latents-{shard:05d}-of-{self.num_shards:05d}.tfrecord")

    def examples_in(self, shard):
        return min(self.examples_per_shard, self.num_examples - shard * self.examples_per_shard)

    def to_json(self):
        fields = dataclasses.asdict(self)
        return json.dumps({k: v for k, v in fields.items() if k not in _RARE or v != _RARE[k]}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text):
        fields = json.loads(text)
        wanted = {field.name: field.type for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not wanted.keys() - _ADDED - _RARE.keys() <= fields.keys() <= wanted.keys():
            raise ValueError(f"it must hold the fields {', '.join(wanted)}")
        fields["classes"] = ClassTable.from_json(json.dumps(fields["classes"]))
        sizes = fields["moments_shape"]
        if not isinstance(sizes, list) or not all(type(size) is int for size in sizes):
            raise ValueError(f"moments_shape must be a list of integers, got {sizes!r:.80}")
        fields["moments_shape"] = tuple(sizes)
        for name, kind in wanted.items():
            if name in fields and kind in (str, int, float, bool) and type(fields[name]) is not kind:
                raise ValueError(f"{name} must be of type {kind.__name__}, got {fields[name]!r:.80}")
        return cls(**fields)

    def digest(self):
        """The SHA-256 of all this, less the path of a folder of images."""
        return hashlib.sha256(dataclasses.replace(self, dataset=kind_of(self.dataset)).to_json().encode()).hexdigest()

    def differences(self, other):
        """["name is a here and b there", ...] over the fields in which two specifications differ."""
        mine, theirs = ({f.name: getattr(spec, f.name) for f in dataclasses.fields(self)} for spec in (self, other))
        differing = [name for name in mine if mine[name] != theirs[name]]
        return [
            "the classes are others" if name == "classes" else f"{name} is {mine[name]} here and {theirs[name]} there"
            for name in differing
        ]


def read(directory):
    """The LatentSpec of a directory, None where there is none; ValueError where it cannot be read."""
    path = os.path.join(directory, NAME)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return LatentSpec.from_json(file.read(_MOST_BYTES).decode())
    except (ValueError, RecursionError, tf.errors.OpError) as error:
        raise ValueError(
            f"{path} is damaged ({reason_of(error)}): restore it, or encode the images into another directory."
        ) from error


def write(directory, spec):
    with writing(directory):
        tf.io.gfile.makedirs(directory)
        unfinished = os.path.join(directory, f"{UNFINISHED}{NAME}")
        with tf.io.gfile.GFile(unfinished, "w") as file:
            file.write(spec.to_json())
        tf.io.gfile.rename(unfinished, os.path.join(directory, NAME), overwrite=True)


@contextlib.contextmanager
def writing(path):
    """What TensorFlow raises while it writes becomes one sentence."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ValueError(f"--output: {path} cannot be written ({reason_of(error)}).") from error

