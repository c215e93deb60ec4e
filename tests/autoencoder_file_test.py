"""How an autoencoder's latents are scaled follows them: from its file to stored latents, models and what they draw."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from dit_tf import autoencoder_file, build, convert, encode, flags
from dit_tf.config import RunConfig
from dit_tf.data import latent_spec
from dit_tf.data.class_names import numbered
from dit_tf.data.latent_records import LatentSource
from dit_tf.data.source import DatasetSpec
from dit_tf.latent_scale import LatentScale
from dit_tf.pretrained.vae_map import LAYOUTS, weight_map
from dit_tf.runtime import model_file
from dit_tf.train_options import run_config

XL = LatentScale(0.13025)
KL = {"_class_name": "AutoencoderKL"}
LISTS = dict(latents_mean=[0.0, 1.0, 2.0, 3.0], latents_std=[1.0, 2.0, 3.0, 4.0])


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """As diffusers writes it: names and shapes of Stable Diffusion's autoencoder at a quarter of its width."""
    path, rng = tmp_path_factory.mktemp("sdxl") / "vae", np.random.default_rng(0)
    path.mkdir()
    arrays = {row.theirs: np.float16(rng.normal(size=row.shape) / 20) for row in weight_map(LAYOUTS[0], 32)}
    save_file(arrays, path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps(KL | {"scaling_factor": 0.13025, "latents_mean": None}))
    return path


@pytest.mark.parametrize("config, path, name, scale", [
    (KL | {"scaling_factor": 0.13025}, "x.safetensors", "", XL),
    (KL, "x.safetensors", "", LatentScale()),  # diffusers' own default
    ({"scaling_factor": 1, **LISTS}, "x.safetensors", "", LatentScale(1.0, 0.0, *LISTS.values())),
    (KL | {"shift_factor": 0.1}, "x.safetensors", "", LatentScale(shift_factor=0.1)),
    ({}, "x.safetensors", "", None),
    ({"model_type": "bert"}, "x.safetensors", "", None),
    ({"_class_name": "Transformer", "scaling_factor": 3}, "x.safetensors", "", None),
    ({}, "/a/sdxl-vae.safetensors", "", XL),
    ({}, "x.safetensors", "sdxl-vae", XL),
    ({}, "/a/sd-vae-ft-mse.safetensors", "", LatentScale()),
    ({}, "x.pt", "dit-xl-2-256", None),
])  # fmt: skip
def test_who_says_what_the_scale_is(config, path, name, scale):
    assert autoencoder_file.scale_said(types.SimpleNamespace(config=config, path=path), name) == scale


