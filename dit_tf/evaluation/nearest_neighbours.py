"""Does a model copy its training images? Distances from samples to the nearest of them, against real images' own."""

import numpy as np

_ROWS = 1024  # distances are held for so many queries at a time


def nearest_distances(queries, references):
    """(M, D) and (R, D) -> (M,) Euclidean distance from each query to the nearest reference, float64."""
    queries, references = np.asarray(queries, np.float64), np.asarray(references, np.float64)
    if queries.ndim != 2 or references.ndim != 2 or queries.shape[1] != references.shape[1] or not len(references):
        raise ValueError(f"need (M, D) queries and (R, D) references, got {queries.shape} and {references.shape}.")
    squares = (references**2).sum(axis=1)
    nearest = [np.argmin(squares - 2.0 * rows @ references.T, axis=1) for rows in _chunks(queries)]
    # |q|^2 + |r|^2 - 2 q.r ranks well but loses half the digits near zero, where a copy shows: subtract the pair.
    return np.linalg.norm(queries - references[np.concatenate(nearest)], axis=1)


def nearest_neighbour_ratio(samples, train, held_out):
    """Median distance from samples to the nearest training image, over that from held-out real images.

    About 1 where samples lie as far from the training images as new real images do; far below 1 for a copier.
    """
    return float(np.median(nearest_distances(samples, train)) / np.median(nearest_distances(held_out, train)))


def _chunks(rows):
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
