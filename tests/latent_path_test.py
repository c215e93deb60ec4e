"""The whole way of a latent model, without a download: photographs in folders, an autoencoder with random weights,
encode, train, sample, decode. A test of the plumbing, not of pictures: nobody could tell what these samples show.
"""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from dit_tf import autoencoder_file, build, encode, evaluate, flags, sample, train
from dit_tf.data.latent_records import LatentSource

_SKIMAGE = pathlib.Path(skimage.data.__file__).parent
_SKLEARN = pathlib.Path(sklearn.datasets.__file__).parent / "images"
_PHOTOGRAPHS = {
    "still life": [_SKIMAGE / "coffee.png", _SKIMAGE / "coins.png", _SKLEARN / "flower.jpg"],
    "animal": [_SKIMAGE / "chelsea.png", _SKIMAGE / "horse.png"],
    "sky": [_SKIMAGE / "rocket.jpg", _SKIMAGE / "hubble_deep_field.jpg", _SKIMAGE / "moon.png", _SKLEARN / "china.jpg"],
}
_MODEL = ["--model=DiT-64x1x2/2", "--global_batch_size=4", "--train_steps=20", "--steps_per_execution=10"]
_EVENTS = ["--checkpoint_every=10", "--log_every=10", "--sample_every=20"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, files in _PHOTOGRAPHS.items():
        (folder / name).mkdir()
        for file in files:
            shutil.copy(file, folder / name)
    return folder


@pytest.fixture(scope="module")
def latents(photographs, vae_file, parse, tmp_path_factory):
    directory = tmp_path_factory.mktemp("latents")
    flagged = [f"--dataset=folder:{photographs}", "--image_size=32", f"--vae={vae_file}", "--batch_size=4"]
    encode.main(parse(flags.define_encode, *flagged, f"--output={directory}"))
    return directory


@pytest.fixture(scope="module")
def workdir(latents, vae_file, parse, tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained_on_latents")
    options = [f"--dataset=latents:{latents}", f"--vae={vae_file}", f"--workdir={directory}", *_MODEL, *_EVENTS]
    train.main(parse(flags.define_train, *options))
    return directory


def test_latents_of_every_photograph_are_there(latents):
    source = LatentSource(str(latents))
    keys = [record["key"].decode() for record in source.in_order("train").as_numpy_iterator()]
    assert sorted(keys) == sorted(f"{name}/{file.name}" for name, files in _PHOTOGRAPHS.items() for file in files)
    assert source.spec("train").classes.names == tuple(sorted(_PHOTOGRAPHS))
    assert source.spec("train").image_size == 32


def test_training_draws_and_keeps_what_the_latents_say(workdir, latents):
    config, classes = build.load_config(str(workdir)), build.load_classes(str(workdir))
    assert (config.codec, config.image_size, config.channels, config.num_classes) == ("vae", 32, 3, 3)
    assert config.vae_sha256 == LatentSource(str(latents)).spec("train").vae_sha256
    assert classes.names == tuple(sorted(_PHOTOGRAPHS))
    losses = [json.loads(line)["loss"] for line in open(workdir / "metrics.jsonl")]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert Image.open(workdir / "samples" / "00000020.png").size[0] > 3 * 48


def test_a_sample_is_decoded_to_pixels(workdir, vae_file, parse, tmp_path):
    options = [f"--workdir={workdir}", f"--vae={vae_file}", "--sampler=ddim", "--num_steps=2", "--cfg_scale=1.5"]
    sample.main(parse(flags.define_sample, *options, "--labels=sky,Still_Life,0", f"--output={tmp_path / 's.npz'}"))
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["arr_0"].shape == (3, 32, 32, 3) and arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [1, 2, 0]
    sample.main(parse(flags.define_sample, *options, "--labels=animal,sky,sky", f"--output={tmp_path / 's.png'}"))
    assert Image.open(tmp_path / "s.png").size[0] > 2 * 48


@pytest.mark.slow
def test_latents_and_photographs_have_a_likelihood(workdir, photographs, vae_file, parse, tmp_path):
    """Stored moments and the autoencoder give the same latents, up to the 8 bits of bfloat16."""
    path, bits = tmp_path / "metrics.json", {}
    options = [f"--workdir={workdir}", "--likelihood", "--num_steps=2", "--batch_size=3", f"--output={path}"]
    for more in ([], [f"--dataset=folder:{photographs}", f"--vae={vae_file}"]):
        evaluate.main(parse(flags.define_evaluate, *options, "--split=train", *more))
        bits[len(more)] = json.loads(path.read_text())["bits_per_dim"]
    assert np.isfinite(list(bits.values())).all()
    assert abs(bits[0] - bits[2]) < 0.02 * abs(bits[0])


@pytest.fixture(scope="module")
def from_photographs(photographs, vae_file, parse, tmp_path_factory):
    """(work directory, flags of a training that encodes as it goes)."""
    directory = tmp_path_factory.mktemp("from_photographs")
    images = [f"--dataset=folder:{photographs}", f"--vae={vae_file}", *_MODEL[:-2], "--train_steps=2", "--xla=false"]
    events = ["--steps_per_execution=2", "--checkpoint_every=2", "--log_every=2", "--sample_every=0"]
    train.main(parse(flags.define_train, *images, *events, "--image_size=32", f"--workdir={directory}"))
    return directory, [*images, *events]


def test_training_may_begin_at_the_photographs(from_photographs, latents):
    directory, _ = from_photographs
    config = build.load_config(str(directory))
    assert (config.codec, config.image_size, config.num_classes) == ("vae", 32, 3)
    assert config.vae_sha256 == LatentSource(str(latents)).spec("train").vae_sha256
    (line,) = map(json.loads, open(directory / "metrics.jsonl"))
    assert line["step"] == 2 and np.isfinite(line["loss"])


@pytest.mark.slow
def test_training_may_begin_again_from_such_a_model(from_photographs, vae_file, parse, tmp_path):
    """Without classes, at another resolution, by a model that keeps all other weights."""
    first, options = from_photographs
    again = [f"--init_from={first / 'model.keras'}", "--unconditional", "--image_size=16", f"--workdir={tmp_path}"]
    train.main(parse(flags.define_train, *options, *again))
    config = build.load_config(str(tmp_path))
    assert (config.num_classes, config.class_dropout_prob, config.image_size) == (1, 0.0, 16)
    assert config.init_from == build.weights_digest(build.weights_of(build.load_model(str(first))))
    options = [f"--workdir={tmp_path}", f"--vae={vae_file}", "--sampler=ddim", "--num_steps=1", "--num_samples=2"]
    sample.main(parse(flags.define_sample, *options, f"--output={tmp_path / 's.png'}"))
    assert os.path.exists(tmp_path / "s.png")


@pytest.mark.parametrize(
    "more, words",
    [
        (["--labels=sky"], ["--vae must be given", "dit_tf.convert"]),
        (["--labels=ski", "--vae={vae}"], ["--labels", "'ski'", "sky"]),
        (["--labels=sky", "--vae={vae}", "--guided_channels=5"], ["--guided_channels", "from 1 to 4", "5"]),
        (["--labels=sky", "--vae={model}"], ["model.keras"]),
        (["--labels=sky", "--vae=nowhere"], ["nowhere"]),
    ],
)
def test_what_does_not_fit_is_refused(workdir, vae_file, parse, more, words):
    more = [flag.format(vae=vae_file, model=workdir / "model.keras") for flag in more]
    with pytest.raises(ValueError) as error:
        sample.main(parse(flags.define_sample, f"--workdir={workdir}", *more))
    assert all(word in str(error.value) for word in words), error.value


def test_another_decoder_fits_and_another_encoder_is_refused(workdir, vae_file, latents, parse, tmp_path):
    vae, other = autoencoder_file.load(str(vae_file)), str(tmp_path / "other.keras")
    decoder_bias, encoder_bias = (vae.by_name[f"{side}/conv_in/bias"] for side in ("decoder", "encoder"))
    decoder_bias.assign(decoder_bias + 1)
    autoencoder_file.save(other, vae, {})
    autoencoder_file.load(other, sha256=build.load_config(str(workdir)).vae_sha256)
    encoder_bias.assign(encoder_bias + 1)
    autoencoder_file.save(other, vae, {})
    for main, define, more in (
        (sample.main, flags.define_sample, [f"--workdir={workdir}", "--labels=sky"]),
        (train.main, flags.define_train, [f"--workdir={tmp_path}", f"--dataset=latents:{latents}", *_MODEL, *_EVENTS]),
    ):
        with pytest.raises(ValueError, match="--vae=.*other.keras has another encoder"):
            main(parse(define, *more, f"--vae={other}"))
