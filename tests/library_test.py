"""The library in a few lines: `dit_tf.load` and the model that it gives, whose images are those of the commands."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import dit_tf
from dit_tf import autoencoder_file, build, flags, sample
from dit_tf.data.pipeline import open_dataset, real_images
from dit_tf.inference import loading
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.pretrained.torch_pickle import write_torch


_FEW = dict(sampler="ddim", num_steps=5)


@pytest.fixture(scope="module")
def model(trained):
    return dit_tf.load(trained)


@pytest.fixture(scope="module")
def flow(trained_flow):
    return dit_tf.load(str(trained_flow / "model.keras"))


def test_the_package_alone_loads_neither_tensorflow_nor_keras():
    program = "import sys, dit_tf; print(dit_tf.__version__, sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{dit_tf.__version__} []\n"
    assert {"load", "TrainedModel"} <= set(dir(dit_tf))
    with pytest.raises(AttributeError, match="module 'dit_tf' has no attribute 'draw'"):
        dit_tf.draw  # noqa: B018


def test_images_are_those_of_the_command(model, trained, parse, tmp_path):
    """By number, name and id alike, bit for bit."""
    path = tmp_path / "s.npz"
    options = [f"--workdir={trained}", "--labels=3,1,4", "--sampler=ddim", "--num_steps=5", "--cfg_scale=1.5"]
    options.append("--seed=2")
    sample.main(parse(flags.define_sample, *options, f"--output={path}"))
    with np.load(path) as arrays:
        expected = arrays["arr_0"]
    for labels in ([3, 1, 4], ["3", "1", "4"], np.array([3, 1, 4])):
        images = model.sample(labels, cfg_scale=1.5, seed=2, progress=False, **_FEW)
        assert images.dtype == np.uint8 and images.shape == (3, 8, 8, 1)
        np.testing.assert_array_equal(images, expected)
    more = model.sample(3, num_samples=5, cfg_scale=1.5, seed=2, batch_size=2, progress=False, **_FEW)
    assert len(more) == 5 and np.abs(more[0].astype(int) - expected[0]).max() <= 1  # a batch of another size


def test_labels_may_be_left_out_or_be_none(model):
    drawn = model.images(num_samples=20, label_policy="balanced", **_FEW)
    assert drawn.labels().tolist() == [*range(10), *range(10)]
    unconditional = model.sample("null", progress=False, **_FEW)
    assert unconditional.shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match="labels must be from 0 to 9, got 12"):
        model.sample(12)
    with pytest.raises(TypeError, match="num_step"):
        model.sample(3, num_step=5)
    with pytest.raises(ValueError, match="--sampler must be one of"):
        model.sample(3, sampler="sde")


def test_a_grid_is_a_picture_with_captions(model):
    grid = model.grid([3, 1, 4], columns=3, progress=False, **_FEW)
    assert isinstance(grid, Image.Image) and grid.size[0] > 3 * 48 > grid.size[1]


def test_the_way_of_an_image_ends_where_it_does(model):
    states = list(model.states(3, seed=2, **_FEW))
    assert len(states) == 5 and all(state.shape == (1, 8, 8, 1) for state in states)
    assert np.abs(np.std(states[0]) - 1) < 0.4  # noise
    prediction = model.denoise(states[-1], 0, [3])
    assert prediction.shape == (1, 8, 8, 2)


def test_pixels_are_encoded_and_decoded(model, rng):
    images = rng.integers(0, 256, (4, 8, 8, 1), np.uint8)
    x = model.encode(images)
    assert x.dtype == np.float32 and np.abs(x).max() <= 1
    np.testing.assert_array_equal(model.decode(x), images)


def test_the_network_is_called_as_keras_models_are(model):
    x = np.zeros((2, 8, 8, 1), np.float32)
    np.testing.assert_allclose(model((x, [5, 5], [1, 2])), model.denoise(x, 5, [1, 2]), atol=1e-5)
    np.testing.assert_allclose(model((x, [5, 5], [10, 10])), model.denoise(x, 5, None), atol=1e-5)


def test_real_images_have_a_likelihood_that_noise_has_not(flow, tiny_flags, rng):
    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir")).partition("=")[2]
    images, labels = real_images(open_dataset("digits", data_dir), "test")
    options = dict(solver="euler", num_steps=10, batch_size=8, progress=False)
    real = flow.likelihood(images[:8], labels[:8], **options)
    assert real.shape == (8,) and real.mean() < flow.likelihood(images[:8, ::-1], labels[:8], **options).mean()


def test_a_model_is_scored_and_saved(model, tiny_flags, tmp_path, trained):
    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir")).partition("=")[2]
    scores = model.score(
        "digits", 80, scoring=dict(features="pixels", data_dir=data_dir), partial=str(tmp_path / "m"), **_FEW
    )
    assert scores.title == "FD-pixels-80" and scores.fid.distance > 0 and not os.listdir(tmp_path)
    model.save(str(tmp_path / "model.keras"))
    again = dit_tf.load(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.sample(3, progress=False, **_FEW), model.sample(3, progress=False, **_FEW))
    assert repr(again) == f"<DiT-64x1x2/4, 8x8x1, 10 classes, from {tmp_path}/model.keras>"


def test_an_export_draws_its_images(model, tmp_path):
    """Within a grey level: it is another program."""
    path = str(tmp_path / "dit" / "1")
    model.export(path, batch_sizes=[1, 2], **_FEW)
    draw = tf.saved_model.load(path).signatures["serving_default"]
    request = dict(label=tf.constant([3], tf.int64), seed=tf.constant([0], tf.int64), cfg_scale=tf.constant([1.0]))
    expected = model.sample(3, progress=False, **_FEW).astype(int)
    assert np.abs(draw(**request)["image"].numpy() - expected).max() <= 1
    with pytest.raises(ValueError, match="--output must end in a version number"):
        model.export(str(tmp_path / "dit"))


def test_another_average_is_another_model(model):
    other = model.with_average(std=0.1)
    weights = [build.weights_digest(build.weights_of(m.network)) for m in (model, other)]
    assert weights[0] != weights[1] and other.config == model.config
    with pytest.raises(ValueError, match="--decay must be one that the training"):
        model.with_average(decay=0.5)


def test_latents_need_an_autoencoder_for_images_alone(tmp_path):
    config = build.RunConfig(model="DiT-16x1x1/2", codec="vae", image_size=16, channels=3, num_classes=10)
    path = tmp_path / "latents.keras"
    build.save_model(str(path), config, build.numbered(10), build.weights_of(build.make_model(config)))
    model = dit_tf.load(path)
    assert model.denoise(np.zeros((1, 2, 2, 4), np.float32), 5, [1]).shape == (1, 2, 2, 8)
    for call in (lambda: model.sample(1), lambda: model.encode(np.zeros((1, 16, 16, 3), np.uint8))):
        with pytest.raises(ValueError, match="autoencoder of this model's latents: load it with vae='sd-vae-ft-ema'"):
            call()
    autoencoder_file.save(str(tmp_path / "vae.keras"), AutoencoderKL(width=32), {})
    model = dit_tf.load(path, vae=str(tmp_path / "vae.keras"))
    assert model.sample(1, progress=False, sampler="ddim", num_steps=1).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("source, message", [
    ("nowhere", "nowhere holds no checkpoint: a work directory of dit_tf.train or a .keras file is needed"),
    ("sd-vae-ft-ema", "sd-vae-ft-ema is an autoencoder, which goes to vae=: a model is needed here"),
])  # fmt: skip
def test_what_is_no_model_is_one_sentence(source, message):
    with pytest.raises(ValueError, match=message):
        dit_tf.load(source)


def test_a_published_name_is_fetched_and_read(monkeypatch, tmp_path):
    """The golden weights in the place of the published file."""
    with np.load(pathlib.Path(__file__).parent / "goldens/dit/tiny_bare.npz") as arrays:
        write_torch(tmp_path / "DiT-XL-2-256x256.pt", dict(arrays))
    monkeypatch.setattr(loading, "fetch_published", lambda name: str(tmp_path / "DiT-XL-2-256x256.pt"))
    monkeypatch.setattr(loading, "Told", lambda: loading.network_of.__globals__["Told"](num_heads=4))
    monkeypatch.setattr(loading.autoencoder_file, "load_for", lambda config, vae: None)
    model = dit_tf.load("dit-xl-2-256")
    assert model.config.model == "DiT-64x2x4/2" and model.source == "dit-xl-2-256" and len(model.classes) == 10
