"""`python -m dit_tf.encode`: moments of images and of their mirror images, in files that no interruption changes."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dit_tf import autoencoder_file, build, encode, flags
from dit_tf.data.latent_records import LatentSource, check_shard
from dit_tf.data.pipeline import examples_in_order, open_dataset
from dit_tf.latent_scale import LatentScale
from dit_tf.models.codec import VaeCodec
from tests.commands import Command

_SIDE, _IMAGES, _PER_SHARD = 24, 46, 10


@pytest.fixture(scope="session")
def vae(vae_file):
    return autoencoder_file.load(str(vae_file))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 46 PNGs of many sizes in three classes: noise, a slope and a grey level each."""
    directory, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(_IMAGES):
        image = rng.integers(0, 100, (_SIDE + i % 3, _SIDE + i % 5, 3))
        image[:, : _SIDE // 2] += 3 * i
        (directory / f"class{i % 3}").mkdir(exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(directory / f"class{i % 3}" / f"{i:03d}.png")
    return directory


def arguments(photos, vae, output, *more):
    return [
        f"--dataset=folder:{photos}", f"--vae={vae}", f"--output={output}", f"--image_size={_SIDE}",
        f"--examples_per_shard={_PER_SHARD}", "--batch_size=4", *more,
    ]  # fmt: skip


def contents(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_batches_end_with_their_shard():
    records = ((np.full(2, i), i, b"%d" % i) for i in range(9))
    shards = [[labels for _, labels, _ in encode.batches_of(records, count, 3)] for count in (4, 4, 1)]
    assert shards == [[(0, 1, 2), (3,)], [(4, 5, 6), (7,)], [(8,)]]
    with pytest.raises(ValueError, match="--dataset has fewer images than it says"):
        list(encode.batches_of(iter(()), 1, 3))


class _MeanColour:
    """Stands in for the autoencoder where its numbers do not matter; moments depend on the batch they are made in."""

    def __init__(self, seconds=0.0):
        self.calls, self.seconds = 0, seconds  # a batch

    def encoder_sha256(self):
        return "12" * 32

    latent_scale = LatentScale(0.5)

    def variables_of(self, side):
        return []

    def load_vae(self, options):
        return self

    def make_encoder(self, codec, spec, strategy):
        def encode(weights, images):
            self.calls += 1
            time.sleep(self.seconds)
            colour = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2, 3], keepdims=True)
            moments = tf.tile(colour + tf.reduce_mean(colour), (1, *spec.moments_shape))
            return [tf.cast(moments, spec.moments_dtype), tf.cast(-moments, spec.moments_dtype)][: 1 + spec.mirrored]

        return encode


@pytest.fixture
def run(parse, monkeypatch, tmp_path):
    """run(photos, flag, ...) encodes into tmp_path / "latents" without an autoencoder -> that directory."""
    stand_in = _MeanColour()
    for name in ("load_vae", "make_encoder"):
        monkeypatch.setattr(encode, name, getattr(stand_in, name))

    def encoded(photos, *more, output="latents"):
        stand_in.calls = 0
        encode.main(parse(flags.define_encode, *arguments(photos, "vae.keras", tmp_path / output, *more)))
        return tmp_path / output

    encoded.stand_in = stand_in
    return encoded


def test_a_run_goes_on_at_any_missing_shard(run, photos, capsys):
    directory = run(photos)
    unbroken = contents(directory)
    assert "46 images, each with its mirror image: " in capsys.readouterr().out
    assert run.stand_in.calls == 14  # batches of 4, 4 and 2 four times, and of 4 and 2
    names = [name for name in unbroken if name.endswith(".tfrecord")]
    assert len(names) == 5 and names[1] == "latents-00001-of-00005.tfrecord"
    for missing in ([], [0], [4], [1, 2], [0, 2, 4]):
        for shard in missing:
            (directory / names[shard]).rename(directory / f"unfinished-1-{names[shard]}")
        run(photos)
        assert contents(directory) == unbroken
        assert run.stand_in.calls == sum(2 if shard == 4 else 3 for shard in missing)
    assert f"--dataset=latents:{directory}" in capsys.readouterr().out


def test_every_image_is_there_once_with_its_label(run, photos):
    source = LatentSource(str(run(photos)))
    ((_, labels, keys),) = examples_in_order(source, "train", image_size=_SIDE, batch_size=_IMAGES)
    assert sorted(keys) == sorted(str(path.relative_to(photos)).encode() for path in photos.glob("*/*.png"))
    assert [source.latents.classes.names[label].encode() for label in labels] == [os.path.dirname(key) for key in keys]


def test_mirrors_may_be_left_out(run, photos):
    directory = run(photos, "--horizontal_flip=false", "--moments_dtype=float32")
    spec = LatentSource(str(directory)).latents
    assert (spec.mirrored, spec.moments_dtype) == (False, "float32")
    check_shard(str(directory), spec, 4)


def test_a_damaged_image_is_named_and_finished_shards_stay(run, photos, tmp_path):
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    unbroken = contents(run(copy, output="unbroken"))
    names = sorted(copy.glob("*/*.png"))
    intact = names[25].read_bytes()
    names[25].write_bytes(intact[:60])
    with pytest.raises(ValueError, match=f"{names[25].name} cannot be read"):
        run(copy)
    there = contents(tmp_path / "latents")
    assert sorted(there) == [f"latents-0000{i}-of-00005.tfrecord" for i in range(2)] + ["spec.json"]
    names[25].write_bytes(intact)
    with pytest.raises(ValueError, match="data_digest is .* here and .* there.*--allow_new_data where an image was"):
        run(copy)
    assert contents(run(copy, "--allow_new_data")) == unbroken


def test_a_directory_of_other_latents_is_refused(run, photos):
    directory = run(photos)
    with pytest.raises(ValueError, match="holds other latents .examples_per_shard is 7 here and 10 there.: repeat the"):
        run(photos, "--examples_per_shard=7")
    (directory / "spec.json").unlink()
    with pytest.raises(ValueError, match="holds latents but no spec.json; give another directory"):
        run(photos)


@pytest.mark.parametrize(
    "flag, said",
    [
        ("--vae=", "--vae must be given"),
        ("--output=", "--output must be given"),
        ("--crop=wide", "--crop must be one of fast, pil, got 'wide'"),
        ("--precision=half", "--precision must be one of float32, bfloat16, got 'half'"),
        ("--moments_dtype=float16", "--moments_dtype must be one of bfloat16, float32, got 'float16'"),
        ("--scaling_factor=-1", "--scaling_factor must be positive, got -1.0"),
        ("--examples_per_shard=0", "--examples_per_shard must be at least 1, got 0"),
        ("--batch_size=0", "--batch_size must be a positive multiple"),
        ("--image_size=20", "--image_size must be divisible by 8"),
        ("--image_size=0", "--image_size must be at least 1, got 0"),
        ("--split=test", "--split must be train"),
    ],
)
def test_bad_flags_are_told_before_the_autoencoder_is_read(parse, monkeypatch, photos, tmp_path, flag, said):
    monkeypatch.setattr(encode, "load_vae", lambda *_: pytest.fail("must be refused before"))
    options = parse(flags.define_encode, *arguments(photos, "vae.keras", tmp_path / "latents", flag))
    with pytest.raises(ValueError, match=said):
        encode.main(options)
    assert not (tmp_path / "latents").exists()


def test_grey_images_and_latents_are_refused(run, photos, tmp_path):
    with pytest.raises(ValueError, match="images of 3 channels, which the autoencoder takes; digits has 1"):
        run(photos, "--dataset=digits", f"--data_dir={tmp_path}")
    latents = run(photos)
    with pytest.raises(ValueError, match="--dataset must have images to encode"):
        run(photos, f"--dataset=latents:{latents}", output="again")


@pytest.fixture(scope="module")
def unbroken(parse, photos, vae_file, tmp_path_factory):
    """The directory that an uninterrupted run with the autoencoder leaves."""
    directory = tmp_path_factory.mktemp("unbroken") / "latents"
    encode.main(parse(flags.define_encode, *arguments(photos, vae_file, directory)))
    return directory


def test_stored_moments_are_those_of_the_cropped_images(photos, vae, unbroken):
    """To the rounding to bfloat16, 2^-9 relative, twice where float32's error turns it the other way."""
    latents = examples_in_order(LatentSource(str(unbroken)), "train", image_size=_SIDE, batch_size=4)
    images = examples_in_order(open_dataset(f"folder:{photos}"), "train", image_size=_SIDE, batch_size=4)
    (moments, _, keys), (pixels, _, image_keys) = next(latents), next(images)
    assert list(keys) == list(image_keys)
    expected = VaeCodec(_SIDE, vae).moments(build.encoder_of(vae), tf.constant(pixels))
    np.testing.assert_allclose(moments.astype(np.float32), expected, rtol=2.0**-8, atol=4e-5)


def killed_and_resumed(start, directory, whole, seconds, kills):
    """start() -> a process that writes `directory`. It is killed so often, each time at random within so many seconds
    after it has begun to write, and then left alone. All that is whole is always as in the directory `whole`."""
    dice, leftovers = random.Random(kills), 0
    while kills:
        process = start()
        while process.poll() is None and not list(directory.glob(f"unfinished-{process.pid}-*")):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, seconds))
        process.kill()
        if process.wait() == 0:  # it was faster; once more from the beginning
            shutil.rmtree(directory)
            continue
        assert process.returncode == -signal.SIGKILL, process.so_far()
        kills -= 1
        there, expected = contents(directory), contents(whole)
        finished = {name for name in there if not name.startswith("unfinished-")}
        leftovers += len(there) - len(finished)
        assert {name: there[name] for name in finished} == {name: expected[name] for name in finished}
    assert leftovers  # some kill fell into the writing of a shard
    _, errors = start().communicate()
    assert contents(directory) == contents(whole), errors


