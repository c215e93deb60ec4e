"""What a study measured, as it comes to the report, and the numbers by which its models are compared."""

import dataclasses
from typing import NamedTuple

from dit_tf.evaluation.scores import title_of


@dataclasses.dataclass(frozen=True)
class StudyData:
    """A row is a dict of one scoring: run, group, score, baseline, step, seed, model, block, codec, image_size,
    objective, path, prediction, loss_weight, global_batch_size, parameters, macs, training_macs, loss, sampler, solver,
    num_steps, evaluations, cfg_scale, guided_channels, diffusion, sampling_macs, num_samples, features, the scores and
    provenance. macs are multiply-adds of one forward pass of one image.
    """

    title: str
    facts: dict  # name: value; "plan" is a text, "rows_planned" tells a study that still runs
    rows: list
    losses: dict  # {run: [(step, mean loss of the interval before it), ...]}
    images: dict  # {run: uint8 (K, H, W, C)}; image i of every run has the same noise and label

    @property
    def missing(self):
        """Rows that are planned and not there; 0 where the plan's number is not known."""
        return max(0, self.facts.get("rows_planned", 0) - len(self.rows))


class Metric(NamedTuple):
    key: str  # of a row
    title: str
    lower_is_better: bool

    @property
    def sign(self):
        """Of the change of a number that grows better."""
        return -1 if self.lower_is_better else 1


_METRICS = {
    "pixels": (
        Metric("fd_pixels", "", True),
        Metric("class_agreement", "class agreement", False),
        Metric("precision_pixels", "precision of pixels", False),
        Metric("recall_pixels", "recall of pixels", False),
    ),
    "inception": (
        Metric("fid", "", True),
        Metric("sfid", "sFID", True),
        Metric("inception_score", "Inception Score", False),
        Metric("precision", "precision", False),
        Metric("recall", "recall", False),
    ),
}


def metrics_of(rows):
    """The metrics that the rows have, of one kind of features; the first is the distance, with its count of samples."""
    if not rows:
        return ()
    main, *others = _METRICS[rows[0]["features"]]
    counts = sorted({row["num_samples"] for row in rows})
    titles = [title_of(rows[0]["features"], count) for count in counts]
    main = main._replace(title=" and ".join(titles))
    return (main, *(metric for metric in others if any(row.get(metric.key) is not None for row in rows)))
