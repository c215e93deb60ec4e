"""Folders as people have them: each image as a viewer shows it, whatever it was saved as."""

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from dit_tf.data import decoding, exif
from dit_tf.data.preprocessing import decode_and_crop

_SIDE = 16


def saved(image, kind, turned=0, **options):
    """Bytes of a file."""
    file = io.BytesIO()
    if turned:
        tags = Image.Exif()
        tags[0x0112] = turned
        options["exif"] = tags.tobytes()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def program(crop, with_pil):
    return tf.function(lambda e, mirror: decoding.example(e, _SIDE, crop, mirror, with_pil), autograph=False)


def read(encoded, crop="fast", with_pil=True, mirror=False):
    return program(crop, with_pil)(tf.constant(encoded), tf.constant(mirror)).numpy().astype(int)


@pytest.fixture(scope="module")
def picture():
    """32 x 16 pixels, no two corners alike."""
    rows, columns = np.mgrid[:16, :32]
    return Image.fromarray(np.stack([16 * rows, 8 * columns, 255 - 4 * rows - 4 * columns], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("turned", range(9))
def test_images_are_turned_as_pil_turns_them(picture, kind, turned):
    encoded = saved(picture, kind, turned)
    assert exif.orientation(tf.constant(encoded)) == max(turned, 1)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    expected = np.asarray(ImageOps.fit(upright, (_SIDE, _SIDE), Image.Resampling.NEAREST)).astype(int)
    for crop in ("fast", "pil"):
        # The square is cut from a side that fits, so no pixel is resized; JPEG's decoders differ by 4 grey levels.
        assert np.abs(read(encoded, crop) - expected).max() <= (4 if kind == "JPEG" else 0)
    assert np.abs(read(encoded, mirror=True) - expected[:, ::-1]).max() <= 4


def test_bytes_that_look_like_orientations_are_none(rng):
    orientation = tf.function(exif.orientation, autograph=False)
    ends = [b"", b"Exif\0\0", b"\xff\xd8Exif\0\0II*\0\xff\xff\xff\xff", *map(bytes, rng.integers(0, 256, (50, 60)))]
    for end in ends:
        assert 1 <= orientation(tf.constant(end)) <= 8
        assert 1 <= orientation(tf.constant(b"Exif\0\0MM\0*" + end)) <= 8


@pytest.mark.parametrize("mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_transparent_parts_are_on_white(mode, kind):
    alpha = Image.fromarray(np.repeat(np.uint8([[0], [128], [255], [255]]), 16, axis=1).repeat(4, axis=0))
    image = Image.new("RGB", (16, 16), (200, 100, 0))
    image.putalpha(alpha)
    image = image.convert(mode) if mode != "P" else image.quantize(16)
    encoded = saved(image, kind, **(dict(lossless=True) if kind == "WEBP" else {}))
    seen = np.asarray(Image.alpha_composite(Image.new("RGBA", (16, 16), "white"), image.convert("RGBA")))[..., :3]
    for crop in ("fast", "pil"):
        assert np.abs(read(encoded, crop) - seen.astype(int)).max() <= 1  # PIL and we round a product of two bytes
    assert (read(encoded)[:4] == 255).all()


@pytest.mark.parametrize("kind", ["WEBP", "TIFF", "AVIF", "BMP", "GIF"])
def test_other_kinds_are_read(picture, kind):
    encoded = saved(picture, kind, **dict(WEBP=dict(lossless=True), AVIF=dict(quality=100)).get(kind, {}))
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))[:, 8:24].astype(int)
    for crop in ("fast", "pil"):
        np.testing.assert_array_equal(read(encoded, crop), expected)


@pytest.mark.parametrize("crop", ["fast", "pil"])
def test_16_bits_become_8(crop):
    """v / 257 to the nearest: white stays white, and the middle is 128, which cutting off bits makes 127 or 255."""
    grey = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    encoded = tf.io.encode_png(grey[..., None]).numpy()
    expected = np.round(grey / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_and_crop(tf.constant(encoded), 256, 1, crop)[..., 0], expected)
    colours = np.stack([grey, grey.T, grey[::-1]], axis=-1)
    encoded = tf.io.encode_png(colours).numpy()
    expected = np.round(colours / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode_and_crop(tf.constant(encoded), 256, 3, crop), expected)


def test_a_turned_image_of_16_bits_is_turned():
    """TIFF keeps the orientation among its own tags."""
    grey = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    encoded = saved(grey, "TIFF", turned=3)
    expected = np.arange(255, -1, -1).reshape(16, 16, 1).repeat(3, axis=2)
    for crop in ("fast", "pil"):
        np.testing.assert_array_equal(read(encoded, crop), expected)


def test_what_is_no_image_fails_when_it_is_read():
    for crop in ("fast", "pil"):
        with pytest.raises(tf.errors.OpError):
            read(b"no image", crop)
    with pytest.raises(tf.errors.OpError):
        read(b"no image", with_pil=False)
