"""`python -m dit_tf.convert`: what comes out computes what the public programs compute, and goes back bit for bit."""

import hashlib
import json
import os
import pathlib

import numpy as np
import pytest

from dit_tf import autoencoder_file, build, convert, flags
from dit_tf.data.class_names import imagenet, numbered
from dit_tf.models.costs import abstract
from dit_tf.models.dit import DiT, name_of
from dit_tf.models.embeddings import sincos_position_table
from dit_tf.pretrained import published, vae_map
from dit_tf.pretrained.dit_map import to_official
from dit_tf.pretrained.published import PUBLISHED
from dit_tf.pretrained.torch_pickle import read_torch, write_torch
from dit_tf.pretrained.vae_map import LAYOUTS
from dit_tf.pretrained.vae_map import weight_map as weight_map_of_vae
from dit_tf.runtime import model_file

_GOLDENS = pathlib.Path(__file__).parents[0] / "goldens"
_FLOAT32 = dict(rtol=0, atol=2e-5)  # the project's figure; the public model is up to 4e-6 from its own float64 run


def arrays_of(path, part=""):
    with np.load(_GOLDENS / path) as arrays:
        return {name.removeprefix(part): arrays[name] for name in arrays if name.startswith(part)}


@pytest.fixture(scope="module")
def state():
    return arrays_of("dit/tiny_bare.npz")


@pytest.fixture
def run(parse, tmp_path):
    """run(source, flag, ...) -> the path of what was written."""

    def converted(source, *more, output="out.keras"):
        convert.main(parse(flags.define_convert, f"--source={source}", f"--output={tmp_path / output}", *more))
        return str(tmp_path / output)

    return converted


@pytest.fixture
def written(tmp_path):
    """written(content) -> the path of a .pt file of it."""

    def write(content, name="source.pt"):
        write_torch(tmp_path / name, content)
        return str(tmp_path / name)

    return write


def forward(model, arrays, names=("x", "t", "y")):
    x, t, y = (arrays[name] for name in names)
    return np.moveaxis(np.asarray(model((np.moveaxis(x, 1, -1), t, y))), -1, 1)


@pytest.fixture(scope="module")
def converted(tmp_path_factory, parse, state):
    """The bare golden weights as the command writes them."""
    directory = tmp_path_factory.mktemp("converted")
    write_torch(directory / "bare.pt", state)
    source, output = f"--source={directory / 'bare.pt'}", f"--output={directory / 'dit.keras'}"
    convert.main(parse(flags.define_convert, source, output, "--num_heads=4", "--codec=vae"))
    return str(directory / "dit.keras")


def assert_equal_bits(found, expected):
    assert list(found) == list(expected)
    assert all(found[name].dtype == a.dtype and found[name].tobytes() == a.tobytes() for name, a in expected.items())


# Golden weights


def test_bare_weights_compute_what_dit_computes(converted):
    arrays = arrays_of("dit/tiny_forward.npz")
    np.testing.assert_allclose(forward(build.load_model(converted), arrays), arrays["out"], **_FLOAT32)


def test_they_go_back_bit_for_bit(run, converted, state):
    assert_equal_bits(read_torch(run(converted, output="back.pt")), state)


@pytest.mark.parametrize("flag, part", [("--ema=true", "ema"), ("--ema=false", "model")])
def test_a_training_checkpoint_gives_its_average_or_its_raw_weights(run, written, flag, part):
    checkpoint = {name: arrays_of("dit/tiny_train_ckpt.npz", f"{name}/") for name in ("model", "ema")}
    source = written({**checkpoint, "opt": {"step": 2}, "args": {"lr": 1e-4}})
    model = run(source, "--num_heads=4", "--codec=vae", flag)
    assert json.loads(model_file.read_text(model, "provenance.json"))["part"] == part
    weights = read_torch(run(model, output="back.pt"))
    table = weights.pop("pos_embed")
    drift = np.abs(table - checkpoint[part].pop("pos_embed")).max()
    assert drift < 1e-6  # an average of equal numbers is rounded; ours is the table itself
    assert_equal_bits(weights, checkpoint[part])


