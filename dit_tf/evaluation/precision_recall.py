"""Improved precision and recall (Kynkaanniemi et al. 2019, equations 1 and 2), with the arithmetic of ADM's evaluator.

The manifold of a set of images is a ball around each, as wide as the distance to its k-th nearest neighbour in the set.
Precision is the share of samples inside the reference's manifold, recall that of references inside the samples'. The
image itself is among its neighbours, as the 0-th; distances are squared, and the rim counts as inside:

    D(u, v) = max((|u|^2 - 2 u.v) + |v|^2, 0)

ADM's evaluator takes features and every step of D in float16, 10,000 rows by 10,000 columns at a time, and the whole of
such a tile in float32 where a distance of it is not finite. `dtype="float16"` does the same, bit by bit but for
products within a float32 rounding of the middle between two float16 numbers: u.v is summed in float32 and rounded once,
|u|^2 is summed by TensorFlow in float16. `dtype="float32"` is float32 throughout.

Only a block of distances exists at a time, and among a set's own images the block (i, j) serves (j, i) too. NumPy and
its BLAS are faster at this on CPUs than TensorFlow.
"""

import numpy as np
import tensorflow as tf
import tqdm

from dit_tf.runtime.progress import BAR_DELAY

DTYPES = ("float16", "float32")

_BLOCK = 1024  # distances on a side: 4 MiB, which caches hold, and no slower a product than larger ones
_TILE = 10_000  # distances on a side that ADM's evaluator computes in one precision
_LARGEST = 65504.0  # of float16


def precision_and_recall(reference, samples, nhood_sizes=(3,), dtype="float16", progress=True, block=_BLOCK):
    """Features (M, D) and (N, D) -> precision and recall, each float64 (K,) for K neighbourhood sizes k.

    ValueError where the features do not fit together, are not finite, or are too few for k neighbours.
    """
    if dtype not in DTYPES:
        raise ValueError(f"--precision_recall_dtype must be {' or '.join(DTYPES)}, got {dtype}.")
    reference, samples = (
        _Features(name, features, nhood_sizes, dtype)
        for name, features in (("the reference", reference), ("the samples", samples))
    )
    if reference.width != samples.width:
        raise ValueError(
            f"The reference has {reference.width} features and the samples have {samples.width}: use one network."
        )
    pairs = len(reference) ** 2 + len(samples) ** 2 + len(reference) * len(samples)
    silent = {} if progress else dict(disable=True)  # where nothing is said, TQDM_DISABLE decides
    with tqdm.tqdm(total=pairs, unit=" pairs", unit_scale=True, delay=BAR_DELAY, **silent) as bar:
        bar.set_description("neighbours of references", refresh=False)
        reference_radii = _radii(reference, nhood_sizes, block, bar)
        bar.set_description("neighbours of samples", refresh=False)
        samples_radii = _radii(samples, nhood_sizes, block, bar)
        bar.set_description("precision and recall", refresh=False)
        inside_reference = np.zeros((len(samples), len(nhood_sizes)), bool)
        inside_samples = np.zeros((len(reference), len(nhood_sizes)), bool)
        for rows, columns, half in _blocks(reference, samples, block):
            products = _products(reference, samples, rows, columns, half)
            distances = _distances(products, reference.norms_of(rows, half), samples.norms_of(columns, half), half)
            for i in range(len(nhood_sizes)):
                inside_reference[columns, i] |= (distances <= reference_radii[rows, i, None]).any(axis=0)
                inside_samples[rows, i] |= (distances <= samples_radii[columns, i]).any(axis=1)
            bar.update(distances.size)
    return inside_reference.mean(axis=0), inside_samples.mean(axis=0)


def manifold_radii(features, nhood_sizes=(3,), dtype="float16", block=_BLOCK):
    """(N, D) -> squared distances to the k-th nearest neighbours, float32 (N, K)."""
    return _radii(_Features("the set", features, nhood_sizes, dtype), nhood_sizes, block, tqdm.tqdm(disable=True))


