"""Scores samples of digits against the real ones: the right class, the right distribution, and no copies.

    python -m dit_tf.score_digits --samples=guided.npz --unguided_samples=unguided.npz

Prints a table, then one JSON object as the last line.
"""

import json
import os
import time
import zipfile
import zlib

import numpy as np

from dit_tf import flags
from dit_tf.data import pipeline
from dit_tf.evaluation.class_agreement import class_agreement, train_classifier
from dit_tf.evaluation.frechet import frechet_distance, mean_and_covariance
from dit_tf.evaluation.nearest_neighbours import nearest_neighbour_ratio
from dit_tf.models.codec import scale_pixels

_SHAPE = (8, 8, 1)
_TABLE = (  # title, score, the score of real digits, what those are
    ("class agreement", "class_agreement", "classifier_accuracy", "held-out digits: the classifier's own accuracy"),
    ("Frechet distance to all digits", "frechet_pixels", "frechet_pixels_halves", "one half to the other"),
    ("Frechet distance to held-out digits", "frechet_held_out", "frechet_held_out_train", "training digits"),
    (
        "nearest-neighbour distance ratio",
        "nearest_neighbour_ratio",
        "nearest_neighbour_ratio_held_out",
        "held-out digits, 1 by definition; a copier of training digits is far below 1",
    ),
)


def main(options):
    scores = score(options.samples, options.unguided_samples, options.data_dir)
    total_seconds = None if options.start_time is None else round(time.time() - options.start_time, 1)
    print(table(scores))
    print(json.dumps(summary(scores, options.samples, options.train_seconds, total_seconds), allow_nan=False))


def score(samples, unguided_samples, data_dir=None):
    """Paths of two npz files -> a dict of numbers. Frechet distances are between pixels in [-1, 1]."""
    guided, guided_labels = load_samples("--samples", samples)
    unguided, unguided_labels = load_samples("--unguided_samples", unguided_samples)
    digits = pipeline.open_dataset("digits", data_dir)
    (train, train_labels), (test, test_labels) = (real_features(digits, split) for split in ("train", "test"))
    judge = train_classifier(train, train_labels)
    real = np.concatenate([train, test])
    return {
        "classifier_accuracy": class_agreement(judge, test, test_labels),
        "class_agreement_guided": class_agreement(judge, guided, guided_labels),
        "class_agreement_unguided": class_agreement(judge, unguided, unguided_labels),
        "frechet_pixels_guided": frechet(guided, real),
        "frechet_pixels_unguided": frechet(unguided, real),
        "frechet_pixels_halves": frechet(real[::2], real[1::2]),
        "frechet_held_out_guided": frechet(guided, test),
        "frechet_held_out_unguided": frechet(unguided, test),
        "frechet_held_out_train": frechet(train, test),
        "nearest_neighbour_ratio_guided": nearest_neighbour_ratio(guided, train, test),
        "nearest_neighbour_ratio_unguided": nearest_neighbour_ratio(unguided, train, test),
        "nearest_neighbour_ratio_held_out": nearest_neighbour_ratio(test, train, test),
    }


def load_samples(flag, path):
    """An npz in ADM's layout -> features (M, 64) and labels (M,); ValueError names the flag and the file."""
    if not path:
        raise ValueError(f"{flag} must name an npz file of samples, got {path!r}.")
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle and tell how to open that unsafely
        raise ValueError(f"{flag}={path} {'is no npz file' if os.path.exists(path) else 'does not exist'}.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["arr_0"], arrays["arr_1"]
    except KeyError as error:
        raise ValueError(f"{flag}={path} must hold arr_0 (images) and arr_1 (labels): {error.args[0]}.") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{flag}={path} cannot be read as an npz file of plain arrays: {_sentence(error)}") from error
    if images.dtype != np.uint8 or images.shape[1:] != _SHAPE or len(images) < 2:
        found = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"{flag}={path}: arr_0 must be uint8 of shape (M, 8, 8, 1) with M at least 2, got {found}.")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        found = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{flag}={path}: arr_1 must hold {len(images)} integer labels, got {found}.")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{flag}={path}: labels must be 0 to 9, got {labels.min()} to {labels.max()}.")
    return pixel_features(images), labels.astype(np.int64)


def _sentence(error):
    return " ".join(str(error).split()).rstrip(".") + "."


def real_features(digits, split):
    images, labels = pipeline.real_images(digits, split)
    return pixel_features(images), labels


def pixel_features(images):
    """uint8 (M, 8, 8, 1) -> float64 (M, 64) in [-1, 1], the range that the model sees."""
    return scale_pixels(images).numpy().reshape(len(images), -1).astype(np.float64)


def frechet(features, other_features):
    return frechet_distance(*mean_and_covariance(features), *mean_and_covariance(other_features))


def table(scores):
    """The numbers beside what real digits score, for a reader."""
    lines = [f"{'pixels in [-1, 1]':<36}{'guided':>9}{'unguided':>10}{'real':>9}"]
    for title, key, real, meaning in _TABLE:
        values = (scores[f"{key}_guided"], scores[f"{key}_unguided"], scores[real])
        lines.append("{:<36}{:>9.3f}{:>10.3f}{:>9.3f}  ({})".format(title, *values, meaning))
    return "\n".join(lines)


def summary(scores, samples, train_seconds, total_seconds):
    """The record of the last line: paths and seconds as given, null where they were not."""
    keys = ("class_agreement", "frechet_pixels", "nearest_neighbour_ratio")
    return {
        "samples": samples,
        **{f"{key}_{kind}": scores[f"{key}_{kind}"] for key in keys for kind in ("guided", "unguided")},
        "classifier_accuracy": scores["classifier_accuracy"],
        "train_seconds": train_seconds,
        "total_seconds": total_seconds,
    }


if __name__ == "__main__":
    flags.run(main, flags.define_score_digits, resumes=False)
