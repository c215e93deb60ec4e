"""ADM's five numbers, from features: FID, sFID, Inception Score, precision and recall (Dhariwal and Nichol 2021)."""

import dataclasses

from dit_tf.evaluation.frechet import Frechet, frechet
from dit_tf.evaluation.inception_score import inception_score
from dit_tf.evaluation.precision_recall import precision_and_recall
from dit_tf.evaluation.references import StoredStatistics
from dit_tf.evaluation.statistics import Statistics

_VISIBLE = 0.005  # of a distance that is printed with two decimals


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a number is called depends on how many images it is of, and on their features: nothing but Inception's make
    an FID. None: not to be had of these features, or of a reference without images."""

    features: str  # "inception" or "pixels"
    count: int  # of samples
    fid: Frechet
    sfid: Frechet | None
    inception_score: float | None
    precision: float | None
    recall: float | None

    @property
    def title(self):
        return title_of(self.features, self.count)

    def numbers(self):
        """{name: number} for metrics.json; the errors are those of the arithmetic (see `Frechet`)."""
        if self.features != "inception":
            names = f"fd_{self.features}", f"precision_{self.features}", f"recall_{self.features}"
            numbers = dict(zip(names, (self.fid.distance, self.precision, self.recall)))
            return numbers | {f"{names[0]}_error": self.fid.error}
        sfid, sfid_error = (None, None) if self.sfid is None else (self.sfid.distance, self.sfid.error)
        return dict(
            fid=self.fid.distance, sfid=sfid, inception_score=self.inception_score,
            precision=self.precision, recall=self.recall, fid_error=self.fid.error, sfid_error=sfid_error,
        )  # fmt: skip

    def columns(self):
        """{title: number} in the order of the paper's tables."""
        if self.features != "inception":
            return {self.title: self.fid.distance, "Precision": self.precision, "Recall": self.recall}
        return {
            self.title: self.fid.distance, "sFID": self.numbers()["sfid"], "IS": self.inception_score,
            "Precision": self.precision, "Recall": self.recall,
        }  # fmt: skip

    def doubts(self):
        """A sentence for each distance whose printed digits rounding may have moved: one of singular covariances."""
        pairs = ((self.title, self.fid), ("sFID", self.sfid))
        return [
            f"Rounding may have moved {name} by {value.error:.2g}: there are too few images for its covariances."
            for name, value in pairs
            if value is not None and value.error > max(_VISIBLE, 1e-3 * value.distance)
        ]

    def logged(self):
        """{name: number} for the log of a training, each with its count: "FID-10K", "precision-10K"."""
        kind, count = self.title.rsplit("-", 1)
        names = [kind, "sFID", "IS", "precision", "recall"]
        if kind != "FID":
            names = [kind, f"precision-{self.features}", f"recall-{self.features}"]
        values = zip(names, self.columns().values(), strict=True)
        return {f"{name}-{count}": value for name, value in values if value is not None}

    def table(self):
        """Two lines: titles, numbers."""
        cells = [(title, "-" if number is None else _shown(title, number)) for title, number in self.columns().items()]
        widths = [max(map(len, cell)) + 2 for cell in cells]
        return "\n".join("".join(f"{text:>{width}}" for text, width in zip(row, widths)) for row in zip(*cells))


def title_of(features, count):
    """FID-50K, FID-10K, FD-pixels-500: a distance is biased upwards by ever more, the fewer the samples."""
    shown = f"{count // 1000}K" if count % 1000 == 0 else str(count)
    return f"{'FID' if features == 'inception' else f'FD-{features}'}-{shown}"


def _shown(title, number):
    """As many digits as the paper gives, and more where the number would be lost."""
    if title in ("Precision", "Recall"):
        return f"{number:.4f}"
    return f"{number:.2f}" if number >= 1 else f"{number:.3g}"


def gaussians(features):
    """`FeatureSet` -> `StoredStatistics`."""
    spatial = None if features.spatial is None else Statistics.of(features.spatial).gaussian()
    return StoredStatistics(Statistics.of(features.pool).gaussian(), spatial)


def score(name, reference, neighbours, samples, *, dtype="float16", allow_few_samples=False, progress=True):
    """name: of the features. reference: `StoredStatistics` of the reference. neighbours: pool features (M, D) of its
    images, for precision and recall, or None. samples: `FeatureSet` -> `Scores`. ValueError as its parts have it."""
    own = gaussians(samples)
    distances = [frechet(*pair, allow_few_samples) for pair in zip(reference, own) if None not in pair]
    precision = recall = None
    if neighbours is not None:
        pair = precision_and_recall(neighbours, samples.pool, dtype=dtype, progress=progress)
        precision, recall = (float(value[0]) for value in pair)
    return Scores(
        features=name, count=samples.count, fid=distances[0], sfid=distances[1] if len(distances) > 1 else None,
        inception_score=None if samples.probabilities is None else inception_score(samples.probabilities),
        precision=precision, recall=recall,
    )  # fmt: skip