class _Features:
    """A set in both precisions; float16 numbers are held in float32, which products of them are summed in."""

    def __init__(self, name, features, nhood_sizes, dtype):
        features = np.asarray(features)
        if features.ndim != 2:
            raise ValueError(f"Features of {name} must be (images, numbers), got shape {features.shape}.")
        if min(nhood_sizes, default=0) < 1 or len(features) <= max(nhood_sizes):
            raise ValueError(
                f"Precision and recall with {tuple(nhood_sizes)} neighbours (each at least 1) need more images than "
                f"that, got {len(features)} in {name}."
            )
        self.single = np.ascontiguousarray(features, np.float32)
        self.norms = np.einsum("nd,nd->n", self.single, self.single)
        if not np.isfinite(self.norms).all():
            raise ValueError(f"Features of {name} must be finite, with a finite float32 square: NaN or too large.")
        self.half = self.half_norms = None
        if dtype == "float16":
            self.half, self.half_norms = np.empty_like(self.single), np.empty_like(self.norms)
            for start in range(0, len(features), _BLOCK):
                part = slice(start, start + _BLOCK)
                self.half[part], self.half_norms[part] = _in_half(self.single[part])

    def __len__(self):
        return len(self.single)

    @property
    def width(self):
        return self.single.shape[1]

    def norms_of(self, rows, half):
        return (self.half_norms if half else self.norms)[rows]


def _in_half(part):
    """float32 (M, D) -> its float16 values and their squared norms; infinite where they are too large for float16."""
    with np.errstate(over="ignore"), tf.device("CPU"):
        half = part.astype(np.float16)
        # The order in which float16 numbers are added decides the last bit, so the sum is the evaluator's own.
        return half, tf.reduce_sum(tf.square(half), 1).numpy()


def _radii(features, nhood_sizes, block, bar):
    most = max(nhood_sizes)
    nearest = np.full((len(features), most + 1), np.inf, np.float32)  # so far, in no order

    def meet(rows, distances):
        if distances.shape[1] > most + 1:
            distances = np.partition(distances, most, axis=1)[:, : most + 1]
        nearest[rows] = np.partition(np.concatenate([nearest[rows], distances], axis=1), most, axis=1)[:, : most + 1]
        bar.update(len(distances) * (columns.stop - columns.start))

    for rows, columns, half in _blocks(features, features, block):
        products = _products(features, features, rows, columns, half)
        norms = features.norms_of(rows, half), features.norms_of(columns, half)
        meet(rows, _distances(products, *norms, half))
        if rows != columns:  # the mirror image; the norms are not added in the same order, so it is not the transpose
            meet(columns, _distances(np.ascontiguousarray(products.T), *norms[::-1], half))
    nearest.sort(axis=1)
    return nearest[:, list(nhood_sizes)]


def _blocks(u, v, block):
    """Slices of rows, of columns, and whether float16 serves; of a set with itself those on and above the diagonal."""
    for top in _parts(0, len(u), _TILE):
        for left in _parts(0, len(v), _TILE):
            if u is v and left.start < top.start:
                continue
            half = _fits_half(u, v, top, left, block)
            for rows in _parts(top.start, top.stop, block):
                for columns in _parts(left.start, left.stop, block):
                    if u is not v or columns.start >= rows.start:
                        yield rows, columns, half


def _parts(start, stop, size):
    return [slice(begin, min(begin + size, stop)) for begin in range(start, stop, size)]


def _fits_half(u, v, top, left, block):
    """Whether every distance of a tile is finite in float16."""
    if u.half is None:
        return False
    largest = max(u.half_norms[top].max(), v.half_norms[left].max())
    if largest <= _LARGEST / 5.0:  # |u|^2 + 2 |u.v| + |v|^2 is at most four times that, and some rounding
        return True
    if not np.isfinite(largest):
        return False
    for rows in _parts(top.start, top.stop, block):
        for columns in _parts(left.start, left.stop, block):
            products = _products(u, v, rows, columns, half=True)
            distances = _distances(products, u.half_norms[rows], v.half_norms[columns], half=True)
            # Where 2 u.v is too large the evaluator has a distance of max(-inf, 0) = 0, and keeps it; this does not.
            if max(2.0 * np.abs(products).max(), distances.max()) > _LARGEST:
                return False
    return True


def _products(u, v, rows, columns, half):
    if half:
        return _rounded(u.half[rows] @ v.half[columns].T)
    return u.single[rows] @ v.single[columns].T


def _distances(products, row_norms, column_norms, half):
    """D of the equation above, in its order."""
    distances = products * np.float32(-2.0)
    distances += row_norms[:, None]
    if half:
        _rounded(distances)
    distances += column_norms
    if half:
        _rounded(distances)
    return np.maximum(distances, 0.0, out=distances)


def _rounded(values):
    """float32 -> the nearest float16 numbers, in place, ties to even, five times as fast as NumPy's conversions.

    Beyond the largest one it goes on counting in place of infinity, and below 6e-5 it keeps more digits than float16.
    """
    bits = values.view(np.uint32)  # of 23 binary digits 10 stay
    bits += ((bits >> 13) & 1) + 0xFFF
    bits &= 0xFFFFE000
    return values
