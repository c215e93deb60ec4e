"""Numbers with their uncertainty: intervals over seeds, paired differences, rank correlations by the bootstrap."""

import math
from typing import NamedTuple

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
AGREES, DISAGREES, UNDECIDED = "agrees", "does not agree", "undecided: the interval holds 0"
ONE_SEED = "undecided: one seed has no interval"
_DRAWS = 4000  # of the bootstrap
_SEED = 0


class Interval(NamedTuple):
    """A mean and its 95 % interval; without bounds where there is a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int

    def map(self, function):
        """Of an increasing function of the number, such as exp."""
        bounds = (None if bound is None else function(bound) for bound in (self.low, self.high))
        return Interval(function(self.mean), *bounds, self.count)

    def __str__(self):
        if self.low is None:
            return short(self.mean)
        return f"{short(self.mean)} [{short(self.low)}, {short(self.high)}]"


class Correlation(NamedTuple):
    """Spearman's of each seed, their mean, and the interval of that mean over seeds and models."""

    interval: Interval
    by_seed: dict
    models: int

    def __str__(self):
        values = self.by_seed.values()
        spread = f"; by seed {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "; one seed"
        low, high = self.interval.low, self.interval.high
        bounds = "" if low is None else f" [{low:.2f}, {high:.2f}]"
        return f"{self.interval.mean:.2f}{bounds}{spread}".replace("-", "−")


def short(number):
    """Three digits, and never the exponent that Python would write for 1234."""
    if number == 0 or not math.isfinite(number):
        return f"{number:.2f}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:.{min(digits, 6)}f}".replace("-", "−")


def t_interval(values):
    """Student's interval of the mean of independent numbers."""
    values = np.asarray(list(values), np.float64)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Interval(mean, None, None, count)
    margin = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * values.std(ddof=1) / math.sqrt(count))
    return Interval(mean, mean - margin, mean + margin, count)


def paired_difference(a, b):
    """a - b over the seeds of both, {seed: number} each; None where they share no seed."""
    seeds = [seed for seed in a if seed in b]
    return t_interval(a[seed] - b[seed] for seed in seeds) if seeds else None


def verdict(interval, sign):
    """Whether the number has the sign that the paper gives it, +1 or -1."""
    if interval.low is None:
        return ONE_SEED
    if interval.low <= 0 <= interval.high:
        return UNDECIDED
    return AGREES if interval.mean * sign > 0 else DISAGREES


def spearman(x, y):
    return float(scipy.stats.spearmanr(x, y).statistic)


def rank_correlation(x, values):
    """Spearman's correlation of x {model: number} with values {model: {seed: number}}, seed by seed -> `Correlation`;
    None with fewer than three models, or where one side has but one value."""
    return _correlations([x], values)[0]


def correlation_difference(x, other, values):
    """|correlation of x| - |correlation of other| -> `Interval` by the bootstrap, or None as above."""
    (first, second), draws = _correlations([x, other], values, with_draws=True)
    if first is None or second is None:
        return None
    difference = abs(first.interval.mean) - abs(second.interval.mean)
    return _percentiles(difference, np.abs(draws[0]) - np.abs(draws[1]), first.interval.count)


def _correlations(xs, values, with_draws=False):
    """A draw takes seeds and models with replacement, the same for every x. How often it took each is a weight: ranks
    and correlations by weights are those of the drawn sample, ties included, for all draws at once."""
    models = [model for model in values if all(model in x for x in xs)]
    seeds = sorted({seed for model in models for seed in values[model]})
    rng = np.random.default_rng(_SEED)
    model_weights = rng.multinomial(len(models), np.ones(len(models)) / max(1, len(models)), _DRAWS)
    seed_weights = rng.multinomial(len(seeds), np.ones(len(seeds)) / max(1, len(seeds)), _DRAWS)
    found, all_draws = [], []
    for x in xs:
        by_seed, drawn = {}, np.full((_DRAWS, len(seeds)), np.nan)
        for column, seed in enumerate(seeds):
            has = np.array([seed in values[model] for model in models])
            pairs = np.array([(x[m], values[m][seed]) for m in models if seed in values[m]], np.float64)
            if len(pairs) > 2 and all(len(set(side)) > 1 for side in pairs.T):
                by_seed[seed] = spearman(*pairs.T)
                drawn[:, column] = _weighted_spearman(*pairs.T, model_weights[:, has])
        weights = np.where(np.isnan(drawn), 0.0, seed_weights)
        with np.errstate(invalid="ignore"):
            draws = (weights * np.nan_to_num(drawn)).sum(1) / weights.sum(1)
        all_draws.append(draws)
        mean = float(np.mean([*by_seed.values()])) if by_seed else 0.0
        interval = _percentiles(mean, draws, len(by_seed))
        found.append(Correlation(interval, by_seed, len(models)) if by_seed else None)
    return (found, all_draws) if with_draws else found


def _percentiles(mean, draws, count):
    draws = draws[np.isfinite(draws)]
    tails = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tails, 100 - tails]) if len(draws) else (None, None)
    return Interval(mean, low if low is None else float(low), high if high is None else float(high), count)


def _weighted_spearman(x, y, weights):
    """(M,), (M,), (draws, M) -> (draws,); NaN where a draw has but one value on a side."""
    weights = weights.astype(np.float64)
    total = np.maximum(weights.sum(1, keepdims=True), 1.0)
    sides = []
    for side in (x, y):
        below = (side[None, :] < side[:, None]) + 0.5 * (side[None, :] == side[:, None])
        ranks = weights @ below.T
        sides.append(ranks - (weights * ranks).sum(1, keepdims=True) / total)
    covariance, *variances = ((weights * a * b).sum(1) for a, b in (sides, sides[:1] * 2, sides[1:] * 2))
    scale = np.sqrt(variances[0] * variances[1])
    return np.divide(covariance, scale, out=np.full(len(scale), np.nan), where=scale > 1e-9)
