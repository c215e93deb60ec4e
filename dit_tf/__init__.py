"""Diffusion transformers (DiT) in TensorFlow and Keras 3."""

import os

__version__ = "0.2.0"

# TensorFlow's C++ side writes a page of remarks to stderr before the first step; it reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The models are TensorFlow, whatever else Keras has been told to run on; it reads this when it is imported.
os.environ["KERAS_BACKEND"] = "tensorflow"


def enable_compile_cache(directory=None):
    """Keep compiled programs on disk, as every command does; see `dit_tf.runtime.compile_cache.enable`."""
    from dit_tf.runtime import compile_cache

    return compile_cache.enable(directory)
