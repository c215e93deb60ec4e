"""From an encoded record to a square uint8 image, inside the tf.data graph.

The square is ADM's centre crop (guided-diffusion, image_datasets.py; DiT, train.py): while the short side is at least
twice the size, both sides are halved by means of 2 x 2 pixels (PIL's BOX); then an antialiased bicubic makes the short
side fit; then the middle is cut out. `crop` says who does it:

    pil    PIL, which decodes the file too: the reference, to the bit
    fast   TensorFlow, which decodes and resizes the square alone: within 1 grey level of PIL in the mean of an image
"""

import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from dit_tf.config import CROPS

_PNG = b"\x89PNG\r\n\x1a\n"
_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DCT = "INTEGER_ACCURATE"  # as fast as the other, and PIL's
_MOST_HALVINGS = 16  # 2^16 is beyond the sides of a JPEG file, and of any image that TensorFlow decodes


def decode_and_crop(encoded, image_size, channels, crop, fits=False, as_seen=False):
    """Bytes of a JPEG, PNG, BMP or GIF file (scalar string) -> uint8 (image_size, image_size, channels).

    Of an animation, the first frame. Alpha is dropped, 16 bits are made 8 (v / 257). A file that cannot be decoded
    fails when the graph runs. A file may hold 2^29 bytes of pixels (TensorFlow's limit) or 179 million pixels (PIL's),
    which is about the same.

    fits: whether it is a JPEG or PNG that is known to have that size; of small images most of the time is else spent on
    finding that out.
    as_seen: with `crop` pil turned by its orientation, and transparent parts on white; with fast see `decoding`.
    """
    if crop not in CROPS:
        raise ValueError(f"--crop must be one of {', '.join(CROPS)}, got {crop!r}.")
    if crop == "pil":
        image = tf.numpy_function(lambda data: _pil_crop(data, image_size, channels, as_seen), [encoded], tf.uint8)
        return tf.ensure_shape(image, (image_size, image_size, channels))
    if fits and channels in (1, 3):  # what this operation knows, of PNG files too
        image = tf.io.decode_jpeg(encoded, channels, dct_method=_DCT)
        return tf.ensure_shape(image, (image_size, image_size, channels))
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _jpeg_crop(encoded, image_size, channels),
        lambda: centre_crop(decode_image(encoded, (None, None, channels)), image_size),
    )


def decode_image(encoded, shape):
    """PNG, JPEG, BMP or GIF bytes (scalar string) -> uint8 (H, W, C); of an animation, the first frame.

    shape: (H, W, C), where H and W may be None for images that vary.
    """
    channels = shape[-1]
    image = tf.cond(
        _is_deep_png(encoded),
        lambda: _in_8_bits(tf.io.decode_png(encoded, channels, tf.uint16)),
        lambda: tf.io.decode_image(encoded, channels, expand_animations=False),
    )
    return tf.ensure_shape(image, shape)


def _is_deep_png(encoded):
    """Whether it is a PNG file of 16 bits, whose depth lies behind signature, length, type, width and height."""
    head = tf.strings.join([tf.strings.substr(encoded, 0, 25), bytes(25)])  # of a file that is too short, zeros
    return is_png(encoded) & (tf.strings.substr(head, 24, 1) == b"\x10")


def is_png(encoded):
    return tf.strings.substr(encoded, 0, len(_PNG)) == _PNG