def test_a_run_killed_three_times_leaves_what_an_unbroken_one_leaves(run, photos, tmp_path):
    """With the stand-in, which spares its processes the autoencoder: at 14 batches of 0.1 s."""
    directory = tmp_path / "killed"
    command = (__file__, *arguments(photos, "vae.keras", directory))
    killed_and_resumed(lambda: Command(*command), directory, run(photos), 1.4, kills=3)


@pytest.mark.slow
def test_an_encoder_killed_twenty_times_leaves_what_an_unbroken_one_leaves(photos, vae_file, unbroken, tmp_path):
    """Half of the time is the compilation, while the first of the missing shards is open."""
    directory = tmp_path / "latents"
    command = ("dit_tf.encode", *arguments(photos, vae_file, directory))
    killed_and_resumed(lambda: Command(*command), directory, unbroken, 6.0, kills=20)
    keys = [record["key"] for record in LatentSource(str(directory)).in_order("train").as_numpy_iterator()]
    assert sorted(keys) == sorted(str(path.relative_to(photos)).encode() for path in photos.glob("*/*.png"))


if __name__ == "__main__":  # the program, with the stand-in and slower
    stand_in = _MeanColour(seconds=0.1)
    encode.load_vae, encode.make_encoder = stand_in.load_vae, stand_in.make_encoder
    flags.run(encode.main, flags.define_encode)
