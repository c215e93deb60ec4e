"""The weights inside a SavedModel: float32 as they are, or fewer bytes of them, made float32 again by each request.

They are widened once, before the sampler's loop. Biases, norms and tables stay float32 but for bfloat16, which takes
everything: what is small costs nothing, and a bias moves every output.
"""

import keras
import numpy as np
import tensorflow as tf

DTYPES = ("float32", "bfloat16", "int8")


class StoredWeights(tf.Module):
    """`tensors()` gives back the float32 arrays that it was made of, rounded to the dtype that they are stored in.

    int8: of matrices and convolutions, by Keras' `abs_max_quantize`: 255 levels of one scale for each output.
    """

    def __init__(self, weights, dtype="float32", name=None):
        """weights: float32 tensors or arrays; dtype: one of DTYPES."""
        super().__init__(name=name)
        if dtype not in DTYPES:
            raise ValueError(f"--weights_dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
        stored = [_stored(tf.convert_to_tensor(weight), dtype) for weight in weights]
        self.values = [tf.Variable(value, trainable=False) for value, _ in stored]
        self.scales = {str(i): tf.Variable(s, trainable=False) for i, (_, s) in enumerate(stored) if s is not None}

    def tensors(self):
        """float32, in the order that they came in."""
        read = [tf.convert_to_tensor(value) for value in self.values]  # here, not in each turn of the loop that uses it
        wide = [tf.cast(value, tf.float32) for value in read]
        return [w / self.scales[str(i)] if str(i) in self.scales else w for i, w in enumerate(wide)]

    @property
    def nbytes(self):
        variables = [*self.values, *self.scales.values()]
        return sum(int(np.prod(v.shape)) * v.dtype.size for v in variables)


def _stored(weight, dtype):
    """(value, scale or None)."""
    if dtype == "int8" and weight.shape.rank in (2, 4) and weight.shape[0] > 1:
        axes = tuple(range(weight.shape.rank - 1))  # every output has a scale of its own
        value, scale = keras.quantizers.abs_max_quantize(weight, axis=axes, to_numpy=True)
        return tf.constant(value, tf.int8), tf.constant(scale, tf.float32)
    return tf.cast(weight, tf.bfloat16 if dtype == "bfloat16" else tf.float32), None
