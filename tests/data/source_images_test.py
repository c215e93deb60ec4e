"""Claims of a data set as images to be scored: those of its split in order, from anywhere, and one sentence else."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from dit_tf.data import latent_spec, pipeline
from dit_tf.data import source as source_module
from dit_tf.data.latent_records import LatentSource, ShardWriter
from dit_tf.data.preprocessing import decode_image
from dit_tf.data.source_images import SourceImages, open_images
from tests.data.latents import SPEC


@pytest.fixture(scope="module")
def real(digits):
    return pipeline.real_images(digits, "test")


@pytest.fixture
def greys(tmp_path):
    """A folder of two classes of five images of one side each, 6, 7, ... pixels; image i has i grey levels."""
    for i in range(10):
        (tmp_path / f"images/{i // 5}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6 + i, 6 + i), (i,) * 3).save(tmp_path / f"images/{i // 5}/{i}.png")
    return pipeline.open_dataset(f"folder:{tmp_path / 'images'}")


@pytest.fixture
def plain_crop(monkeypatch):
    """The first rows and columns: to trace the real crop takes a second."""

    def corner(encoded, image_size, channels, crop, fits=False):
        return decode_image(encoded, (None, None, channels))[:image_size, :image_size]

    monkeypatch.setattr(source_module, "decode_and_crop", corner)


def refusal(call, *arguments, **named):
    with pytest.raises(ValueError) as error:
        call(*arguments, **named)
    assert len(str(error.value).splitlines()) == 1 and str(error.value).endswith(".")
    return str(error.value)


@pytest.mark.parametrize("batch_size, first, sizes", [(360, 0, [360]), (100, 0, [100] * 3 + [60]), (90, 180, [90, 90])])
def test_batches_are_the_split_in_order_from_any_image_on(digits, real, batch_size, first, sizes):
    images = SourceImages("--samples", digits, "test")
    assert (images.count, images.shape) == (360, (8, 8, 1))
    batches = list(images.batches(batch_size, first))
    assert [len(batch) for batch in batches] == sizes and all(batch.dtype == np.uint8 for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), real[0][first:])


def test_examples_are_the_same_images_with_their_labels(digits, real):
    images, labels = zip(*SourceImages("--samples", digits, "test").examples(150, first=30))
    np.testing.assert_array_equal(np.concatenate(images), real[0][30:])
    np.testing.assert_array_equal(np.concatenate(labels), real[1][30:])
    assert labels[0].dtype == np.int64


@pytest.mark.parametrize("first", [5, 6, 10])
def test_behind_the_last_image_there_is_nothing(greys, plain_crop, first):
    assert not list(SourceImages("--samples", greys, "train", image_size=6, limit=5).batches(4, first))


def test_with_a_limit_the_rest_is_not_touched(greys, plain_crop, tmp_path):
    for i in range(7, 10):
        (tmp_path / f"images/1/{i}.png").write_text("no image")
    images = SourceImages("--samples", greys, "train", image_size=6, limit=7)
    assert images.count == 7
    for first, lengths in ((0, [5, 2]), (4, [3])):  # 5 would reach behind the limit
        batches = list(images.batches(5, first))
        assert [len(batch) for batch in batches] == lengths
        np.testing.assert_array_equal(np.concatenate(batches)[:, 0, 0, 0], np.arange(first, 7))


def test_images_of_several_sizes_have_the_side_that_is_asked_for(greys):
    images = SourceImages("--samples", greys, "train", image_size=6, crop="pil")
    assert images.shape == (6, 6, 3)
    (batch,) = images.batches(10)
    np.testing.assert_array_equal(batch, np.broadcast_to(np.arange(10).reshape(10, 1, 1, 1), (10, 6, 6, 3)))


def test_images_of_one_size_may_have_another(digits, real):
    """Half the side is the means of 2 x 2 pixels (ADM's centre crop), to the grey level that a half is rounded to."""
    images = SourceImages("--samples", digits, "test", image_size=4)
    (batch,) = images.batches(360)
    assert images.shape == batch.shape[1:] == (4, 4, 1)
    means = real[0].reshape(360, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(batch, means, atol=0.75)


def test_other_images_have_another_provenance(digits):
    first = SourceImages("--samples", digits, "test").provenance()
    assert first == dict(dataset="digits", split="test", image_size=8, crop="fast", images=360)
    changes = [dict(split="train"), dict(image_size=4), dict(crop="pil"), dict(limit=5)]
    others = [SourceImages("--samples", digits, **{"split": "test", **change}).provenance() for change in changes]
    assert len({json.dumps(facts) for facts in (first, *others)}) == 5


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(split="validation"), "--samples_split must be one of train, test or a part of one, got 'validation'"),
        (dict(limit=361), "--num_examples must be from 1 to 360, got 361"),
        (dict(limit=0), "--num_examples must be from 1 to 360, got 0"),
        (dict(image_size=0), "--image_size must be at least 1, got 0"),
        (dict(crop="middle"), "--crop must be one of fast, pil, got 'middle'"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is(digits, changes, words):
    message = refusal(SourceImages, "--samples", digits, **{"split": "test", **changes})
    assert message == f"--samples=digits: {words}."


def test_the_flag_of_a_split_is_that_of_the_data_set(greys):
    for flag, own in (("--dataset", "--split"), ("--reference", "--reference_split")):
        message = refusal(SourceImages, flag, greys, "test")
        assert message == f"{flag}={greys.name}: {own} must be train, the one split of {greys.name}, got 'test'."


def test_images_of_several_sizes_need_one(greys):
    assert refusal(SourceImages, "--reference", greys, "train").startswith(
        f"--reference={greys.name} has images of several sizes, or not square: add --image_size=256,"
    )


def test_images_of_several_sizes_may_take_that_of_others(greys, digits):
    assert SourceImages("--reference", greys, "train", otherwise=5).shape[:2] == (5, 5)
    assert SourceImages("--reference", greys, "train", image_size=6, otherwise=5).shape[:2] == (6, 6)
    assert SourceImages("--reference", digits, "train", otherwise=5).shape == (8, 8, 1)  # they have their own


def test_latents_are_no_images(tmp_path):
    wanted = f"--samples=latents:{tmp_path} has latents, images are needed: give the data set that they were encoded"
    assert refusal(open_images, "--samples", f"latents:{tmp_path}", "train").startswith(wanted)
    latent_spec.write(str(tmp_path), SPEC)
    for shard in range(SPEC.num_shards):
        with ShardWriter(str(tmp_path), SPEC, shard):
            pass
    assert refusal(SourceImages, "--samples", LatentSource(str(tmp_path)), "train").startswith(wanted)


def test_a_damaged_image_is_told_by_the_flag(greys, plain_crop, tmp_path):
    (tmp_path / "images/1/8.png").write_bytes(b"no image")
    images = SourceImages("--reference", greys, "train", image_size=6)
    message = refusal(lambda: list(images.batches(4)))
    assert message.startswith(f"--reference={greys.name}: 1/8.png cannot be read (")


def test_a_data_set_is_opened_by_name(data_dir, real):
    images = open_images("--samples", "digits", "test", data_dir, limit=20)
    np.testing.assert_array_equal(next(images.batches(20)), real[0][:20])


@pytest.mark.parametrize(
    "name", ["nowhere", "ref.np", "runs/images", "./pngs", "/no/such.png", "two words", "gs://b/x"]
)
def test_an_unknown_name_is_told_with_all_that_may_be_given(tmp_path, name):
    message = refusal(open_images, "--samples", name, "test", str(tmp_path))
    start = f"--samples={name} must be an .npz or .npy file, a folder of PNG or JPEG files, or a data set: digits, a "
    assert message.startswith(start) and "there is no file, folder or data set of that name" in message
    assert "latents" not in message and "--dataset" not in message


def test_a_data_set_that_must_be_one_may_be_no_file(tmp_path):
    (tmp_path / "photos").mkdir()
    message = refusal(open_images, "--dataset", str(tmp_path / "photos"), "train")
    assert message.startswith(
        f"--dataset={tmp_path / 'photos'} must be digits, a TensorFlow Datasets name or folder:DIR"
    )
    assert message.endswith(f"type folder:{tmp_path / 'photos'}.") and "npz" not in message


def test_a_file_that_is_no_npz_and_near_names_are_told(tmp_path):
    (tmp_path / "ref.npy").touch()
    assert refusal(open_images, "--samples", str(tmp_path / "ref.npy"), "test").endswith("; this file is none of them.")
    message = refusal(open_images, "--samples", "imagenet2021", "test", str(tmp_path))
    assert re.search("near names: .*imagenet2012", message)


@pytest.mark.parametrize(
    "name, words",
    [
        ("folder:nowhere", " must name a directory with images: there is no such directory."),
        ("imagenet2012", " needs ILSVRC2012_img_train.tar"),
        ("mnist/no_such_config", " cannot be opened by TensorFlow Datasets"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_said_of_the_flag(tmp_path, name, words):
    with pytest.raises(ValueError, match=re.escape(f"--reference={name}{words}")):
        open_images("--reference", name, "train", str(tmp_path))
