"""One claim of a paper beside what a study saw of it, and the rules by which the two agree."""

import math
from typing import NamedTuple

from dit_tf.report.statistics import (
    AGREES,
    DISAGREES,
    ONE_SEED,
    UNDECIDED,
    paired_difference,
    short,
    t_interval,
    verdict,
)

_NAMED = 6  # pairs that a sentence lists


class Claim(NamedTuple):
    source: str  # "figure 8"
    says: str
    saw: str
    verdict: str
    picture: str  # the name of the figure that shows it


def claim_of_pairs(source, says, ratios, what, picture, *, every=False):
    """A number that ought to fall from the first to the second of each pair.

    ratios: {name of the pair: {seed: log(second / first)}}; what: "FD-pixels-500 of the larger model". A pair whose
    interval lies wholly on the wrong side settles that the claim does not hold. Otherwise the mean over the pairs
    decides, or with `every` each of them. None without pairs.
    """
    ratios = {name: logs for name, logs in ratios.items() if logs}
    if not ratios:
        return None
    seeds = sorted(set.union(*(set(logs) for logs in ratios.values())))
    means = [[logs[seed] for logs in ratios.values() if seed in logs] for seed in seeds]
    overall = t_interval(sum(logs) / len(logs) for logs in means)
    pairs = {name: t_interval(logs.values()) for name, logs in ratios.items()}
    verdicts = {name: verdict(interval, -1) for name, interval in pairs.items()}
    wrong = [name for name, found in verdicts.items() if found == DISAGREES]
    wrong.sort(key=lambda name: -pairs[name].mean)
    saw = f"{what} is {overall.map(math.exp)} times as large{_over(len(seeds))}"
    if len(pairs) > 1:
        lower = sum(interval.mean < 0 for interval in pairs.values())
        saw += f", in the geometric mean of {len(pairs)} pairs; smaller in {lower} of them"
        certain = sum(found == AGREES for found in verdicts.values())
        saw += f", with the whole interval in {certain}" if len(seeds) > 1 else ""
    if wrong:
        against = listed([f"{name} ({pairs[name].map(math.exp)})" for name in wrong])
        saw += f"; larger with the whole interval for {against}"
    return Claim(source, says, saw, _joined(overall, verdicts.values(), every), picture)


def _joined(overall, verdicts, every):
    if DISAGREES in verdicts:
        return DISAGREES
    if not every:
        return verdict(overall, -1)
    return next((found for found in (ONE_SEED, UNDECIDED) if found in verdicts), AGREES)


def claim_of_difference(source, says, better, worse, metric, picture):
    """That one of two is better. better, worse: (name, {seed: number}); None where they share no seed."""
    (name, values), (other, others) = better, worse
    difference = paired_difference(values, others)
    if difference is None:
        return None
    seeds = [seed for seed in values if seed in others]
    means = (short(sum(side[seed] for seed in seeds) / len(seeds)) for side in (values, others))
    saw = "{} of {} is {}, of {} {}: a difference of {}{}".format(
        metric.title, name, next(means), other, next(means), difference, _over(len(seeds))
    )
    return Claim(source, says, saw, verdict(difference, metric.sign), picture)


def log_ratios(first, second):
    """{seed: log(second / first)} over the seeds of both."""
    return {seed: log(second[seed]) - log(first[seed]) for seed in first if seed in second}


def log(number):
    """Of a distance, which rounding may have put at 0."""
    return math.log(max(number, 1e-12))


def listed(names):
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + rest


def _over(seeds):
    return f" over {seeds} seeds" if seeds > 1 else " (one seed)"
