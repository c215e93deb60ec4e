"""The compiled function of `python -m dit_tf.encode`: the same moments however a batch is cut, and on a TPU."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, encode
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.latent_spec import LatentSpec
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.codec import VaeCodec

_SIDE = 24
# Float32 in another order; 1e-6 is observed. Moments of another image, or not mirrored, differ by 1e-2 and more.
_FLOAT32 = dict(rtol=0, atol=4e-5)


@pytest.fixture(scope="module")
def vae():
    return AutoencoderKL(width=32)


def specification(**changes):
    fields = dict(
        dataset="", split="train", num_examples=1, classes=UNLABELLED, image_size=_SIDE, crop="fast",
        vae_sha256="0" * 64, precision="float32", scaling_factor=1.0, moments_shape=(3, 3, 8),
        moments_dtype="float32", mirrored=True, examples_per_shard=1,
    )  # fmt: skip
    return LatentSpec(**{**fields, **changes})


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (4, _SIDE, _SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def encoded(vae, images):
    """Moments of four images and of their mirror images, in one call."""
    return [
        a.numpy() for a in encode.make_encoder(VaeCodec(_SIDE, vae), specification())(build.encoder_of(vae), images)
    ]


def test_mirrors_are_moments_of_mirrored_pixels(vae, images, encoded):
    codec, weights = VaeCodec(_SIDE, vae), build.encoder_of(vae)
    np.testing.assert_allclose(encoded[0], codec.moments(weights, tf.constant(images)), **_FLOAT32)
    np.testing.assert_allclose(encoded[1], codec.moments(weights, tf.constant(images[:, :, ::-1])), **_FLOAT32)
    assert np.abs(encoded[1] - encoded[0][:, :, ::-1]).max() > 1e-2  # which are not mirrored moments
    assert np.abs(encoded[1] - encoded[0]).max() > 1e-2


def test_batches_of_one_and_of_four_agree(vae, images, encoded):
    single = encode.make_encoder(VaeCodec(_SIDE, vae), specification())
    for i in range(2):
        rows = encode.encode_batch(single, build.encoder_of(vae), images[i : i + 1], 1)
        for actual, expected in zip(rows, encoded, strict=True):
            np.testing.assert_allclose(actual[0], expected[i], **_FLOAT32)


def test_two_replicas_share_the_rows_of_a_batch(vae, images, encoded):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    several = encode.make_encoder(VaeCodec(_SIDE, vae), specification(), strategy)
    for actual, expected in zip(encode.encode_batch(several, build.encoder_of(vae), images, 4), encoded, strict=True):
        np.testing.assert_allclose(actual, expected, **_FLOAT32)


def test_a_short_batch_is_filled_up_and_cut():
    def double(weights, images):
        assert images.shape == (4, 1)
        return [2 * images]

    (rows,) = encode.encode_batch(double, None, np.array([[3], [5], [7]]), 4)
    np.testing.assert_array_equal(rows, [[6], [10], [14]])


_COMPILE = """
import dataclasses, json
from dit_tf.runtime import tpu_compiler
tpu_compiler.prepare_environment()
import tensorflow as tf
from dit_tf import encode
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.latent_spec import LatentSpec
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.codec import VaeCodec
from dit_tf.models.costs import abstract

codec = VaeCodec(32, abstract(AutoencoderKL))
spec = LatentSpec("", "train", 1, UNLABELLED, 32, "fast", "0" * 64, "float32", 1.0, (4, 4, 8), "bfloat16", True, 1)
weights = [tf.TensorSpec(v.shape, tf.float32) for v in codec.encoder_variables]
arguments = weights, tf.TensorSpec((8, 32, 32, 3), tf.uint8)
report, text = tpu_compiler.compile_function(encode.make_encoder(codec, spec), arguments, topology="v3:2x2")
print(json.dumps(dict(dataclasses.asdict(report), result=text.split("\\n", 1)[0])))
"""


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_the_encoder(run_with_tpu_compiler):
    report = json.loads(run_with_tpu_compiler(_COMPILE)[-1])
    assert re.search(r"->\(bf16\[8,4,4,8\]\S* bf16\[8,4,4,8\]", report["result"])
    assert (report["host_operations"], report["all_reduces"], report["cores"]) == (0, 0, 1)
    assert report["temporary_bytes"] < 2**26
