"""Scores samples of digits against the real ones: the right class, the right distribution, and no copies.

    python -m dit_tf.score_digits --samples=guided.npz --unguided_samples=unguided.npz

Prints a table, then one JSON object as the last line.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import json
import time

import numpy as np

from dit_tf import flags
from dit_tf.data import pipeline
from dit_tf.evaluation.class_agreement import class_agreement, train_classifier
from dit_tf.evaluation.extractor import PixelExtractor
from dit_tf.evaluation.frechet import frechet
from dit_tf.evaluation.nearest_neighbours import nearest_neighbour_ratio
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.evaluation.precision_recall import precision_and_recall
from dit_tf.evaluation.scores import title_of
from dit_tf.evaluation.statistics import Statistics
from dit_tf.models.codec import scale_pixels

_SHAPE, _CLASSES = (8, 8, 1), 10
_BATCH = 1000  # images
_TABLE = (  # title, score, the score of real digits, what those are
    ("class agreement", "class_agreement", "classifier_accuracy", "held-out digits: the classifier's own accuracy"),
    ("{fd} to all digits", "frechet_pixels", "frechet_pixels_halves", "one half, 899, to the other; no FID"),
    ("{fd} to held-out digits", "frechet_held_out", "frechet_held_out_train", "the 1,437 training digits"),
    ("precision", "precision", "precision_halves", "one half to the other; samples that lie among digits"),
    ("recall", "recall", "recall_halves", "one half to the other; digits that lie among samples"),
    (
        "nearest-neighbour distance ratio",
        "nearest_neighbour_ratio",
        "nearest_neighbour_ratio_held_out",
        "held-out digits, 1 by definition; a copier of training digits is far below 1",
    ),
)
_SUMMARY = ("class_agreement", "frechet_pixels", "nearest_neighbour_ratio", "precision", "recall")


def main(options):
    scores = score(options.samples, options.unguided_samples, options.data_dir)
    total_seconds = None if options.start_time is None else round(time.time() - options.start_time, 1)
    print(table(scores))
    print(json.dumps(summary(scores, options.samples, options.train_seconds, total_seconds), allow_nan=False))


def score(samples, unguided_samples, data_dir=None):
    """Paths of two npz files -> a dict of numbers. All are of pixels in [-1, 1]."""
    given = {
        "guided": load_samples("--samples", samples),
        "unguided": load_samples("--unguided_samples", unguided_samples),
    }
    digits = pipeline.open_dataset("digits", data_dir)
    (train, train_labels), (test, test_labels) = (real_features(digits, split) for split in ("train", "test"))
    judge = train_classifier(train, train_labels)
    real = np.concatenate([train, test])
    halves = real[1::2], real[::2]
    scores = {
        "classifier_accuracy": class_agreement(judge, test, test_labels),
        "frechet_pixels_halves": frechet_pixels(*halves),
        "frechet_held_out_train": frechet_pixels(test, train),
        "nearest_neighbour_ratio_held_out": nearest_neighbour_ratio(test, train, test),
        **precision_recall_pixels(*halves, "halves"),
    }
    for kind, (features, labels) in given.items():
        scores |= {
            f"count_{kind}": len(features),
            f"class_agreement_{kind}": class_agreement(judge, features, labels),
            f"frechet_pixels_{kind}": frechet_pixels(real, features),
            f"frechet_held_out_{kind}": frechet_pixels(test, features),
            f"nearest_neighbour_ratio_{kind}": nearest_neighbour_ratio(features, train, test),
            **precision_recall_pixels(real, features, kind),
        }
    return scores


def load_samples(flag, path):
    """An npz in ADM's layout -> features (M, 64) and labels (M,); ValueError names the flag and the file."""
    if not path:
        raise ValueError(f"{flag} must name an npz file of samples, got {path!r}.")
    images, title = NpzImages(flag, path, channels=_SHAPE[-1:]), f"{flag}={path}"
    if images.shape != _SHAPE:
        found = "x".join(map(str, images.shape))
        raise ValueError(f"{title}: its images must be digits of 8x8x1, got {found}: draw them with a model of digits.")
    features = int(np.prod(_SHAPE))
    if images.count < features:  # with fewer, `frechet` would name a flag that is not one of this command
        raise ValueError(
            f"{title} must be at least as many images as a digit has pixels, {features}, got {images.count}: draw "
            "more, with --num_samples=500 of dit_tf.sample."
        )
    labels = images.labels()
    if labels is None:
        raise ValueError(f"{title} has no labels (arr_1): draw the images with dit_tf.sample, which stores them.")
    if labels.min() < 0 or labels.max() >= _CLASSES:
        raise ValueError(
            f"{title}: its labels (arr_1) must be 0 to {_CLASSES - 1}, got {labels.min()} to {labels.max()}: draw the "
            "images with a model of digits."
        )
    return np.concatenate([pixel_features(batch) for batch in images.batches(_BATCH)]), labels


def real_features(digits, split):
    images, labels = pipeline.real_images(digits, split)
    return pixel_features(images), labels


pixel_features = PixelExtractor(_SHAPE, _BATCH, scale_pixels)  # uint8 (M, 8, 8, 1) -> float32 (M, 64) in [-1, 1]


def frechet_pixels(reference, samples):
    """Of features (M, 64) and (N, 64)."""
    return frechet(*(Statistics.of(features).gaussian() for features in (reference, samples))).distance


def precision_recall_pixels(reference, samples, kind):
    """{"precision_KIND", "recall_KIND"} of features (M, 64) and (N, 64)."""
    values = precision_and_recall(reference, samples, progress=False)
    return {f"{name}_{kind}": float(value[0]) for name, value in zip(("precision", "recall"), values)}


def table(scores):
    """The numbers beside what real digits score, for a reader."""
    counts = dict.fromkeys(scores[f"count_{kind}"] for kind in ("guided", "unguided"))
    fd = " and ".join(title_of("pixels", count) for count in counts)
    titles = [title.format(fd=fd) for title, *_ in _TABLE]
    width = max(map(len, titles)) + 1
    lines = [f"{'pixels in [-1, 1]':<{width}}{'guided':>9}{'unguided':>10}{'real':>9}"]
    for title, (_, key, real, meaning) in zip(titles, _TABLE):
        values = (scores[f"{key}_guided"], scores[f"{key}_unguided"], scores[real])
        lines.append("{:<{}}{:>9.3f}{:>10.3f}{:>9.3f}  ({})".format(title, width, *values, meaning))
    return "\n".join(lines)


def summary(scores, samples, train_seconds, total_seconds):
    """The record of the last line: paths and seconds as given, null where they were not."""
    return {
        "samples": samples,
        **{f"{key}_{kind}": scores[f"{key}_{kind}"] for key in _SUMMARY for kind in ("guided", "unguided")},
        "classifier_accuracy": scores["classifier_accuracy"],
        "train_seconds": train_seconds,
        "total_seconds": total_seconds,
    }


if __name__ == "__main__":
    flags.run(main, flags.define_score_digits, resumes=False)
