"""The autoencoder in its published size, on random weights that follow from their names, against diffusers."""

import json
import math
import pathlib
import re
import zlib

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.models.autoencoder_kl import AutoencoderKL, Posterior
from dit_tf.pretrained.vae_map import convert

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "vae"

# Float32 in another order: 5e-6 is observed for the moments and 1.6e-5 for pixels, diffusers itself is up to 1e-5 away
# from its float64 run. KerasCV's own epsilon, 1e-5 in the place of 1e-6, is an error of 8e-5 and more.
_FLOAT32 = dict(rtol=0, atol=4e-5)


@pytest.fixture(scope="module")
def arrays():
    with np.load(_GOLDENS / "sd_vae_full.npz") as file:
        return {key.removesuffix("_nchw"): np.moveaxis(a, 1, -1) for key, a in file.items()}


@pytest.fixture(scope="module")
def weights():
    """{our name: array}, drawn as the goldens' were: each by a generator seeded with the CRC-32 of diffusers' name."""

    def draw(name, shape):
        a = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
        if name.endswith("bias"):
            return np.float32(0.05) * a
        return 1 + np.float32(0.1) * a if len(shape) == 1 else a * np.float32(0.8 / math.sqrt(math.prod(shape[1:])))

    rows = json.loads((_GOLDENS / "key_map_sd_vae.json").read_text())["rows"]
    return convert({row["diffusers"]: draw(row["diffusers"], row["shape_diffusers"]) for row in rows})


@pytest.fixture(scope="module")
def vae(weights):
    vae = AutoencoderKL()
    vae.assign(weights)
    return vae


@pytest.fixture(scope="module")
def half(weights):
    vae = AutoencoderKL("mixed_bfloat16")
    vae.assign(weights)
    return vae


def test_a_sample_is_mean_plus_deviation_times_noise(rng):
    mean, deviation, noise = rng.normal(size=(3, 2, 4, 6, 4)).astype(np.float32)
    posterior = Posterior(mean, 2 * np.log(np.abs(deviation)))
    np.testing.assert_allclose(posterior.sample(noise), mean + np.abs(deviation) * noise, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(posterior.sample(0.0), posterior.mode())


def test_the_parameters_are_as_many_as_published(vae):
    assert len(vae.by_name) == 248
    assert sum(math.prod(v.shape) for v in vae.by_name.values()) == 83_653_863


def test_moments_agree_with_diffusers(vae, arrays):
    mean, logvar = vae.moments(arrays["image"])  # (2, 64, 96, 3)
    assert mean.dtype == logvar.dtype == tf.float32
    np.testing.assert_allclose(mean, arrays["posterior_mean"], **_FLOAT32)
    np.testing.assert_allclose(logvar, arrays["posterior_logvar"], **_FLOAT32)


def test_decoded_pixels_agree_with_diffusers(vae, arrays):
    images = vae.decode(arrays["latent"])  # (2, 8, 12, 4)
    assert images.dtype == tf.float32
    np.testing.assert_allclose(images, arrays["decoded"], **_FLOAT32)


def test_the_log_variance_is_clipped(vae, arrays):
    bias = vae.by_name["encoder/quant/bias"]
    before = bias.numpy()
    bias.assign([0, 0, 0, 0, 1e3, -1e3, 0, 0])
    logvar = vae.moments(arrays["image"][:1, :16, :16]).logvar.numpy()
    bias.assign(before)
    assert (logvar[..., 0] == 20).all() and (logvar[..., 1] == -30).all()


@pytest.fixture(scope="module")
def narrow():
    """A quarter of the width: where the network's numbers do not matter."""
    return AutoencoderKL(width=32)


def test_slices_of_a_compiled_batch_equal_single_images(narrow, arrays, monkeypatch):
    """Three rows in two slices of two, one of them filled up."""
    latents = arrays["latent"].reshape(-1, 2, 1, 4)[:3]
    images = arrays["image"].reshape(-1, 16, 8, 3)[:3]
    decoded = tf.concat([narrow.decode(row[None]) for row in latents], axis=0)
    means = tf.concat([narrow.moments(row[None]).mean for row in images], axis=0)
    monkeypatch.setattr(narrow, "pixels_at_once", 2 * 16 * 8 + 1)
    np.testing.assert_allclose(narrow.decode(latents), decoded, **_FLOAT32)
    compiled = tf.function(lambda *x: (narrow.decode(x[0]), narrow.moments(x[1]).mean), jit_compile=True, autograph=False)
    for actual, expected in zip(compiled(latents, images), (decoded, means)):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, **_FLOAT32)


def test_the_number_of_rows_may_be_unknown(narrow, arrays, monkeypatch):
    monkeypatch.setattr(narrow, "pixels_at_once", 2 * 16 * 32)
    latents = arrays["latent"].reshape(-1, 2, 4, 4)[:3]
    decode = tf.function(narrow.decode, input_signature=[tf.TensorSpec((None, 2, 4, 4))], autograph=False)
    for rows in (1, 2, 3):
        np.testing.assert_allclose(decode(latents[:rows]), narrow.decode(latents[:rows]), **_FLOAT32)


