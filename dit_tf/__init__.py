"""Diffusion transformers (DiT) in TensorFlow and Keras 3."""

import importlib
import os

__version__ = "0.2.0"

# TensorFlow's C++ side writes a page of remarks to stderr before the first step; it reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The models are TensorFlow, whatever else Keras has been told to run on; it reads this when it is imported.
os.environ["KERAS_BACKEND"] = "tensorflow"


_FROM = {"load": "dit_tf.inference.loading", "TrainedModel": "dit_tf.inference.trained_model"}


def __getattr__(name):
    """`dit_tf.load` and `dit_tf.TrainedModel`, for which TensorFlow and Keras are imported when they are asked for."""
    if name not in _FROM:
        raise AttributeError(f"module 'dit_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_FROM[name]), name)


def __dir__():
    return sorted([*globals(), *_FROM])


def enable_compile_cache(directory=None):
    """Keep compiled programs on disk, as every command does; see `dit_tf.runtime.compile_cache.enable`."""
    from dit_tf.runtime import compile_cache

    return compile_cache.enable(directory)
