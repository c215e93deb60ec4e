"""`python -m dit_tf.encode --from_latents`: a training on other programs' latents has the x that those have."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import autoencoder_file, build, encode, flags, train
from dit_tf.data.class_names import imagenet, numbered
from dit_tf.data.latent_records import LatentSource, check_shard
from dit_tf.data.pipeline import examples_in_order
from dit_tf.encode_latents import normalised
from dit_tf.latent_scale import LatentScale
from dit_tf.models.codec import tensors, to_uint8
from dit_tf.pretrained.torch_pickle import write_torch
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.train_options import run_config
from tests import foreign_latents as theirs
from tests.damaged_bytes import damaged

# x of order 1 to 4, in float32: divided by a factor and multiplied again, each to 2^-24 of it, beside a draw from the
# posterior, whose deviation exp(-15) = 3e-7 in z is 6e-8 in x. Another scale or order of images differs by 1e-1.
_FLOAT32 = dict(rtol=1e-6, atol=1e-6)


@pytest.fixture
def copy(parse, tmp_path):
    """copy(directory, flag, ...) -> tmp_path / "latents" after `encode --from_latents`, four images a file."""

    def copied(directory, *more, output="latents"):
        flagged = [f"--from_latents={directory}", f"--output={tmp_path / output}", "--examples_per_shard=4", *more]
        encode.main(parse(flags.define_encode, *flagged))
        return tmp_path / output

    return copied


@pytest.fixture(scope="module")
def fast_dit(tmp_path_factory):
    return theirs.write_fast_dit(tmp_path_factory.mktemp("fast_dit"))


@pytest.fixture(scope="module")
def lightning_dit(tmp_path_factory):
    return theirs.write_lightning_dit(tmp_path_factory.mktemp("lightning_dit") / "latents")


@pytest.fixture
def trained_on(parse):
    """trained_on(directory, mirror) -> (x (N, 4, h, h) as training has it, labels, keys)."""

    def read(directory, mirror=False):
        source = LatentSource(str(directory))
        spec = source.spec("train")
        config = run_config(parse(flags.define_train, f"--dataset=latents:{directory}"), spec, None)
        size = dict(image_size=spec.image_size, batch_size=spec.num_examples)
        ((moments, labels, keys),) = examples_in_order(source, "train", mirror=mirror, **size)
        seeds = RowSeeds(3, tf.range(spec.num_examples))
        x = build.make_codec(config).encode((), tf.constant(moments), seeds)
        return x.numpy().transpose(0, 3, 1, 2), labels, keys

    return read


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_x_is_that_of_fast_dit(copy, trained_on, fast_dit):
    directory = copy(fast_dit)
    x, labels, keys = trained_on(directory)
    files = [np.load(fast_dit / "imagenet256_features" / f"{i}.npy") for i in range(theirs.COUNT)]
    np.testing.assert_allclose(x, np.concatenate(files), **_FLOAT32)
    np.testing.assert_array_equal(labels, theirs.LABELS)
    assert list(keys) == [b"%d.npy" % i for i in range(theirs.COUNT)]
    spec = LatentSource(str(directory)).latents
    assert (spec.image_size, spec.mirrored, spec.moments_dtype, spec.vae_sha256) == (16, False, "float32", "")
    assert (spec.classes, spec.latent_scale) == (numbered(7), LatentScale(0.18215))
    for shard in range(3):
        check_shard(str(directory), spec, shard)


def test_another_factor_of_fast_dit_is_taken_out_of_what_is_stored(copy, trained_on, fast_dit):
    directory = copy(fast_dit, "--scaling_factor=0.5")
    np.testing.assert_allclose(trained_on(directory)[0], theirs.Z * np.float32(0.18215), **_FLOAT32)
    source = LatentSource(str(directory))
    ((moments, _, _),) = examples_in_order(source, "train", image_size=16, batch_size=theirs.COUNT)
    np.testing.assert_allclose(moments[..., :4].transpose(0, 3, 1, 2), theirs.Z * (0.18215 / 0.5), rtol=1e-6)
    assert (moments[..., 4:] == -30.0).all()


@pytest.mark.parametrize("multiplier", [None, 0.18215])
def test_x_is_that_of_lightning_dit_and_so_is_that_of_mirror_images(copy, trained_on, lightning_dit, multiplier):
    directory = copy(lightning_dit, *([f"--scaling_factor={multiplier}"] if multiplier else []))
    for mirror, z in enumerate((theirs.Z, theirs.FLIPS)):
        x, labels, keys = trained_on(directory, mirror=bool(mirror))
        np.testing.assert_allclose(x, theirs.normalised(z, multiplier or 1.0), **_FLOAT32)
        np.testing.assert_array_equal(labels, theirs.LABELS)
    assert [keys[0], keys[6]] == [f"{theirs.shard_name(rank, 0)}/0".encode() for rank in (0, 1)]
    assert len(set(keys)) == theirs.COUNT


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_latents_of_16_bits_are_those_values(copy, trained_on, tmp_path, dtype):
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    directory = copy(theirs.write_lightning_dit(tmp_path / "16", dtype=dtype))
    expected = theirs.normalised(theirs.Z.astype(dtype).astype(np.float32))
    np.testing.assert_allclose(trained_on(directory)[0], expected, **_FLOAT32)


def test_without_statistics_their_scale_is_assumed_and_said(copy, trained_on, tmp_path, capsys):
    directory = copy(theirs.write_lightning_dit(tmp_path / "plain", flips=None, statistics=None))
    np.testing.assert_allclose(trained_on(directory)[0], theirs.Z * np.float32(0.18215), **_FLOAT32)
    assert "has no latents_stats.pt: scaling_factor 0.18215, Stable Diffusion's, is assumed" in capsys.readouterr().out
    assert not LatentSource(str(directory)).latents.mirrored
    directory = copy(tmp_path / "plain", "--scaling_factor=0.25", output="quarter")
    np.testing.assert_allclose(trained_on(directory)[0], theirs.Z / 4, **_FLOAT32)
    assert "assumed" not in capsys.readouterr().out


def test_mirror_images_and_precision_may_be_left_out(copy, trained_on, lightning_dit):
    directory = copy(lightning_dit, "--horizontal_flip=false", "--moments_dtype=bfloat16")
    spec = LatentSource(str(directory)).latents
    assert (spec.mirrored, spec.moments_dtype) == (False, "bfloat16")
    x, expected = trained_on(directory)[0], theirs.normalised(theirs.Z)
    assert 1e-4 < np.abs(x - expected).max() < 2.0**-9 * 30 / 4  # z below 30 to half of bfloat16's 8 bits, std above 4


def test_a_thousand_classes_are_imagenets_and_one_is_none(copy, tmp_path):
    directory = theirs.write_fast_dit(tmp_path / "found", prefix="", z=theirs.Z[:2])
    np.save(directory / "labels" / "1.npy", np.array([999]))
    assert LatentSource(str(copy(directory))).latents.classes == imagenet()
    np.save(directory / "labels" / "1.npy", np.array([0]))
    assert LatentSource(str(copy(directory, output="one"))).latents.classes.names == ("",)


def test_a_run_goes_on_at_any_missing_file(copy, lightning_dit, capsys):
    directory = copy(lightning_dit)
    assert "11 images, each with its mirror image: " in capsys.readouterr().out
    unbroken = contents(directory)
    names = [name for name in unbroken if name.endswith(".tfrecord")]
    assert len(names) == 3 and len(unbroken) == 4
    for missing in ([], [0], [1, 2], [0, 2]):
        for shard in missing:
            (directory / names[shard]).rename(directory / f"unfinished-1-{names[shard]}")
        untouched = {name: (directory / name).stat().st_mtime_ns for name in contents(directory) if name in names}
        copy(lightning_dit)
        assert contents(directory) == unbroken
        assert all((directory / name).stat().st_mtime_ns == time for name, time in untouched.items())


def test_other_latents_are_refused_unless_they_were_mended(copy, fast_dit, lightning_dit, tmp_path):
    found = tmp_path / "found"
    shutil.copytree(fast_dit, found)
    directory = copy(found)
    before = contents(directory)
    np.save(found / "imagenet256_features" / "5.npy", np.ones((1, 4, 2, 2), np.float32))  # of the same size in bytes
    with pytest.raises(ValueError, match="holds other latents .data_digest is .*--allow_new_data where an image was"):
        copy(found)
    with pytest.raises(ValueError, match="other latents .*dataset is latents of LightningDiT here and latents of fast"):
        copy(lightning_dit)
    with pytest.raises(ValueError, match="scaling_factor is 0.5 here and 0.18215 there"):
        copy(found, "--scaling_factor=0.5")
    assert contents(directory) == before
    (directory / "latents-00001-of-00003.tfrecord").unlink()
    after = contents(copy(found, "--allow_new_data"))
    assert {name for name in before if before[name] != after[name]} == {"spec.json", "latents-00001-of-00003.tfrecord"}


def test_an_autoencoder_is_recorded_and_another_is_refused(copy, fast_dit, vae_file, parse, tmp_path):
    directory = copy(fast_dit, f"--vae={vae_file}")
    vae = autoencoder_file.load(str(vae_file))
    assert LatentSource(str(directory)).latents.vae_sha256 == vae.encoder_sha256()
    bias, other = vae.by_name["encoder/conv_in/bias"], str(tmp_path / "other.keras")
    bias.assign(bias + 1)
    autoencoder_file.save(other, vae, {})
    options = [f"--dataset=latents:{directory}", f"--workdir={tmp_path / 'run'}", "--model=DiT-16x1x1/1"]
    with pytest.raises(ValueError, match="other.keras has another encoder"):
        train.main(parse(flags.define_train, *options, f"--vae={other}"))
    vae.latent_scale = LatentScale(0.13025)
    autoencoder_file.save(other, vae, {})
    with pytest.raises(ValueError, match="has latents of scaling_factor 0.13025, these have scaling_factor 0.18215"):
        copy(fast_dit, f"--vae={other}", output="again")
    plain = theirs.write_lightning_dit(tmp_path / "plain", statistics=None)
    assert LatentSource(str(copy(plain, f"--vae={other}", output="xl"))).latents.latent_scale == LatentScale(0.13025)


def test_a_model_is_trained_on_them_and_drawn_with_any_autoencoder(copy, lightning_dit, vae_file, parse, tmp_path):
    """Statistics of latents say nothing of the autoencoder, which is not known here."""
    directory, workdir = copy(lightning_dit), tmp_path / "run"
    options = [f"--dataset=latents:{directory}", f"--workdir={workdir}", "--model=DiT-16x1x1/1", "--xla=false"]
    options += ["--global_batch_size=4", "--steps_per_execution=2", "--checkpoint_every=2", "--log_every=2"]
    train.main(parse(flags.define_train, *options, "--train_steps=2", "--sample_every=0"))
    config = build.load_config(str(workdir))
    assert (config.codec, config.image_size, config.num_classes, config.vae_sha256) == ("vae", 16, 7, "")
    assert config.horizontal_flip and config.latents_std == (5.0, 5.5, 4.25, 6.0) and config.scaling_factor == 1.0
    (line,) = map(json.loads, open(workdir / "metrics.jsonl"))
    assert line["step"] == 2 and np.isfinite(line["loss"])
    # --vae changes nothing of what the run is: it goes on.
    train.main(parse(flags.define_train, *options, "--train_steps=2", "--sample_every=0", f"--vae={vae_file}"))
    codec = build.make_codec(config, autoencoder_file.load_for(config, str(vae_file)))
    x, z = (array[:1].transpose(0, 2, 3, 1) for array in (theirs.normalised(theirs.Z), theirs.Z))
    images = codec.decode(tensors(codec.decoder_variables), tf.constant(x)).numpy().astype(int)
    assert np.abs(images - to_uint8(codec.vae.decode(z)).numpy()).max() <= 1  # x may round to the next grey level


@pytest.mark.parametrize(
    "kind, flag, said",
    [
        ("fast", "--dataset=digits", "--dataset does not go with --from_latents, whose images another program read"),
        ("fast", "--crop=fast", "--crop does not go with --from_latents"),
        ("fast", "--image_size=32", "--image_size of .* must be 16, got 32"),
        ("fast", "--horizontal_flip", "--horizontal_flip must be false: .* has no latents of mirror images"),
        ("fast", "--scaling_factor=-1", "--scaling_factor must be positive, got -1.0"),
        ("lightning", "--scaling_factor=0", "--scaling_factor must be positive, got 0.0"),
        ("lightning", "--moments_dtype=float16", "--moments_dtype must be one of bfloat16, float32, got 'float16'"),
        ("lightning", "--output=", "--output must be given"),
        ("lightning", "--from_latents=nowhere", "--from_latents=nowhere must be a directory that is there"),
    ],
)
def test_flags_that_do_not_fit_are_told_before_anything_is_written(request, copy, tmp_path, kind, flag, said):
    with pytest.raises(ValueError, match=said):
        copy(request.getfixturevalue(f"{kind}_dit"), flag)
    assert not (tmp_path / "latents").exists()


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(mean=np.zeros((1, 32, 1, 1))), r"mean must have the shape \(1, 4, 1, 1\), got \(1, 32, 1, 1\)"),
        (dict(std=np.zeros((1, 4, 1, 1))), "latents_std must be positive"),
        (dict(mean=np.full((1, 4, 1, 1), np.nan)), "latents_mean must be finite"),
        (dict(std=[1.0, 1.0, 1.0, 1.0]), r"std must have the shape \(1, 4, 1, 1\), got \(4,\)"),
        (None, "it must hold a dictionary of mean and std"),
    ],
)
def test_statistics_that_do_not_fit_are_named(copy, tmp_path, change, said):
    statistics = {"mean": np.zeros((1, 4, 1, 1))} if change is None else theirs.STATISTICS | change
    directory = theirs.write_lightning_dit(tmp_path / "found", statistics=statistics)
    with pytest.raises(ValueError, match=f"^--from_latents: .*latents_stats.pt cannot be used: {said}[^\n]*$"):
        copy(directory)
    assert not (tmp_path / "latents").exists()


def test_damaged_statistics_are_named_or_finite(tmp_path):
    path, rng, named = tmp_path / "latents_stats.pt", np.random.default_rng(1), 0
    write_torch(path, theirs.STATISTICS)
    intact = path.read_bytes()
    for k in range(60):
        path.write_bytes(damaged(intact, k, rng))
        try:
            scale = normalised(LatentScale(1.0), str(path))
        except ValueError as error:
            assert path.name in str(error) and "\n" not in str(error)
            named += 1
        else:
            assert np.isfinite(scale.offset).all() and (np.array(scale.factor) > 0).all()
    assert named > 20
