"""spec.json of a directory of latents: what is damaged in it is told, and so is what differs from another."""

import dataclasses
import json

import numpy as np
import pytest

from dit_tf.data import latent_spec
from dit_tf.data.class_names import numbered
from tests.data.latents import SPEC


def test_it_is_read_as_it_was_written(tmp_path):
    assert latent_spec.read(str(tmp_path)) is None
    latent_spec.write(str(tmp_path / "deeper"), SPEC)
    assert latent_spec.read(str(tmp_path / "deeper")) == SPEC
    assert (SPEC.num_shards, SPEC.moments_bytes) == (5, 64)
    assert [SPEC.examples_in(shard) for shard in range(5)] == [10, 10, 10, 10, 5]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="^--output: .*file/deeper cannot be written"):
        latent_spec.write(str(tmp_path / "file" / "deeper"), SPEC)


def test_differences_are_listed():
    other = dataclasses.replace(SPEC, image_size=24, crop="pil", classes=numbered(4))
    assert SPEC.differences(other) == [
        "the classes are others", "image_size is 16 here and 24 there", "crop is fast here and pil there",
    ]  # fmt: skip
    assert SPEC.differences(SPEC) == []


@pytest.mark.parametrize(
    "change",
    [
        dict(num_examples=0), dict(num_examples="45"), dict(num_examples=True), dict(num_examples=2**64),
        dict(examples_per_shard=-1), dict(moments_dtype="float16"), dict(moments_shape=[2, 2]),
        dict(moments_shape=[2, 2, 8.0]), dict(moments_shape=[2, 2, 0]), dict(vae_sha256="ab"), dict(mirrored=1),
        dict(classes={"names": []}), dict(classes=None), dict(scaling_factor=None), dict(unknown=1),
    ],
)  # fmt: skip
def test_a_specification_that_says_nonsense_is_named(tmp_path, change):
    text = json.dumps({**json.loads(SPEC.to_json()), **change})
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(ValueError, match=r"^\S*spec.json is damaged \(.*\): restore it, or encode [^\n]*$"):
        latent_spec.read(str(tmp_path))


def test_mutated_specifications_are_read_or_named(tmp_path):
    rng, text, damaged = np.random.default_rng(0), SPEC.to_json().encode(), 0
    for _ in range(200):
        mutated = bytearray(text[: rng.integers(len(text))] if rng.random() < 0.3 else text)
        if mutated:
            mutated[rng.integers(len(mutated))] = rng.integers(256)
        (tmp_path / "spec.json").write_bytes(mutated)
        try:
            assert isinstance(latent_spec.read(str(tmp_path)), latent_spec.LatentSpec)
        except ValueError as error:
            assert "spec.json is damaged" in str(error) and "\n" not in str(error)
            damaged += 1
    assert damaged > 100
