"""The network behind FID, sFID and the Inception Score: Inception of 2015-12-05 (Szegedy et al. 2015, "Rethinking the
Inception Architecture"), as ADM's evaluator runs it (Dhariwal and Nichol 2021; openai/guided-diffusion).

The published file is the layout as well as the weights: its graph resizes images itself and pools in three ways, and
networks that are rebuilt by name do not have quite its numbers. So this is an interpreter of the nine operations in it.
"""

import contextlib
import os
import types
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dit_tf.evaluation import graph_def

ADDRESS = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/classify_image_graph_def.pb"

_SOURCE = "ExpandDims"  # takes float32 (1, H, W, 3) there, from a decoder of JPEG
_POOL, _SPATIAL, _LOGITS = "pool_3", "mixed_6/conv", "softmax/logits/MatMul"
_TRAINED = ("Conv2D", "BatchNormWithGlobalNormalization")  # the other constants are sizes and two scalars
_POOL_SHAPE = (1, 1, 2048)
_SPATIAL_SIDE = 17
_SPATIAL_CHANNELS = 7  # the first of them, 17 * 17 * 7 = 2023 features: nearly as many as of the pool


class Features(NamedTuple):
    """float32: pool_3 (N, 2048), spatial (N, 2023) with the channel running fastest, probabilities (N, classes)."""

    pool_3: tf.Tensor
    spatial: tf.Tensor
    probabilities: tf.Tensor


class InceptionFeatures(keras.Model):
    """images (N, H, W, 3), uint8 or float32 in 0..255, of any size -> `Features`.

    Meant to be compiled, once a size, and under `full_precision`.
    """

    def __init__(self, path, name="inception_features"):
        """path: of classify_image_graph_def.pb. ValueError without its name, see `load_inception`."""
        super().__init__(name=name, autocast=False, trainable=False)
        nodes, self.sha256 = graph_def.read_nodes(path)
        names = [_POOL, _SPATIAL, graph_def.second_factor(nodes, _LOGITS)]
        self._steps, (pool, spatial, classifier) = graph_def.walk_back(nodes, names, _SOURCE)
        _check_shapes(pool, spatial, classifier)
        self._pool, self._spatial = pool.name, spatial.name
        held = {o.name: self._hold(o.name, o.constants if o.op in _TRAINED else ()) for o in self._steps}
        self._held = types.MappingProxyType(held)  # in a dict Keras would follow the variables once more
        (self._classifier,) = self._hold(_LOGITS, [classifier])
        spatial_features = _SPATIAL_SIDE**2 * _SPATIAL_CHANNELS
        self.widths = (len(classifier), spatial_features, classifier.shape[1])  # of the three `Features`
        self.built = True

    def _hold(self, name, arrays):
        """Variables with these values; Keras has no slash in their names."""
        name = name.replace("/", ".")
        return [
            self.add_weight(array.shape, lambda *_, array=array, **__: tf.constant(array), name=f"{name}.{i}")
            for i, array in enumerate(arrays)
        ]

    def call(self, images):
        if len(images.shape) != 4 or images.shape[-1] != 3 or None in images.shape[1:]:
            raise ValueError(f"images must be (N, H, W, 3) of known height and width, got {tuple(images.shape)}.")
        values = {}
        for operation in self._steps:
            weights = [tf.convert_to_tensor(v.value) for v in self._held[operation.name]]
            inputs = [values[name] for name in operation.inputs] or [tf.cast(images, tf.float32)]
            values[operation.name] = compute(operation, inputs, weights)
        pool_3 = tf.squeeze(values[self._pool], (1, 2))  # (N, 1, 1, 2048) -> (N, 2048)
        spatial = values[self._spatial][..., :_SPATIAL_CHANNELS]  # (N, 17, 17, 7)
        spatial = tf.reshape(spatial, (-1, _SPATIAL_SIDE**2 * _SPATIAL_CHANNELS))
        # Without the bias of the network's own softmax: so ADM has it, and Salimans et al. 2016 before.
        logits = tf.matmul(pool_3, tf.convert_to_tensor(self._classifier.value))
        return Features(pool_3, spatial, tf.nn.softmax(logits))

    def features_with(self, weights, images):
        """The same with tensors in the place of `variables`, in their order: a pure function to compile."""
        with keras.StatelessScope(state_mapping=zip(self.variables, weights, strict=True)):
            return self(images)