def _in_8_bits(deep):
    """uint16 -> uint8, to the nearest of v / 257."""
    return tf.cast((tf.cast(deep, tf.int32) + 128) // 257, tf.uint8)


def centre_crop(image, image_size):
    """uint8 (H, W, C) -> uint8 (image_size, image_size, C) by the rule of `fast`.

    An image whose short side fits, at once or after halvings, is cut only, to the bit.
    """
    sides = tf.shape(image)[:2]
    margin = _margin(sides, image_size)
    top, left = tf.unstack(margin)
    bottom, right = tf.unstack(sides - margin)
    return _finish(image[top:bottom, left:right], margin, sides, image_size)


def _pil_crop(encoded, image_size, channels, as_seen):
    encoded = encoded if isinstance(encoded, bytes) else encoded.item()  # an array where no graph is
    image = read_with_pil(encoded, channels, as_seen)
    while min(image.size) >= 2 * image_size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = image_size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    if width * height > 2 * Image.MAX_IMAGE_PIXELS:  # a file of 1 x 60,000 pixels would fill the memory
        raise Image.DecompressionBombError(f"{image.size} pixels would be resized to {width, height}.")
    image = image.resize((width, height), resample=Image.Resampling.BICUBIC)
    left, top = ((side - image_size) // 2 for side in image.size)
    image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image).reshape(image_size, image_size, channels)


def read_with_pil(encoded, channels, as_seen):
    """Bytes of any file that PIL reads -> a PIL image; as_seen: see `decode_and_crop`."""
    with Image.open(io.BytesIO(encoded)) as file:
        image = _shallow(file, encoded)
        if as_seen:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                seen = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
        return image.convert(_PIL_MODES[channels])


def _shallow(file, encoded):
    """The image in 8 bits: PIL would make white of all that is above 255 in 16, and cut colours off."""
    if file.format == "PNG" and encoded[24] == 16:
        pixels = _in_8_bits(tf.io.decode_png(encoded, 0, tf.uint16)).numpy()
    elif file.mode.startswith("I;16"):
        pixels = _in_8_bits(np.asarray(file).astype(np.uint16)).numpy()
    else:
        return file
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
    image.getexif().update(file.getexif())  # which way up it is
    return image


def _jpeg_crop(encoded, image_size, channels):
    """Decodes the square and the margin that the bicubic needs.

    libjpeg's own decoding at half the size would save a quarter of the time of an image that is halved, but its colours
    are finer than PIL's: photographs are up to a grey level away, fine coloured patterns several.
    """
    sides = tf.io.extract_jpeg_shape(encoded)[:2]
    margin = _margin(sides, image_size)
    window = tf.concat([margin, sides - 2 * margin], axis=0)
    image = tf.image.decode_and_crop_jpeg(encoded, window, channels=channels, dct_method=_DCT)
    return _finish(image, margin, sides, image_size)


def _resize_rule(sides, image_size):
    """Sides (2,) int32 -> (halvings, zoom (2,) float64, offset (2,) int32).

    The bicubic makes the halved image larger by zoom, and the square begins at offset in what it makes.

    Sides are rounded as by Python: in float64, halves to even.
    """
    sizes = tf.constant(image_size * 2 ** np.arange(1, _MOST_HALVINGS + 1), tf.int64)
    halvings = tf.reduce_sum(tf.cast(sizes <= tf.cast(tf.reduce_min(sides), tf.int64), tf.int32))
    halved = tf.cast(tf.bitwise.right_shift(sides, halvings), tf.float64)
    resized = tf.round(halved * (image_size / tf.reduce_min(halved)))
    return halvings, resized / halved, (tf.cast(resized, tf.int32) - image_size) // 2


def _margin(sides, image_size):
    """Pixels (2,) int32 that may be cut off both ends of each side and leave the square as it is.

    They are a multiple of 2^halvings: cutting so many off both ends commutes with the halvings.
    """
    halvings, zoom, offset = _resize_rule(sides, image_size)
    reach = 2 * tf.maximum(1 / zoom, 1) + 1  # of the bicubic, and a pixel for rounding
    unneeded = tf.cast(tf.floor(tf.cast(offset, tf.float64) / zoom - reach), tf.int32)
    return tf.bitwise.left_shift(tf.maximum(unneeded, 0), halvings)


def _finish(image, margin, sides, image_size):
    """Halvings and bicubic of an image of `sides` without its margin."""
    channels = image.shape[-1]
    halvings, zoom, offset = _resize_rule(sides, image_size)
    margin = tf.bitwise.right_shift(margin, halvings)
    (image,) = tf.while_loop(
        lambda x: tf.reduce_min(tf.shape(x)[:2]) >= 2 * image_size,
        lambda x: (_halve(x),),
        [image],
        shape_invariants=[tf.TensorShape((None, None, channels))],
    )

    def cut():
        top, left = tf.unstack(offset - margin)
        return image[top : top + image_size, left : left + image_size]

    def resize():
        scale = tf.cast(zoom, tf.float32)
        shift = tf.cast(tf.cast(margin, tf.float64) * zoom - tf.cast(offset, tf.float64), tf.float32)
        return _bicubic(image, image_size, scale, shift)

    fits = tf.equal(tf.reduce_min(tf.bitwise.right_shift(sides, halvings)), image_size)
    return tf.ensure_shape(tf.cond(fits, cut, resize), (image_size, image_size, channels))


def _halve(image):
    """(h, w, C) -> (h // 2, w // 2, C), means of 2 x 2 pixels, as PIL's BOX.

    Of an odd side PIL takes the pairs from the first pixel on in the first half and up to the last in the second: the
    pixel in the middle has no part (or a third of one mean). PIL rounds a half up twice, along rows and along columns:
    so any remainder makes a quarter a whole, and only one case in eight, of no remainder, differs from it.
    """
    image = _without_odd_middle(_without_odd_middle(image, 0), 1)
    means = tf.nn.avg_pool2d(tf.cast(image, tf.float32)[None], 2, 2, "VALID")[0]
    return tf.cast(means + 0.75, tf.uint8)


def _without_odd_middle(image, axis):
    half = tf.shape(image)[axis] // 2

    def without():
        first, _, last = tf.split(image, tf.stack([half, 1, half]), axis=axis)
        return tf.concat([first, last], axis)

    return tf.cond(tf.equal(tf.shape(image)[axis], 2 * half), lambda: image, without)


def _bicubic(image, size, scale, shift):
    """uint8 (h, w, C) -> (size, size, C), down the columns and then along the rows, in whole grey levels as in PIL.

    scale, shift: (2,) float32; a pixel's centre at y goes to scale y + shift. The kernel of TensorFlow is slow where
    channels are few: so each direction is resized with the other one, and the channels, as its channels.
    """
    height, width, channels = tf.shape(image)[0], tf.shape(image)[1], image.shape[-1]
    image = _bicubic_rows(tf.reshape(image, (height, width * channels)), size, scale[0], shift[0])
    image = tf.reshape(tf.transpose(tf.floor(image + 0.5)), (width, channels * size))
    image = _bicubic_rows(image, size, scale[1], shift[1])
    image = tf.transpose(tf.reshape(image, (size * channels, size)))
    # Rounded last, so that TensorFlow does not put the cast before the transposition: oneDNN complains of bytes.
    return tf.cast(tf.reshape(image, (size, size, channels)) + 0.5, tf.uint8)


def _bicubic_rows(rows, size, scale, shift):
    """(h, n) -> (size, n) float32 from 0 to 255, antialiased where scale < 1. Keys' kernel with a = -1/2 is PIL's."""
    resized = tf.raw_ops.ScaleAndTranslate(
        images=rows[None, :, None],
        size=[size, 1],
        scale=tf.stack([scale, 1.0]),
        translation=tf.stack([shift, 0.0]),
        kernel_type="keyscubic",
        antialias=True,
    )
    # The kernel overshoots at edges.
    return tf.raw_ops.ClipByValue(t=resized[0, :, 0], clip_value_min=0.0, clip_value_max=255.0)
