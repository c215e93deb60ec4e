"""launch/flags: every preset parses, is the model of its name, and says the paper's number and costs in its header."""

import pathlib
import re

import pytest

from dit_tf import build, flags, train_options
from dit_tf.config import RunConfig
from dit_tf.data.class_names import imagenet
from dit_tf.data.source import DatasetSpec
from dit_tf.latent_scale import LatentScale
from dit_tf.preflight.analysis import counts_of

_FLAGS = pathlib.Path(__file__).parents[1] / "launch" / "flags"
_PRESETS = sorted(path.stem for path in _FLAGS.glob("?it-*-imagenet*.flags"))
# FID-50K without guidance after 400k steps: Peebles and Xie 2023, table 4.
_FID = {
    "s-8": 153.60, "s-4": 100.41, "s-2": 68.40, "b-8": 122.74, "b-4": 68.38, "b-2": 43.47,
    "l-8": 118.87, "l-4": 45.64, "l-2": 23.33, "xl-8": 106.41, "xl-4": 43.01, "xl-2": 19.47,
}  # fmt: skip
_IMAGENET = DatasetSpec(1281167, None, 3, imagenet(), True)


def header(name):
    lines = (_FLAGS / f"{name}.flags").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))


def config_of(parse, name):
    """As train resolves it, with the latents of ImageNet in the place of the images."""
    options = parse(flags.define_train, f"--flagfile={_FLAGS / name}.flags", "--dataset=latents:somewhere")
    train_options.check_intervals(options)
    size = int(re.search(r"imagenet(\d+)", name)[1])
    spec = DatasetSpec(1281167, size, 3, imagenet(), True, vae_sha256="0" * 64, latent_scale=LatentScale())
    return train_options.run_config(options, spec, None), options


def test_there_is_a_preset_for_every_row():
    rows = {f"dit-{row}-imagenet256" for row in _FID}
    assert set(_PRESETS) == rows | {"dit-xl-2-imagenet512", "sit-xl-2-imagenet256"}


@pytest.mark.parametrize("name", _PRESETS)
def test_a_preset_is_the_papers_recipe_for_the_model_of_its_name(parse, name):
    config, options = config_of(parse, name)
    family, size, patch = re.match(r"(dit|sit)-(\w+)-(\d)-", name).groups()
    assert config.model == f"{family.replace('it', 'iT').replace('d', 'D').replace('s', 'S')}-{size.upper()}/{patch}"
    assert (config.global_batch_size, config.learning_rate, config.weight_decay) == (256, 1e-4, 0.0)
    assert (config.ema_decay, config.class_dropout_prob, config.horizontal_flip) == (0.9999, 0.1, True)
    assert (config.objective, config.learn_sigma) == ("ddpm" if family == "dit" else "flow", True)
    assert build.make_codec(config).input_size == (config.image_size // 8,) * 2
    assert options.train_steps >= 400_000


@pytest.mark.parametrize("name", _PRESETS)
def test_the_header_has_the_papers_costs(parse, name):
    config, _ = config_of(parse, name)
    parameters, _, macs = counts_of(config)
    millions, paper = re.search(r"(\d+) M parameters, ([\d.]+) G", header(name)).groups()
    assert round(parameters / 1e6) == int(millions)
    assert abs(macs / 1e9 - float(paper)) <= 0.005 + 2e-4 * float(paper)  # as in costs_test


@pytest.mark.parametrize("row, fid", _FID.items())
def test_the_header_has_the_papers_number(row, fid):
    assert f"FID-50K {fid:.2f} after 400k steps, without guidance" in header(f"dit-{row}-imagenet256")


@pytest.mark.parametrize("name", _PRESETS)
def test_the_header_has_commands_that_parse(parse, name):
    encode, begin = re.findall(r"python -m dit_tf\.(\w+) (.*?)(?= python|$)", header(name))
    assert (encode[0], begin[0]) == ("encode", "train") and f"launch/flags/{name}.flags" in begin[1]
    parse(flags.define_encode, *encode[1].split())
    parse(flags.define_train, *(flag for flag in begin[1].split() if not flag.startswith("--flagfile")))


def test_images_without_an_autoencoder_are_diffused_as_pixels(parse):
    options = parse(flags.define_train, f"--flagfile={_FLAGS / 'dit-s-2-imagenet256'}.flags", "--vae=")
    assert train_options.run_config(options, _IMAGENET, None) == RunConfig(
        **vars(RunConfig()) | dict(
            dataset="imagenet2012", image_size=256, channels=3, num_classes=1000, horizontal_flip=True, model="DiT-S/2"
        )
    )  # fmt: skip
