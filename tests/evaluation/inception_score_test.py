"""Claims of the Inception Score: its extremes, its invariances, ADM's evaluator, bad probabilities."""

import json
import pathlib

import numpy as np
import pytest

from dit_tf.evaluation.inception_score import inception_score

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "adm"


def distributions(rng, count, classes=10):
    return rng.dirichlet(np.full(classes, 0.3), size=count)


def test_images_that_say_nothing_score_one():
    assert inception_score(np.full((20, 8), 1 / 8)) == pytest.approx(1.0, rel=1e-15)


def test_certain_and_varied_images_score_the_number_of_classes():
    # All but one probability is zero here, where the formula as written has 0 log 0.
    assert inception_score(np.tile(np.eye(8), (5, 1))) == pytest.approx(8.0, rel=1e-14)


def test_two_images_by_hand():
    # Marginal (1/2, 1/2); both rows are (p, 1 - p) up to order.
    p = np.array([0.9, 0.1])
    expected = np.exp(np.sum(p * np.log(p / 0.5)))
    assert inception_score([p, p[::-1]]) == pytest.approx(expected, rel=1e-14)


def test_a_probability_that_underflows_is_the_limit_of_small_ones(rng):
    p = distributions(rng, 50)
    p[:, 0] = 1e-30
    p /= p.sum(axis=1, keepdims=True)
    zero = np.where(p < 1e-20, 0.0, p)
    assert inception_score(zero) == pytest.approx(inception_score(p), rel=1e-14)
    zero[7, 1] = 1e-300  # next to nothing in one row alone
    assert np.isfinite(inception_score(zero))


def test_a_short_last_split_counts_as_much_as_the_others(rng):
    p = distributions(rng, 25)
    parts = [inception_score(part) for part in (p[:10], p[10:20], p[20:])]
    assert inception_score(p, split_size=10) == pytest.approx(np.mean(parts), rel=1e-14)
    assert inception_score(p) != pytest.approx(np.mean(parts), rel=1e-3)  # splits of 5,000: one


def test_the_order_within_a_split_does_not_matter(rng):
    p = distributions(rng, 30)
    shuffled = np.concatenate([rng.permutation(p[:20]), p[20:]])
    assert inception_score(shuffled, split_size=20) == pytest.approx(inception_score(p, split_size=20), rel=1e-14)


@pytest.mark.parametrize("split_size", [5000, 100, 128, 37])
def test_agrees_with_adms_evaluator(split_size):
    golden = np.load(GOLDENS / "inception_score_numeric.npz")
    expected = golden[f"a/split{split_size}"]
    # The project's figure. Its float32 is 1e-7 away.
    assert inception_score(golden["a/preds"], split_size) == pytest.approx(expected, rel=1e-6)


def test_agrees_with_the_whole_program_of_adm():
    expected = json.loads((GOLDENS / "e2e_metrics.json").read_text())["stdout_metrics"]["Inception Score"]
    score = inception_score(np.load(GOLDENS / "e2e_activations.npz")["sample_softmax"])
    assert score == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 0), (5, 2, 2)], ids=str)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(images, classes\)"):
        inception_score(np.ones(shape))


@pytest.mark.parametrize("row", [[np.nan, 1.0], [-0.5, 1.5], [2.0, 3.0], [np.inf, 0.0]], ids=str)
def test_rows_that_are_no_distributions_are_refused(row):
    with pytest.raises(ValueError, match="sum to 1"):
        inception_score([[0.5, 0.5], row])


def test_a_split_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        inception_score([[0.5, 0.5]], split_size=0)
