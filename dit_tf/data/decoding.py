"""Images as people see them, of any file that TensorFlow or PIL reads: turned by their Exif orientation, transparent
parts on white, 16 bits made 8. What `folder:` gives to new runs."""

import numpy as np
import tensorflow as tf
from PIL import Image

from dit_tf.data import exif
from dit_tf.data.preprocessing import centre_crop, decode_and_crop, decode_image, is_png, read_with_pil
from dit_tf.data.source import mirrored

_BEGINNINGS = (b"BM", b"GIF8")  # of what TensorFlow reads beside JPEG and PNG


def example(encoded, image_size, crop, mirror, with_pil):
    """Bytes of an image (scalar string) -> uint8 (image_size, image_size, 3); crop, mirror: see `Source.example`.

    with_pil: whether files may be there that PIL alone reads. A file that cannot be read fails when the graph runs.
    """
    if crop == "pil":
        image = decode_and_crop(encoded, image_size, 3, crop, as_seen=True)
        return mirrored(image, mirror)
    how = exif.orientation(encoded)
    image = tf.cond(
        tf.io.is_jpeg(encoded) & (how == 1),
        lambda: decode_and_crop(encoded, image_size, 3, crop),  # decodes the square alone
        lambda: centre_crop(_seen(encoded, how, with_pil), image_size),
    )
    return mirrored(image, mirror)


def sides(paths):
    """[(height, width)] of image files, by their headers."""
    found = []
    for path in paths:
        try:
            with Image.open(path) as file:
                found.append(file.size[::-1])
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # training will name it
    return found


def _seen(encoded, how, with_pil):
    def known():
        image = tf.cond(is_png(encoded), lambda: _on_white(encoded), lambda: decode_image(encoded, (None, None, 3)))
        return exif.upright(image, how)

    if not with_pil:
        return tf.ensure_shape(known(), (None, None, 3))
    starts = [tf.strings.substr(encoded, 0, len(start)) == start for start in _BEGINNINGS]
    readable = tf.reduce_any([*starts, is_png(encoded), tf.io.is_jpeg(encoded)])
    image = tf.cond(readable, known, lambda: tf.numpy_function(_with_pil, [encoded], tf.uint8))
    return tf.ensure_shape(image, (None, None, 3))


def _on_white(encoded):
    """A PNG file -> (H, W, 3)."""
    image = tf.cast(decode_image(encoded, (None, None, 4)), tf.int32)
    colour, alpha = image[..., :3], image[..., 3:]
    return tf.cast((colour * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _with_pil(encoded):
    encoded = encoded if isinstance(encoded, bytes) else encoded.item()
    return np.asarray(read_with_pil(encoded, 3, as_seen=True))
