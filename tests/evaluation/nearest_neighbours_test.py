"""Claims of the nearest-neighbour ratio: distances by hand, and what it says of copiers and of honest models."""

import numpy as np
import pytest

from dit_tf.evaluation import nearest_neighbours
from dit_tf.evaluation.nearest_neighbours import nearest_distances, nearest_neighbour_ratio


def normal(seed, count, dimension=8):
    return np.random.default_rng(seed).normal(size=(count, dimension))


def test_distances_are_euclidean_and_to_the_nearest():
    distances = nearest_distances([[0.0, 0.0], [9.0, 1.0]], [[3.0, 4.0], [9.0, 0.0], [-6.0, 8.0]])
    np.testing.assert_allclose(distances, [5.0, 1.0], rtol=1e-14)


def test_distances_agree_with_all_pairs(monkeypatch):
    monkeypatch.setattr(nearest_neighbours, "_ROWS", 7)  # so that queries come in several parts
    queries, references = normal(0, 30), normal(1, 40)
    pairs = np.linalg.norm(queries[:, None] - references[None], axis=-1)
    # The same subtraction of the same pair.
    np.testing.assert_allclose(nearest_distances(queries, references), pairs.min(axis=1), rtol=1e-14)


def test_bytes_do_not_wrap_around():
    assert nearest_distances(np.array([[0]], np.uint8), np.array([[250]], np.uint8)) == [250.0]


def test_a_copy_is_at_distance_zero_to_the_bit():
    train = 1000.0 + normal(2, 50)
    np.testing.assert_array_equal(nearest_distances(train[::-1], train), np.zeros(50))


def test_a_copier_scores_zero_and_a_near_copier_far_below_one():
    train, held_out = normal(3, 200), normal(4, 100)
    assert nearest_neighbour_ratio(train[:50], train, held_out) == 0.0
    assert nearest_neighbour_ratio(train[:50] + 1e-3, train, held_out) < 0.01


def test_new_draws_of_the_same_distribution_score_about_one():
    train, held_out, samples = normal(5, 400), normal(6, 400), normal(7, 400)
    # The median of 400 distances of spread 0.5 around 2 has a deviation of 0.03, the ratio 0.02; the seeds are fixed.
    assert nearest_neighbour_ratio(samples, train, held_out) == pytest.approx(1.0, abs=0.06)


def test_the_ratio_has_no_unit():
    train, held_out, samples = normal(8, 60), normal(9, 30), normal(10, 30)
    ratio = nearest_neighbour_ratio(samples, train, held_out)
    assert nearest_neighbour_ratio(4 * samples, 4 * train, 4 * held_out) == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("queries, references", [((3, 2), (4, 3)), ((3, 2), (0, 2)), ((3,), (3,))])
def test_shapes_that_do_not_meet_are_refused(queries, references):
    with pytest.raises(ValueError, match="need .* queries and .* references"):
        nearest_distances(np.zeros(queries), np.zeros(references))