def test_diffusers_files_compute_what_dit_computes(run):
    """Heads, classes and size are in config.json, which lies beside the file too."""
    arrays = arrays_of("hf_dit/io.npz")
    for source in ("hf_dit", "hf_dit/diffusion_pytorch_model.safetensors"):
        model = build.load_model(run(_GOLDENS / source))
        np.testing.assert_allclose(forward(model, arrays), arrays["out_official"], **_FLOAT32)


def test_the_weights_of_a_sit_compute_what_sit_computes(run, written, state):
    """Of the doubled channels it drops the second half; times are in [0, 1]."""
    path = run(written(state), "--num_heads=4", "--codec=vae", "--objective=flow", "--path=gvp")
    config, arrays = build.load_config(path), arrays_of("dit/tiny_sit_forward.npz")
    assert (config.model, config.objective, config.path) == ("SiT-64x2x4/2", "flow", "gvp")
    out = forward(build.load_model(path), arrays)[:, :4]
    np.testing.assert_allclose(out, arrays["out"], **_FLOAT32)


# What travels with them


def test_the_configuration_is_that_of_the_public_training(converted, tmp_path):
    config = build.load_config(converted)
    assert config.to_json() == model_file.read_text(converted, "run.json")
    found = {name: getattr(config, name) for name in ("model", "image_size", "channels", "codec", "crop", "objective")}
    assert found == dict(
        model="DiT-64x2x4/2", image_size=64, channels=3, codec="vae", crop="pil", objective="ddpm"
    )  # fmt: skip
    assert (config.num_classes, config.class_dropout_prob, config.learn_sigma) == (10, 0.1, True)
    assert build.load_classes(converted) == numbered(10)
    provenance = json.loads(model_file.read_text(converted, "provenance.json"))
    source = pathlib.Path(provenance["source"])
    assert provenance["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert provenance["bytes"] == source.stat().st_size
    assert (provenance["layout"], provenance["part"]) == ("official", None)


def public_state(rows=1001, channels=4, out_channels=8, ratio=4, width=384, side=4):
    """The names and shapes of a DiT of one block, all zero."""
    shapes = dict(input_size=side, patch_size=2, in_channels=channels, width=width, depth=1, num_heads=6)
    model = abstract(lambda: DiT(**shapes, num_classes=rows - 1, mlp_ratio=ratio, learn_sigma=out_channels > channels))
    ours = {v.path.split("/", 1)[1]: np.zeros(v.shape, np.float32) for v in model.trainable_variables}
    return dict(to_official(ours, sincos_position_table((side // 2,) * 2, width), 2))


@pytest.mark.parametrize("shapes, flag, expected", [
    (dict(channels=3, out_channels=3), [], dict(codec="pixels", channels=3, image_size=4, learn_sigma=False)),
    (dict(channels=1, out_channels=2), [], dict(codec="pixels", channels=1, image_size=4, learn_sigma=True)),
    (dict(channels=2, out_channels=2), [], dict(codec="pixels", channels=2, image_size=4)),
    (dict(), ["--codec=pixels"], dict(codec="pixels", channels=4, image_size=4)),
    (dict(ratio=8 / 3), ["--codec=vae"], dict(model="DiT-384x1x6r2.67/2")),
    (dict(ratio=2.5), ["--codec=vae", "--scaling_factor=0.2"], dict(model="DiT-384x1x6r2.5/2", scaling_factor=0.2)),
    (dict(), ["--codec=vae"], dict(codec="vae", channels=3, image_size=32, dataset="imagenet2012", model="DiT-384x1x6/2")),
])  # fmt: skip
def test_channels_and_codec_tell_pixels_from_latents(run, written, shapes, flag, expected):
    path = run(written(public_state(**shapes)), *flag)
    config = build.load_config(path)
    assert {name: getattr(config, name) for name in expected} == expected
    assert build.load_classes(path) == imagenet() and build.load_model(path).null_label == 1000


def test_a_file_that_is_called_as_a_published_one_has_latents(run, written):
    config = build.load_config(run(written(public_state(), "DiT-XL-2-256x256.pt")))
    assert (config.codec, config.image_size) == ("vae", 32)


def test_the_table_names_what_it_has():
    assert name_of(1152, 28, 16, 2) == "DiT-XL/2" and name_of(1152, 28, 16, 2, family="SiT") == "SiT-XL/2"


def test_the_summary_says_what_it_is_and_what_to_type(run, written, state, capsys):
    path = run(written(state), "--num_heads=4", "--codec=vae")
    what, following = capsys.readouterr().out.splitlines()[-2:]
    assert what.startswith(
        f"{path}: DiT-64x2x4/2, 64x64 images (latents 8x8x4), 10 classes and a null class, ddpm, 0.2 M"
    )
    assert following == f"Next: python -m dit_tf.sample --weights={path} --vae=vae.keras --num_samples=4 --cfg_scale=4"


def test_a_work_directory_gives_its_averaged_weights(run, trained):
    found = read_torch(run(trained, output="digits.pt"))
    ours = {v.path.split("/", 1)[1]: v.numpy() for v in build.load_model(str(trained)).trainable_variables}
    np.testing.assert_array_equal(found["blocks.0.mlp.fc1.weight"], ours["block0/mlp/expand/kernel"].T)


@pytest.fixture(scope="module")
def autoencoder_arrays():
    """By our names, in half precision: random bits, none of them infinite; of a quarter of the published width."""
    shapes = {row.ours: row.shape for row in weight_map_of_vae(LAYOUTS[0], 32)}
    rng = np.random.default_rng(0)
    bits = {name: rng.integers(0, 2**16, shape, np.uint16) & 0xBBFF for name, shape in shapes.items()}
    return {name: b.view(np.float16) for name, b in bits.items()}


@pytest.fixture
def stable_diffusion(written, autoencoder_arrays):
    """CompVis' layout under its prefix, with the network and the text encoder beside it -> (path, arrays)."""
    arrays = {row.theirs: autoencoder_arrays[row.ours].reshape(row.shape) for row in weight_map_of_vae(LAYOUTS[3], 32)}
    others = {"model.diffusion_model.out.2.bias": np.zeros(4), "cond_stage_model.x": np.zeros(2), "betas": np.zeros(9)}
    return written({"state_dict": {**others, **arrays}, "global_step": 470000}, "sd-v1-4.ckpt"), arrays


def test_an_autoencoder_gets_its_weights_by_our_names(run, stable_diffusion, capsys):
    """Half precision is widened to float32, and each weight is in the file once."""
    source, arrays = stable_diffusion
    path = run(source)
    said = capsys.readouterr().out
    vae, expected = autoencoder_file.load(path), vae_map.convert(arrays)
    assumed, what, _ = said.splitlines()
    assert assumed.startswith(f"{source} does not say how its latents are scaled: scaling_factor 0.18215, Stable Diff")
    encoder = f"encoder {vae.encoder_sha256()[:16]}..., latents of scaling_factor 0.18215"
    assert what.startswith(f"{path}: autoencoder, {encoder}, from {source} (CompVis")
    for name, variable in vae.by_name.items():
        assert np.array_equal(variable.numpy(), np.float32(expected[name])), name
    assert json.loads(build.read_text(path, build.PROVENANCE))["layout"] == "CompVis, all of Stable Diffusion"
    assert os.path.getsize(path) < 1.05 * 4 * sum(a.size for a in arrays.values())  # 0.7 MB of names and shapes
    with pytest.raises(ValueError, match=f"{path} is an autoencoder"):
        build.load_model(path)
    with pytest.raises(ValueError, match="--objective goes with published DiT and SiT weights"):
        run(source, "--objective=ddpm")


# What is refused


@pytest.mark.parametrize("arguments, message", [
    ([], "--source and --output must be given"),
    (["--source=a.pt", "--output=a.h5"], "--output must end in .keras, or in .pt .*, got 'a.h5'"),
    (["--source=none.pt", "--output=a.keras"], "file, a directory or one of dit-xl-2-256, dit-xl-2-512, .* 'none.pt'"),
    (["--source=a.keras", "--output=b.keras"], "a model of dit_tf's own is written as .pt"),
    (["--source=a.pt", "--output=b.pt"], "published weights as .keras"),
    (["--source=a.pt", "--output=b.keras", "--num_heads=0"], "--num_heads must be at least 1, got 0"),
    (["--source=dit-xl-2-256", "--output=b.keras", "--objective=flow"], "dit-xl-2-256, which was trained with ddpm"),
    (["--source=sd-vae-ft-ema", "--output=b.keras", "--objective=flow"], "sd-vae-ft-ema, which is an autoencoder"),
    (["--source=none.keras", "--output=b.pt"], "none.keras holds no checkpoint"),
    (["--source=none.keras", "--output=b.pt", "--num_heads=4"], "--num_heads goes with published DiT and SiT weights"),
    (["--source=none.keras", "--output=b.pt", "--ema=false"], "--ema=false go with published weights"),
])  # fmt: skip
def test_flags_that_do_not_fit(parse, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        convert.main(parse(flags.define_convert, *arguments))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("shapes, flags, message", [
    (dict(), [], "4 channels may work on latents .* or on pixels .*: add --codec=vae or --codec=pixels"),
    (dict(channels=3, out_channels=3), ["--codec=vae"], "--codec=vae goes with networks of 4 channels, this one has 3"),
    (dict(), ["--codec=haar"], "--codec must be pixels or vae, got 'haar'"),
    (dict(ratio=2.2), ["--codec=vae"], "844 hidden units for a width of 384: they must have 1 to 8 times as many"),
    (dict(), ["--codec=vae", "--source_clock=noise_at_1"], "--source_clock goes with --objective=flow"),
    (dict(), ["--codec=vae", "--objective=flow", "--source_clock=up"], "--source_clock must be noise_at_0 or noise_at_1"),
    (dict(), ["--codec=pixels", "--scaling_factor=0.2"], "--scaling_factor goes with --codec=vae"),
    (dict(rows=1000), [], "The label table has 1000 rows: say by --num_classes"),
    (dict(), ["--input_size=6"], "--input_size=6x6 does not fit"),
    (dict(), ["--codec=vae", "--path=gvp"], "--path goes with --objective=flow"),
    (dict(), ["--codec=vae", "--objective=edm"], "--objective must be one of ddpm, flow"),
    (dict(), [f"--sha256={'0' * 64}"], "is not that of"),
])  # fmt: skip
def test_what_cannot_be_written_is_one_sentence_with_the_file(run, written, tmp_path, shapes, flags, message):
    source = written(public_state(**shapes))
    with pytest.raises(ValueError, match=message) as caught:
        run(source, *flags)
    assert source in str(caught.value) and os.listdir(tmp_path) == ["source.pt"]


def test_an_output_over_its_source_is_refused_and_another_is_replaced(run, parse, converted, state, written, tmp_path):
    source = written(state)
    with pytest.raises(ValueError, match="another file than --source"):
        convert.main(parse(flags.define_convert, f"--source={converted}", f"--output={converted}"))
    path = run(source, "--num_heads=4", "--codec=vae")
    before = pathlib.Path(path).read_bytes()
    assert pathlib.Path(run(source, "--num_heads=4", "--codec=vae")).read_bytes() == before  # the same input, the same bytes
    run(source, "--num_heads=4", "--codec=vae", "--objective=flow")
    assert pathlib.Path(path).read_bytes() != before and sorted(os.listdir(tmp_path)) == ["out.keras", "source.pt"]


def test_a_published_name_is_fetched_first(parse, tmp_path, monkeypatch, state, capsys):
    write_torch(tmp_path / "there.pt", state)
    row = PUBLISHED["sit-xl-2-256"]
    fetched = []

    def fetch(address, path, sha256):
        fetched.append((address, path, sha256))
        return str(tmp_path / "there.pt")

    monkeypatch.setattr(published, "download", fetch)
    arguments = ["--source=sit-xl-2-256", "--num_heads=4", "--codec=vae", f"--output={tmp_path / 'sit.keras'}"]
    convert.main(parse(flags.define_convert, *arguments, f"--download_dir={tmp_path}"))
    assert fetched == [(row.address, str(tmp_path / row.file), None)]
    assert build.load_config(str(tmp_path / "sit.keras")).objective == "flow"
    provenance = json.loads(model_file.read_text(tmp_path / "sit.keras", "provenance.json"))
    assert (provenance["source"], provenance["licence"]) == ("sit-xl-2-256", "MIT")
    assert capsys.readouterr().out.startswith("sit-xl-2-256: SiT-XL/2 for ImageNet at 256x256")
