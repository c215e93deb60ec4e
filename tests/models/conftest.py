"""Tiny models with weights that are not zero, and the arrays recorded from the public DiT."""

import json
import pathlib

import keras
import numpy as np
import pytest

from dit_tf.models.dit import DiT
from dit_tf.pretrained.dit_map import load_weights

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "dit"


@pytest.fixture(scope="session")
def dit_golden():
    """dit_golden(name) -> goldens/dit/name: npz arrays, images (rank 4 and 5) NHWC in place of NCHW; or JSON."""

    def read(name, as_stored=False):
        if name.endswith(".json"):
            return json.loads((_GOLDENS / name).read_text())
        with np.load(_GOLDENS / name) as arrays:
            return {k: np.moveaxis(a, -3, -1) if a.ndim >= 4 and not as_stored else a for k, a in arrays.items()}

    return read


@pytest.fixture(scope="session")
def tiny():
    """tiny(block, **changes) -> a two-block model, every weight drawn from a normal distribution; always the same.

    Fresh weights would not do: the decoder's zeros hide everything before it.
    """

    def make(block="adaln_zero", **changes):
        options = dict(input_size=8, patch_size=2, in_channels=4, width=32, depth=2, num_heads=4, num_classes=10)
        model = DiT(**{**options, "block": block, **changes})
        rng = np.random.default_rng(1)
        for v in model.trainable_variables:
            mean, deviation = float(v.name in ("gamma", "scale")), v.shape[0] ** -0.5 if len(v.shape) == 2 else 0.1
            v.assign(rng.normal(mean, deviation, v.shape))
        return model

    return make


@pytest.fixture(scope="session")
def make_official(dit_golden):
    """make_official(dtype) -> the model whose outputs were recorded, with its weights."""

    def make(dtype="float32"):
        options = dit_golden("tiny_config.json")
        model = DiT(width=options.pop("hidden_size"), dtype=dtype, **options)
        load_weights(model, dit_golden("tiny_bare.npz", as_stored=True))
        return model

    return make


@pytest.fixture(scope="session")
def official(make_official):
    return make_official()


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)
