"""An evaluation is set up once, with its reference, and then gives the scores of one set of images after another."""

import numpy as np

from dit_tf.evaluation.feature_set import extract_features
from dit_tf.evaluation.frechet import check_count
from dit_tf.evaluation.precision_recall import DTYPES
from dit_tf.evaluation.scores import gaussians, score

_MOST_IMAGES = 100_000  # whose features are kept, and whose pairs are looked at


class Evaluator:
    """Called with a set of images, gives its `Scores`. features_sha256: then, of what was compared.

    An image set has count, shape, batches(batch_size, first) and provenance(). What has been computed of one is kept in
    files that begin with `partial`, so that the same evaluation goes on where it was interrupted.
    """

    def __init__(
        self, extractor, statistics, images, *, partial, num_reference_images=None, dtype=DTYPES[0],
        allow_few_samples=False,
    ):  # fmt: skip
        """statistics: `StoredStatistics` of the reference, or None where its images must give them. images: its image
        set, or None where there is none. num_reference_images: how many of them, evenly spaced, serve precision and
        recall; None: all. ValueError before anything is computed where it cannot be."""
        if dtype not in DTYPES:
            raise ValueError(f"--precision_recall_dtype must be {' or '.join(DTYPES)}, got {dtype}.")
        self._extractor, self._partial = extractor, partial
        self._dtype, self._allow_few_samples = dtype, allow_few_samples
        self.shape = None if images is None else images.shape
        if images is not None and images.count > _MOST_IMAGES:
            raise ValueError(
                f"--reference must hold at most {_MOST_IMAGES:,} images, got {images.count:,}: make a file of them "
                "once, with --make_reference and --num_reference_images=10000."
            )
        if statistics is None:
            self._check_count("The reference", images.count)
        available = 0 if images is None else images.count
        if num_reference_images is not None and not 1 <= num_reference_images <= available:
            raise ValueError(
                f"--num_reference_images must be from 1 to {available:,}, the images of --reference, got "
                f"{num_reference_images}."
            )
        self._images, self._statistics = images, statistics
        self._selected = num_reference_images
        self._reference = self._neighbours = None
        self.features_sha256 = {}

    def check(self, images):
        """ValueError unless a set of images can be scored: before the hours that it takes."""
        self._check_count("The samples", images.count)
        shapes = images.shape, self.shape
        if None not in shapes and len(set(map(self._extractor.compared, shapes))) > 1:
            here, there = ("x".join(map(str, shape)) for shape in shapes)
            raise ValueError(f"The samples must have the size of the reference's images, {there}, got {here}.")

    def __call__(self, images, name="samples"):
        """The `Scores` of a set of images. name: of its file."""
        self.check(images)
        if self._images is not None and self._reference is None:
            self._prepare()
        samples = extract_features(self._extractor, images, f"{self._partial}.{name}", f"features of {name}")
        scores = score(
            self._extractor.name, self._statistics, self._neighbours, samples, dtype=self._dtype,
            allow_few_samples=self._allow_few_samples,
        )  # fmt: skip
        self.features_sha256["samples"] = samples.sha256()
        samples.remove()
        return scores

    def remove(self):
        """What is kept of the reference."""
        if self._reference is not None:
            self._reference.remove()

    def _check_count(self, name, count):
        check_count(name, count, self._extractor.widths[0], self._allow_few_samples)

    def _prepare(self):
        """The features of the reference's images: its statistics, unless they are known, and those that serve precision
        and recall."""
        path = f"{self._partial}.reference"
        self._reference = extract_features(self._extractor, self._images, path, "features of reference")
        self.features_sha256["reference"] = self._reference.sha256()
        if self._statistics is None:
            self._statistics = gaussians(self._reference)
        pool = self._reference.pool
        self._neighbours = pool if self._selected is None else pool[evenly_spaced(len(pool), self._selected)]


def evenly_spaced(count, selected):
    """(selected,) places in 0..count-1, ascending: images that are sorted by class are of all classes then."""
    return np.arange(selected, dtype=np.int64) * count // selected
