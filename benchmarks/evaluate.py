"""FID, sFID, precision and recall of 10,000 samples against 10,000 references, beside the published formulas in NumPy.

    pip install -e '.[cpu,benchmark]' -c launch/constraints-tf2.20.txt
    python benchmarks/evaluate.py

The features are made up from a seed: 2,048 (and 2,023 for sFID) rectified float32 numbers an image, 64 directions of
falling variance and noise. The formulas are written here as they are published: np.cov and scipy.linalg.sqrtm of the
product of covariances, and float32 distances of 1,000 rows at a time to all columns. Both sides are given float32
features, and both have covariances in float64.

Every measurement is a process of its own, so that its peak memory is its own (Linux only); it is counted beyond the
features. The programs take turns, the median turn counts, and a ratio is the median of the ratios within a turn. The
limit of precision and recall is the time of their products, of all pairs of references, of samples and of both, at the
fastest speed of a float32 product that the turns have seen; a set's own pairs are needed once, which allows more than
100%. Where other programs want the same cores, OpenBLAS' threads wait for each other: OPENBLAS_NUM_THREADS=1 then.
"""

import multiprocessing
import statistics
import time

import numpy as np
import psutil
import scipy.linalg
from absl import flags
from machine import print_machine

from dit_tf.evaluation.frechet import frechet
from dit_tf.evaluation.precision_recall import precision_and_recall
from dit_tf.evaluation.statistics import Statistics
from dit_tf.flags import run

K = 3
ROWS = 1000


def define_flags(values):
    flags.DEFINE_integer("images", 10_000, "References, and as many samples.", flag_values=values)
    flags.DEFINE_list("features", ["2048", "2023"], "Of FID and of sFID; the first of precision.", flag_values=values)
    flags.DEFINE_integer("turns", 3, "Of every program; the median counts.", flag_values=values)
    flags.DEFINE_list("programs", list(PROGRAMS), "Which ones take turns.", flag_values=values)


def main(options):
    if options.images < ROWS or options.turns < 1:
        raise ValueError(f"--images must be at least {ROWS} and --turns 1, got {options.images} and {options.turns}.")
    unknown = set(options.programs) - set(PROGRAMS)
    if unknown:
        raise ValueError(f"--programs must be among {', '.join(PROGRAMS)}, got {', '.join(sorted(unknown))}.")
    widths = [int(width) for width in options.features]
    print_machine()
    measured = take_turns(options.programs, options.turns, options.images, widths)
    peak = max(record["product"] for records in measured.values() for record in records)
    print_table(measured, 3 * 2.0 * options.images**2 * widths[0] / peak)
    print(f"fastest float32 product: {peak / 1e9:.0f} GFLOP/s")


def take_turns(programs, turns, images, widths):
    """{name: [what `measure` gives, a turn each]}."""
    fresh, measured = multiprocessing.get_context("forkserver"), {name: [] for name in programs}
    for turn in range(turns):
        for name in programs:
            with fresh.Pool(1) as pool:  # one process, which ends with its task
                record = pool.apply(measure, (name, images, widths))
            measured[name].append(record)
            result = ", ".join(f"{value:.6g}" for value in record["result"])
            line = f"{record['seconds']:.1f} s, {record['bytes'] / 2**20:.0f} MiB, result {result}"
            print(f"  turn {turn + 1}/{turns}, {name}: {line}", flush=True)
    return measured


def measure(name, images, widths):
    """Run one program in this process: seconds, peak bytes beyond the features, result, and FLOP/s of a product."""
    program, count = PROGRAMS[name]
    pairs = [(made_up_features(images, width, 0), made_up_features(images, width, 1)) for width in widths[:count]]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # Linux: the peak starts anew
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    result = [number for pair in pairs for number in program(*pair)]
    seconds, peak = time.perf_counter() - began, peak_bytes()
    return dict(seconds=seconds, bytes=peak - before, result=result, product=product_speed(min(2048, images)))


def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def product_speed(side):
    a, speeds = np.ones((side, side), np.float32), []
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        speeds.append(2.0 * side**3 / (time.perf_counter() - began))
    return max(speeds)


def made_up_features(images, width, seed):
    """float32 (images, width), the rows of the seed, the axes common to all; made in parts, so that no more is held."""
    axes = np.random.default_rng(9).standard_normal((64, width), np.float32)
    axes *= 0.25 * np.arange(1, 65, dtype=np.float32)[:, None] ** -0.5
    rng, features = np.random.default_rng(seed), np.empty((images, width), np.float32)
    for start in range(0, images, ROWS):
        rows = features[start : start + ROWS]
        scale = np.float32(1.0 - 0.05 * seed)  # samples vary less than references
        rows[:] = scale * rng.standard_normal((len(rows), 64), np.float32) @ axes
        rows += 0.3 * rng.standard_normal(rows.shape, np.float32) + 0.2
        np.maximum(rows, 0.0, out=rows)
    return features


def our_frechet(reference, samples):
    return [frechet(*(Statistics.of(features).gaussian() for features in (reference, samples))).distance]


def frechet_by_formula(reference, samples):
    means = [features.mean(axis=0) for features in (reference, samples)]
    covariances = [np.cov(features, rowvar=False) for features in (reference, samples)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    return [np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2.0 * root.real)]


def our_precision(dtype):
    def program(reference, samples):
        return np.concatenate(precision_and_recall(reference, samples, (K,), dtype, progress=False))

    return program


our_float32, our_float16 = our_precision("float32"), our_precision("float16")


def precision_by_formula(reference, samples):
    def distances(u, v):
        for start in range(0, len(u), ROWS):
            rows = u[start : start + ROWS]
            yield (rows**2).sum(axis=1)[:, None] - 2.0 * rows @ v.T + (v**2).sum(axis=1)

    def inside(points, others):
        radii = np.concatenate([np.partition(block, K, axis=1)[:, K] for block in distances(others, others)])
        return np.mean(np.concatenate([(block <= radii).any(axis=1) for block in distances(points, others)]))

    return [inside(samples, reference), inside(reference, samples)]


PROGRAMS = {  # what runs, and on how many kinds of features
    "dit_tf: FID + sFID": (our_frechet, 2),
    "formula: FID + sFID": (frechet_by_formula, 2),
    "dit_tf float32: precision/recall": (our_float32, 1),
    "formula: precision/recall": (precision_by_formula, 1),
    "dit_tf float16: precision/recall": (our_float16, 1),
}


def print_table(measured, limit):
    print("\n| program | seconds | beside the formula | beside the limit | peak MiB | beside the formula |")
    print("|---|---|---|---|---|---|")
    for name, own in measured.items():
        metric = name.split(": ")[1]
        other = measured.get(f"formula: {metric}")
        seconds = statistics.median(record["seconds"] for record in own)
        cells = [name, f"{seconds:.1f}", ratio(own, other, "seconds")]
        cells += [f"{limit / seconds:.0%}" if metric == "precision/recall" else "-"]
        cells += [f"{statistics.median(record['bytes'] for record in own) / 2**20:.0f}", ratio(own, other, "bytes")]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def ratio(own, other, key):
    """How many times less than the other program, with the least and largest turn."""
    if not other:
        return "-"
    ratios = [b[key] / a[key] for a, b in zip(own, other)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    run(main, define_flags)
