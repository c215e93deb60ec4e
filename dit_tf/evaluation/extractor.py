"""Images -> the features that they are compared by, in batches of one static size: one compilation a size of image."""

import numpy as np
import tensorflow as tf

from dit_tf.evaluation.inception import full_precision
from dit_tf.runtime.distribution import compiled_on

FEATURES = ("inception", "pixels")
_MOST_PIXELS = 4096  # numbers an image: their covariance takes 128 MiB, and its eigenvalues half a minute


class InceptionExtractor:
    """uint8 (N, H, W, 3) -> float32 (N, 2048 + 2023 + classes) in NumPy: pool_3, spatial features, probabilities. Grey
    images, (N, H, W, 1), are looked at as three equal channels."""

    name = "inception"

    def __init__(self, network, batch_size, strategy=None):
        """network: `InceptionFeatures`. batch_size: the most images of a call; fewer are filled up. strategy: over
        whose replicas a batch is shared out, and where the network must have been made; None: the default device."""
        self._network, self.batch_size = network, batch_size
        self.widths = network.widths
        self.facts = {"features": self.name, "inception_sha256": network.sha256}
        self._run = compiled_on(network.features_with, strategy)

    @staticmethod
    def compared(shape):
        """Of (H, W, C), what must be equal of images that are compared."""
        return shape[:2]

    def __call__(self, images):
        images = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
        weights = [tf.convert_to_tensor(v.value) for v in self._network.variables]
        filled = images[np.arange(self.batch_size) % len(images)]
        with full_precision():
            features = self._run(weights, tf.constant(filled))
        return np.concatenate([part.numpy()[: len(images)] for part in features], axis=1)


class PixelExtractor:
    """uint8 (N, H, W, C) -> float32 (N, H W C), the pixels themselves: for images too small for Inception."""

    name = "pixels"

    def __init__(self, shape, batch_size, scale):
        """shape: (H, W, C) of every image. scale: uint8 -> float32, what the numbers of a pixel are."""
        self.batch_size = batch_size
        self.widths = (int(np.prod(shape)),)
        if self.widths[0] > _MOST_PIXELS:
            raise ValueError(
                f"--features=pixels is for images of at most {_MOST_PIXELS} numbers, such as 32x32x3; got "
                f"{'x'.join(map(str, shape))}: take --features=inception."
            )
        self._scale = scale
        self.facts = {"features": self.name}

    @staticmethod
    def compared(shape):
        """Of (H, W, C), what must be equal of images that are compared."""
        return shape

    def __call__(self, images):
        return np.asarray(self._scale(images)).reshape(len(images), -1)