def test_bfloat16_products_stay_close_to_float32(vae, half, arrays):
    """8 bits, 2^-9 relative a rounding, some fifty times in a row: 2% of the norm are observed both ways."""
    image, latent = arrays["image"][:1, :32, :32], arrays["latent"][:1, :3, :4]
    results = (*half.moments(image), half.decode(latent))
    for actual, expected in zip(results, (*vae.moments(image), vae.decode(latent))):
        assert actual.dtype == tf.float32
        assert 1e-3 < np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 0.04


def test_norms_and_softmax_are_float32_under_bfloat16(half):
    """And of the 72 convolutions four in either attention, the two next to the latents, and the two last ones."""
    both = tf.function(lambda images: half.decode(half.moments(images).mean), autograph=False)
    graph = both.get_concrete_function(tf.TensorSpec((1, 32, 32, 3))).graph
    types = {}
    for op in graph.get_operations():
        if op.outputs:
            types.setdefault(op.type, []).append(op.outputs[0].dtype)
    for sensitive in ("Mean", "SquaredDifference", "Rsqrt", "Sigmoid", "BatchMatMulV2", "Softmax"):
        assert set(types[sensitive]) == {tf.float32}
    assert [types["Conv2D"].count(dtype) for dtype in (tf.bfloat16, tf.float32)] == [60, 12]


@pytest.mark.parametrize("size, said", [((60, 64), "60x64"), ((64, 20), "64x20")])
def test_sizes_must_be_divisible_by_8(vae, size, said):
    with pytest.raises(ValueError, match=f"divisible by 8, got {said}"):
        vae.moments(np.zeros((1, *size, 3), np.float32))


def test_another_dtype_and_another_width_are_refused():
    with pytest.raises(ValueError, match="float32 or mixed_bfloat16, got 'float16'"):
        AutoencoderKL("float16")
    for width in (0, 100, 544, "wide"):
        with pytest.raises(ValueError, match=f"width must be a multiple of 32 up to 512, got {width!r}"):
            AutoencoderKL(width=width)


def test_weights_that_do_not_fit_are_refused(vae, weights):
    less = {name: a for name, a in weights.items() if name != "decoder/conv_in/bias"}
    with pytest.raises(ValueError, match=r"missing \['decoder/conv_in/bias'\], not used \['loss'\]"):
        vae.assign({**less, "loss": 0})
    with pytest.raises(ValueError, match=r"decoder/conv_in/bias has shape \(512,\), the array \(4,\)"):
        vae.assign({**less, "decoder/conv_in/bias": np.zeros(4)})


_COMPILE = """
import dataclasses, json
from dit_tf.runtime import tpu_compiler
tpu_compiler.prepare_environment()
import keras
import tensorflow as tf
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.costs import abstract

vae = abstract(AutoencoderKL)
weights = {name: v for name, v in vae.by_name.items() if name.startswith("decoder/")}

@tf.function(jit_compile=True, autograph=False)
def decode(params, latents):
    with keras.StatelessScope(state_mapping=[(v, params[name]) for name, v in weights.items()]):
        return vae.decode(latents)

specs = {name: tf.TensorSpec(v.shape, tf.float32) for name, v in weights.items()}
arguments = specs, tf.TensorSpec((1, 32, 32, 4), tf.float32)
report, text = tpu_compiler.compile_function(decode, arguments, topology="v3:2x2")
print(json.dumps(dict(dataclasses.asdict(report), result=text.split("\\n", 1)[0])))
"""


def _decoder_macs(weights):
    """Multiply-adds for one image of 256 x 256: each kernel at every pixel of its level, and attention's products."""

    def side(name):
        level = re.search(r"/up(\d)/(\w+)", name)
        if level:
            return 32 * 2 ** (int(level[1]) + (level[2] == "upsample"))
        return 256 if name.endswith("conv_out/kernel") else 32

    kernels = {name: a for name, a in weights.items() if name.startswith("decoder/") and name.endswith("/kernel")}
    return sum(a.size * side(name) ** 2 for name, a in kernels.items()) + 2 * 1024**2 * 512


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_the_decoder(run_with_tpu_compiler, weights):
    report = json.loads(run_with_tpu_compiler(_COMPILE)[-1])
    assert re.search(r"->\(?f32\[1,256,256,3\]", report["result"])
    assert (report["host_operations"], report["all_reduces"], report["cores"]) == (0, 0, 1)
    assert 1 < report["flops"] / (2 * _decoder_macs(weights)) < 1.1
    assert report["temporary_bytes"] < 2**28  # 143 MB: two tensors of 256 x 256 x 256 and some more