@pytest.mark.parametrize("content, message", [
    (KL | {"scaling_factor": -1}, "scaling_factor must be positive, got -1"),
    (KL | {"latents_std": [1, 2]}, "latents_std must be 4 numbers"),
    ([], "config.json must hold an object, got a list"),
])  # fmt: skip
def test_a_scale_that_is_none_is_refused(directory, tmp_path, content, message):
    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        autoencoder_file.load(str(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_a_file_alone_says_what_it_assumes_and_a_flag_overrides_it(directory, tmp_path, capsys):
    bare = tmp_path / "vae.safetensors"
    bare.write_bytes((directory / "diffusion_pytorch_model.safetensors").read_bytes())
    vae = autoencoder_file.load(str(bare))
    assert vae.latent_scale is None and autoencoder_file.scale_or_assumed(vae, "vae.st") == LatentScale()
    assert capsys.readouterr().out == (
        "vae.st does not say how its latents are scaled: scaling_factor 0.18215, Stable Diffusion's, is assumed; "
        "--scaling_factor=S says another.\n"
    )
    assert autoencoder_file.load(str(bare), scaling_factor=0.2).latent_scale == LatentScale(0.2)


@pytest.fixture(scope="module")
def converted(directory, parse):
    path = directory.parent / "vae.keras"
    convert.main(parse(flags.define_convert, f"--source={directory}", f"--output={path}"))
    return path


def test_it_is_kept_with_the_autoencoder(converted, directory, parse, tmp_path):
    assert autoencoder_file.load(str(converted)).latent_scale == XL
    path = tmp_path / "vae.keras"
    arguments = [f"--source={directory}", f"--output={path}", "--scaling_factor=0.25"]
    convert.main(parse(flags.define_convert, *arguments))
    facts = json.loads(model_file.read_text(str(path), build.AUTOENCODER))
    assert LatentScale.of(facts) == LatentScale(0.25)


def test_latents_and_models_of_them_have_it(converted, parse, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), (9, 80, 200)).save(tmp_path / "photos" / "1.png")
    arguments = [f"--dataset=folder:{tmp_path}/photos", f"--vae={converted}", f"--output={tmp_path}/latents"]
    arguments += ["--image_size=8", "--batch_size=1", "--scaling_factor=0.5"]
    encode.main(parse(flags.define_encode, *arguments))
    scale = latent_spec.read(str(tmp_path / "latents")).latent_scale
    assert scale == LatentScale(0.5)
    assert encode.load_vae(parse(flags.define_encode, *arguments[:-1])).latent_scale == XL
    with pytest.raises(ValueError, match="scaling_factor is 0.7 here"):
        encode.main(parse(flags.define_encode, *arguments, "--scaling_factor=0.7"))
    spec = LatentSource(str(tmp_path / "latents")).spec("train")
    options = parse(flags.define_train, "--model=DiT-16x1x1/1")
    config = run_config(options, spec, None)
    assert config.latent_scale == scale and RunConfig.from_json(config.to_json()) == config
    assert build.make_codec(config).scale == scale
    options.scaling_factor = 0.9
    with pytest.raises(ValueError, match="--scaling_factor must be that of .*, scaling_factor .*, got 0.9"):
        run_config(options, spec, None)


def test_a_training_on_images_has_that_of_its_autoencoder(converted, parse):
    options, spec = parse(flags.define_train), DatasetSpec(9, 8, 3, numbered(2), horizontal_flip=True)
    assert run_config(options, spec, autoencoder_file.load(str(converted))).latent_scale == XL
    options.scaling_factor = 0.3
    with pytest.raises(ValueError, match="--scaling_factor goes with --vae, got 0.3 without it"):
        run_config(options, spec, None)


def test_another_autoencoder_than_the_models_is_refused(converted):
    vae = autoencoder_file.load(str(converted))
    config = RunConfig(codec="vae", channels=3)
    with pytest.raises(ValueError, match="latents of scaling_factor 0.13025, the model's have scaling_factor 0.18215"):
        autoencoder_file.load_for(config, str(converted))
    known = dataclasses.replace(config, vae_sha256=vae.encoder_sha256())  # it was trained so, whatever the file says
    assert autoencoder_file.load_for(known, str(converted)).encoder_sha256() == known.vae_sha256
    assert autoencoder_file.load_for(dataclasses.replace(config, scaling_factor=0.13025), str(converted)) is not None
    assert autoencoder_file.load_for(config, None) is None
    by_data = dataclasses.replace(config, scaling_factor=1.0, **LISTS)  # which says nothing about the autoencoder
    assert autoencoder_file.load_for(by_data, str(converted)) is not None


def test_files_of_before_are_as_they_were():
    """A usual scale adds nothing to spec.json, by whose digest runs know their latents."""
    from tests.data.latents import SPEC

    fields = json.loads(SPEC.to_json())
    assert SPEC.latent_scale == LatentScale() and not {"shift_factor", "latents_mean"} & fields.keys()
    rare = dataclasses.replace(SPEC, latents_mean=(1.0, 2.0, 3.0, 4.0))
    assert latent_spec.LatentSpec.from_json(rare.to_json()) == rare and rare.digest() != SPEC.digest()
    assert SPEC.digest() == "d9de9fae64bb8ea4a4f840c1b32b5cba56783b205f640d1567d44ce8d0f6d7c3"
