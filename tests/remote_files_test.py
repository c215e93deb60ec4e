"""Models, autoencoders, statistics and latents on a file system that only TensorFlow reads: ram://, which lives in this
process, stands in for gs://."""

import json

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from dit_tf import autoencoder_file, build, evaluate, flags, sample, train
from dit_tf.data import latent_spec
from dit_tf.data.latent_records import LatentSource, ShardWriter
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.pretrained.vae_map import LAYOUTS, weight_map
from dit_tf.runtime.bounded_file import is_zip, open_bounded
from tests.data.latents import SPEC


def put(source, target):
    tf.io.gfile.makedirs(target.rpartition("/")[0])
    with open(source, "rb") as file, tf.io.gfile.GFile(target, "wb") as copy:
        copy.write(file.read())
    return target


@pytest.fixture(scope="module")
def weights(trained):
    return put(trained / "model.keras", "ram://models/model.keras")


def test_a_model_is_read(weights, trained, parse, tmp_path):
    drawn = []
    for path in (weights, trained / "model.keras"):
        options = [f"--weights={path}", "--labels=3,1", "--sampler=ddim", "--num_steps=2"]
        sample.main(parse(flags.define_sample, *options, f"--output={tmp_path / 's.npz'}"))
        with np.load(tmp_path / "s.npz") as arrays:
            drawn.append(arrays["arr_0"])
    np.testing.assert_array_equal(*drawn)
    assert build.load_classes(weights) == build.load_classes(str(trained))


def test_a_training_begins_with_it(weights, tiny_flags, parse, tmp_path):
    options = [*tiny_flags, f"--init_from={weights}", f"--workdir={tmp_path}", "--xla=false", "--ema_snapshot_every=0"]
    options += ["--train_steps=2", "--steps_per_execution=2", "--checkpoint_every=2", "--log_every=2"]
    train.main(parse(flags.define_train, *options, "--sample_every=0"))
    expected = build.weights_digest(build.weights_of(build.load_model(weights)))
    assert build.load_config(str(tmp_path)).init_from == expected


def test_references_and_samples_are_read(weights, parse, tmp_path, rng):
    np.savez(tmp_path / "r.npz", arr_0=rng.integers(0, 256, (80, 8, 8, 1), np.uint8))
    np.save(tmp_path / "s.npy", rng.integers(0, 256, (90, 8, 8, 1), np.uint8))
    numbers = []
    for folder in (str(tmp_path), "ram://images"):
        places = [f"{folder}/{name}" for name in ("r.npz", "s.npy")]
        if folder.startswith("ram:"):
            places = [put(tmp_path / place.rpartition("/")[2], place) for place in places]
        options = [f"--reference={places[0]}", f"--samples={places[1]}", "--features=pixels"]
        evaluate.main(parse(flags.define_evaluate, *options, f"--output={tmp_path}/m.json"))
        numbers.append(json.loads((tmp_path / "m.json").read_text()))
    digests = [[found["provenance"][name].pop("sha256") for name in ("reference", "samples")] for found in numbers]
    assert numbers[0]["fd_pixels"] == numbers[1]["fd_pixels"] and digests[0] == digests[1]
    assert numbers[1]["provenance"]["reference"]["file"] == "ram://images/r.npz"


def test_autoencoders_are_read(vae_file, tmp_path):
    here = autoencoder_file.load(str(vae_file))
    there = autoencoder_file.load(put(vae_file, "ram://vae/vae.keras"))
    assert there.encoder_sha256() == here.encoder_sha256()
    arrays = {row.theirs: np.zeros(row.shape, np.float16) for row in weight_map(LAYOUTS[0], 32)}
    save_file(arrays, tmp_path / "vae.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.13025}')
    put(tmp_path / "config.json", "ram://public/config.json")
    published = put(tmp_path / "vae.safetensors", "ram://public/vae.safetensors")
    assert autoencoder_file.load(published).latent_scale.scaling_factor == 0.13025
    assert autoencoder_file.load("ram://public").latent_scale.scaling_factor == 0.13025
    with tf.io.gfile.GFile("ram://public/cut.safetensors", "wb") as file:
        file.write(b"12345")
    with pytest.raises(ValueError, match="^ram://public/cut.safetensors cannot be read as safetensors"):
        autoencoder_file.load("ram://public/cut.safetensors")


def test_latents_are_read(tmp_path):
    latent_spec.write(str(tmp_path), SPEC)
    moments = np.zeros(SPEC.moments_shape, ml_dtypes.bfloat16)
    for shard in range(SPEC.num_shards):
        with ShardWriter(str(tmp_path), SPEC, shard) as writer:
            for i in range(SPEC.examples_in(shard)):
                writer.write(b"%d-%d" % (shard, i), i % 3, moments + i, moments - i)
    for path in tmp_path.iterdir():
        put(path, f"ram://latents/{path.name}")
    here, there = LatentSource(str(tmp_path)), LatentSource("ram://latents")
    assert there.latents == here.latents == SPEC
    records = [list(source.in_order("train").as_numpy_iterator()) for source in (here, there)]
    assert records[0] == records[1] and len(records[0]) == SPEC.num_examples


def test_what_is_not_there_or_damaged_is_one_sentence(weights, parse, tmp_path):
    with tf.io.gfile.GFile(weights, "rb") as file, tf.io.gfile.GFile("ram://models/cut.keras", "wb") as copy:
        copy.write(file.read()[:5000])
    assert is_zip(weights) and not is_zip("ram://models/none.keras") and not is_zip("ram://models/cut.keras")
    for name in ("none", "cut"):
        with pytest.raises(ValueError, match=f"^ram://models/{name}.keras holds no checkpoint"):
            build.load_model(f"ram://models/{name}.keras")
    with pytest.raises(ValueError, match="^--samples=ram://none.npz cannot be read as an .npz file: No such file"):
        NpzImages("--samples", "ram://none.npz")
    with open_bounded(weights, 100) as file, pytest.raises(ValueError, match="101 bytes are one piece, 100 are allowed"):
        file.read(101)
