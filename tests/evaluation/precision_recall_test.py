"""Claims of precision and recall: distances by hand, rounding, blocks and order change nothing, ADM, bad features."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.evaluation import precision_recall as module
from dit_tf.evaluation.precision_recall import manifold_radii, precision_and_recall

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "adm"


def scores(*features, **options):
    return precision_and_recall(*features, progress=False, **options)


def whole_numbers(rng, count, width=5):
    """Features whose products and squares are exact in float16, so that no result depends on rounding."""
    return rng.integers(-8, 9, size=(count, width)).astype(np.float32)


def normal(rng, count, width=16, scale=1.0):
    return scale * rng.normal(size=(count, width)).astype(np.float32)


def by_definition(reference, samples, k):
    """Equations 1 and 2 of the paper, in float64, with all pairs at once."""

    def inside(points, others):
        own = np.sort(((others[:, None] - others) ** 2).sum(-1), axis=1)[:, k]
        return (((points[:, None] - others) ** 2).sum(-1) <= own).any(axis=1).mean()

    reference, samples = reference.astype(np.float64), samples.astype(np.float64)
    return inside(samples, reference), inside(reference, samples)


DTYPES = pytest.mark.parametrize("dtype", ["float16", "float32"])


@DTYPES
def test_a_line_by_hand(dtype):
    reference, samples = ([[value] for value in values] for values in ([0, 1, 3, 6, 10], [1, 2, 3, 4, 30]))
    # The lonely sample at 30 is in no reference's ball, and its own holds the reference at 10.
    np.testing.assert_array_equal(manifold_radii(reference, dtype=dtype)[:, 0], [36, 25, 9, 25, 81])
    np.testing.assert_array_equal(manifold_radii(samples, dtype=dtype)[:, 0], [9, 4, 4, 9, 784])
    precision, recall = scores(reference, samples, dtype=dtype)
    assert (precision, recall) == (0.8, 1.0)


def test_the_rim_is_inside():
    reference, samples = [[0.0], [1.0], [2.0], [3.0]], [[-3.0], [-3.125], [100.0], [101.0]]
    precision, _ = scores(reference, samples)
    assert precision == 0.25  # -3 is as far from 0 as 3 is; -3.125 is not


@DTYPES
def test_whole_numbers_have_the_result_of_the_definition(rng, dtype):
    reference, samples = whole_numbers(rng, 60), whole_numbers(rng, 50)
    precision, recall = scores(reference, samples, nhood_sizes=(1, 3, 4), dtype=dtype)
    for i, k in enumerate((1, 3, 4)):
        assert (precision[i], recall[i]) == by_definition(reference, samples, k)
    assert 0.0 < precision[0] < precision[2] < 1.0


@DTYPES
def test_equal_sets_and_sets_apart(rng, dtype):
    features = normal(rng, 40)
    assert scores(features, features, dtype=dtype) == (1.0, 1.0)
    assert scores(features, features + 20.0, dtype=dtype) == (0.0, 0.0)


@DTYPES
def test_the_order_of_images_does_not_matter(rng, dtype):
    reference, samples = normal(rng, 60), normal(rng, 50, scale=0.8)
    shuffled = scores(rng.permutation(reference), rng.permutation(samples), dtype=dtype)
    assert shuffled == scores(reference, samples, dtype=dtype)


@DTYPES
@pytest.mark.parametrize("block", [1, 3, 7, 59, 60])
def test_the_size_of_blocks_does_not_matter(rng, dtype, block, monkeypatch):
    reference, samples = whole_numbers(rng, 60), whole_numbers(rng, 50)
    options = dict(nhood_sizes=(3, 5), dtype=dtype)
    expected = scores(reference, samples, **options), manifold_radii(reference, **options)
    monkeypatch.setattr(module, "_TILE", 26)
    np.testing.assert_array_equal(scores(reference, samples, block=block, **options), expected[0])
    np.testing.assert_array_equal(manifold_radii(reference, block=block, **options), expected[1])


def test_blocks_of_float16_round_as_one_block_does(rng):
    features = normal(rng, 70, width=64)
    np.testing.assert_array_equal(manifold_radii(features, block=9), manifold_radii(features))


def test_rounding_is_that_of_float16(rng):
    values = np.concatenate([rng.normal(size=1000) * 10.0 ** rng.integers(-4, 5, 1000), [0.0, 65504.0, 2049.0, 2051.0]])
    values = values[(np.abs(values) >= 2**-14) | (values == 0)].astype(np.float32)
    values = values[np.abs(values) <= 65504.0]
    np.testing.assert_array_equal(module._rounded(values.copy()), values.astype(np.float16).astype(np.float32))


def float16_by_tensorflow(u, v):
    """The evaluator's distances, written with TensorFlow's own float16."""
    u, v = tf.cast(u, tf.float16), tf.cast(v, tf.float16)
    norm_u, norm_v = (tf.reduce_sum(tf.square(a), 1) for a in (u, v))
    distances = tf.maximum(norm_u[:, None] - 2 * tf.matmul(u, v, transpose_b=True) + norm_v, 0.0)
    return tf.cast(distances, tf.float32).numpy()


def test_distances_are_those_of_tensorflows_float16(rng):
    u, v = np.abs(normal(rng, 40, width=2048)), np.abs(normal(rng, 30, width=2048))
    first, second = (module._Features("the set", a, (3,), "float16") for a in (u, v))
    products = module._products(first, second, slice(None), slice(None), half=True)
    ours = module._distances(products, first.half_norms, second.half_norms, half=True)
    expected = float16_by_tensorflow(u, v)
    # Sums of products in another order may fall to the other side of a rounding, of 2 at this size: few do.
    assert np.mean(ours != expected) < 0.02
    np.testing.assert_allclose(ours, expected, rtol=0, atol=4.0)


@pytest.mark.parametrize("case", ["fp16path", "fp32path"])  # all distances finite in float16; none
def test_agrees_with_adms_evaluator(case):
    golden = np.load(GOLDENS / "manifold_numeric.npz")
    reference, samples = (golden[f"{case}/acts_{name}"] for name in ("ref", "sample"))
    for features, name in ((reference, "ref"), (samples, "sample")):
        # float16: the same numbers. float32: |u|^2 is around 200,000 here, and 0.125 is eight spacings of it.
        tolerance = 0.0 if case == "fp16path" else 0.125
        radii = manifold_radii(features, nhood_sizes=(3, 5))
        np.testing.assert_allclose(radii, golden[f"{case}/k3_5/radii_{name}"], rtol=0, atol=tolerance)
    precision, recall = scores(reference, samples, nhood_sizes=(3, 5))
    np.testing.assert_allclose(precision, golden[f"{case}/k3_5/precision"], rtol=1e-15)
    np.testing.assert_allclose(recall, golden[f"{case}/k3_5/recall"], rtol=1e-15)
    precision, recall = scores(reference, samples, dtype="float32")
    np.testing.assert_allclose((precision[0], recall[0]), by_definition(reference, samples, 3), rtol=1e-15)


def test_float16_and_float32_differ_where_the_evaluator_says():
    golden = np.load(GOLDENS / "manifold_numeric.npz")
    features = [golden[f"fp16path/acts_{name}"] for name in ("ref", "sample")]
    recalls = [scores(*features, dtype=dtype)[1][0] for dtype in ("float16", "float32")]
    assert recalls == pytest.approx([43 / 120, 44 / 120], rel=1e-15)  # a near-tie falls to the other side


def test_agrees_with_the_whole_program_of_adm():
    expected = json.loads((GOLDENS / "e2e_metrics.json").read_text())["stdout_metrics"]
    golden = np.load(GOLDENS / "e2e_activations.npz")
    precision, recall = scores(golden["ref_pool_3"], golden["sample_pool_3"])
    assert (precision, recall) == (expected["Precision"], expected["Recall"])


@pytest.mark.parametrize(
    "scale, certain, half", [(10, True, True), (25, False, True), (40, False, False), (90, True, False)]
)
def test_a_tile_is_in_float32_where_float16_overflows(rng, scale, certain, half):
    features = normal(rng, 30, scale=scale)
    distances = float16_by_tensorflow(features, features)
    assert np.isfinite(distances).all() == half
    largest = (features**2).sum(axis=1).max()
    assert (largest <= 65504 / 5 or largest >= 65504) == certain  # else all pairs are looked at
    radii = manifold_radii(features)
    if half:
        np.testing.assert_array_equal(radii[:, 0], np.sort(distances, axis=1)[:, 3])
    else:
        np.testing.assert_array_equal(radii, manifold_radii(features, dtype="float32"))


def test_only_the_tile_that_overflows_is_in_float32(rng, monkeypatch):
    monkeypatch.setattr(module, "_TILE", 20)
    features = normal(rng, 60)
    features[50] *= 100.0
    kinds = [(r.start // 20, c.start // 20, half) for r, c, half in blocks_of(features)]
    assert kinds == [(i, j, j < 2) for i in range(3) for j in range(i, 3)]


def blocks_of(features):
    both = module._Features("the set", features, (3,), "float16")
    return list(module._blocks(both, both, 20))


@pytest.mark.parametrize("shape, message", [((3, 5), "more images .* got 3 in the samples"), ((30,), r"\(images, num")])
def test_few_or_unshaped_features_are_refused(rng, shape, message):
    with pytest.raises(ValueError, match=message):
        scores(normal(rng, 30, width=5), np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_has_no_finite_square_is_refused(rng, value):
    features = normal(rng, 30)
    features[3, 1] = value
    with pytest.raises(ValueError, match="Features of the reference must be finite"):
        scores(features, normal(rng, 30))


def test_mismatched_sizes_and_unknown_options_are_refused(rng):
    with pytest.raises(ValueError, match="The reference has 16 features and the samples have 5"):
        scores(normal(rng, 30), normal(rng, 30, width=5))
    with pytest.raises(ValueError, match="--precision_recall_dtype must be float16 or float32, got bfloat16"):
        scores(normal(rng, 30), normal(rng, 30), dtype="bfloat16")
    with pytest.raises(ValueError, match="each at least 1"):
        scores(normal(rng, 30), normal(rng, 30), nhood_sizes=(0,))
