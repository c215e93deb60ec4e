"""Raw pixels <-> what the model diffuses. The one place where the range of pixels is known."""

import tensorflow as tf


class PixelCodec:
    """The model works on the pixels themselves, scaled to [-1, 1]."""

    bounded = True  # a prediction of x_0 may be clipped to [-1, 1] while sampling; latents have no such range
    bin_width = 2.0 / 255.0  # between neighbouring values; None for what is continuous

    def __init__(self, image_size, channels):
        self.input_size = (image_size, image_size)
        self.channels = channels

    def encode(self, images):
        """(N, H, W, C) uint8 -> float32 in [-1, 1]."""
        return tf.cast(images, tf.float32) / 127.5 - 1.0

    def decode(self, x):
        """(N, H, W, C) float32 -> uint8: clip(127.5 x + 128, 0, 255), truncated (the public sampling scripts' rule)."""
        return tf.cast(tf.clip_by_value(127.5 * x + 128.0, 0.0, 255.0), tf.uint8)
