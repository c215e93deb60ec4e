"""The Inception Score (Salimans et al. 2016): exp(mean over images of KL(p(y|x) || p(y))), the mean over splits.

Splits are runs of `split_size` images in their order; a short one at the end counts as much as the others, as in ADM's
evaluator. The order within a split does not matter. Float64, where ADM has float32: the difference is near 1e-7.
"""

import numpy as np


def inception_score(probabilities, split_size=5000):
    """(M, classes) of M images, each row a distribution -> the score, from 1 to the number of classes.

    ValueError for another shape, no images, and rows that are no distributions.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(f"Probabilities must be (images, classes), at least one of each, got {probabilities.shape}.")
    if split_size < 1:
        raise ValueError(f"The split size of the Inception Score must be at least 1, got {split_size}.")
    splits = range(0, len(probabilities), split_size)
    return float(np.mean([_score_of_split(probabilities[start : start + split_size]) for start in splits]))


def _score_of_split(probabilities):
    p = probabilities.astype(np.float64)
    # Written so that NaN is refused too. Float16 probabilities of 1,008 classes sum to 1 within this.
    if not (p.min() >= 0.0 and np.abs(p.sum(axis=1) - 1.0).max() < 1e-2):
        raise ValueError("Probabilities must be at least 0 and sum to 1 in every row: is the softmax missing?")
    marginal = p.mean(axis=0)
    # p log(p / marginal) is 0 in the limit p = 0, which underflow reaches; 0 log 0 would be NaN.
    ratio = np.divide(p, marginal, out=np.ones_like(p), where=p > 0.0)
    return np.exp((p * np.log(ratio)).sum(axis=1).mean())