def load_inception(path):
    """classify_image_graph_def.pb -> `InceptionFeatures`, which knows the file's `sha256`.

    ValueError, one sentence, where there is no such file or another one.
    """
    if not os.path.isfile(path):
        raise ValueError(
            f"--inception={path} is no file: fetch {ADDRESS}, put it there or anywhere, and name it with --inception "
            f"(the same file is in http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz)."
        )
    try:
        return InceptionFeatures(path)
    except OSError as error:
        raise ValueError(f"--inception={path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"--inception={path} is not classify_image_graph_def.pb of 2015-12-05, or damaged ({reason}): fetch "
            f"{ADDRESS} anew."
        ) from error


@contextlib.contextmanager
def full_precision():
    """While a program is compiled and while it runs: float32 products of all 24 bits, on GPUs and TPUs as well.

    TensorFlow's own choice is to round the factors, to 11 bits on newer GPUs and to 8 on TPUs. On random weights of the
    published size this moved single features by up to 1% and 6% of their size.
    """
    rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(rounded)


def resize_bilinear(images, height, width):
    """(N, H, W, C) float32 -> (N, height, width, C) as TensorFlow 1 did it: pixel i of the result lies at i H / height,
    the corner and not the centre of a pixel, and makes no average where the result is smaller.

    Gathers and weighted means in float32: as products of matrices a TPU would round the weights.
    """
    return _interpolate(_interpolate(images, 2, width), 1, height)


def _interpolate(x, axis, size):
    length = x.shape[axis]
    position = np.arange(size, dtype=np.float32) * (np.float32(length) / np.float32(size))
    low = np.minimum(position.astype(np.int32), length - 1)
    high = np.minimum(low + 1, length - 1)
    fraction = (position - low).reshape([-1 if i == axis else 1 for i in range(4)])
    first = tf.gather(x, low, axis=axis)
    return first + (tf.gather(x, high, axis=axis) - first) * fraction


def batch_norm(x, mean, variance, beta, gamma, variance_epsilon, scale_after_normalization):
    """BatchNormWithGlobalNormalization over the channels, the last axis; without scale_after_normalization no gamma.

    In this order the results are TensorFlow's own bit for bit. As x * scale + shift, or folded into the convolutions,
    some features would differ by 1.5e-4 of their size, because the network enlarges rounding errors; and a compiler
    joins the operations anyway.
    """
    scale = tf.math.rsqrt(variance + variance_epsilon)
    if scale_after_normalization:
        scale *= gamma
    return (x - mean) * scale + beta


def compute(operation, inputs, weights):
    """One `graph_def.Operation` on its inputs (N, H, W, C); weights: its constants, where they are trained ones."""
    x, how = inputs[0], operation.attributes
    match operation.op:
        case graph_def.SOURCE:
            return x
        case "ResizeBilinear":
            return resize_bilinear(x, *operation.shape[:2])
        case "Sub":
            return x - operation.constants[0]
        case "Mul":
            return x * operation.constants[0]
        case "Conv2D":
            return tf.nn.conv2d(x, weights[0], how["strides"], how["padding"])
        case "BatchNormWithGlobalNormalization":
            return batch_norm(x, *weights, **how)
        case "Relu":
            return tf.nn.relu(x)
        case "MaxPool":
            return tf.nn.max_pool2d(x, how["ksize"], how["strides"], how["padding"])
        case "AvgPool":  # padding is not counted: the mean is of the pixels that are there
            return tf.nn.avg_pool2d(x, how["ksize"], how["strides"], how["padding"])
        case "Concat":
            return tf.concat(inputs, axis=3)
    raise NotImplementedError(operation.op)


def _check_shapes(pool, spatial, classifier):
    for found, name in ((pool, _POOL), (spatial, _SPATIAL)):
        if not isinstance(found, graph_def.Operation) or found.op == graph_def.SOURCE:
            raise ValueError(f"node {name} is not computed from the images")
    side = (_SPATIAL_SIDE, _SPATIAL_SIDE)
    if spatial.shape[:2] != side or spatial.shape[2] < _SPATIAL_CHANNELS:
        raise ValueError(f"node {_SPATIAL} has the shape {spatial.shape}, {side} and 7 channels or more are needed")
    if pool.shape != _POOL_SHAPE:
        raise ValueError(f"node {_POOL} has the shape {pool.shape}, not {_POOL_SHAPE}")
    if not isinstance(classifier, np.ndarray) or classifier.ndim != 2 or len(classifier) != _POOL_SHAPE[-1]:
        raise ValueError(f"node {_LOGITS} has no constant of {_POOL_SHAPE[-1]} rows for its second factor")
    if classifier.dtype != np.float32:
        raise ValueError(f"node {_LOGITS} has a second factor of {classifier.dtype}")
