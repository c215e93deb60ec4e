"""From an encoded record to a square uint8 image, inside the tf.data graph."""

import tensorflow as tf


def decode_image(encoded, shape):
    """PNG, JPEG, BMP or GIF bytes (scalar string) -> uint8 (H, W, C); of an animation, the first frame.

    shape: (H, W, C), where H and W may be None for images that vary.
    """
    image = tf.io.decode_image(encoded, channels=shape[-1], expand_animations=False)
    return tf.ensure_shape(image, shape)


def centre_crop(image, image_size):
    """uint8 (H, W, C) -> uint8 (image_size, image_size, C): the short side resized to fit, then the middle cut out.

    The resize is an antialiased bicubic; an image whose short side already fits is cut only, to the bit.
    """
    height, width, channels = image.shape
    if height is None or width is None:
        short = tf.reduce_min(tf.shape(image)[:2])
        image = tf.cond(tf.equal(short, image_size), lambda: image, lambda: _resize(image, image_size))
    elif min(height, width) != image_size:
        image = _resize(image, image_size)
    top, left = tf.unstack((tf.shape(image)[:2] - image_size) // 2)
    image = image[top : top + image_size, left : left + image_size]
    return tf.ensure_shape(image, (image_size, image_size, channels))


def _resize(image, image_size):
    """The short side becomes image_size, the long side keeps the proportion to the nearest pixel."""
    sides = tf.shape(image)[:2]
    short = tf.reduce_min(sides)
    resized = tf.image.resize(image, (2 * sides * image_size + short) // (2 * short), method="bicubic", antialias=True)
    # The bicubic kernel overshoots at edges.
    return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)


def horizontal_flip(image, seed):
    """Mirrors (H, W, C) left to right for half of the seeds; seed: (2,) int64, the whole of the randomness."""
    mirrored = tf.random.stateless_uniform((), seed, alg="philox") < 0.5
    return tf.where(mirrored, tf.reverse(image, axis=[1]), image)
