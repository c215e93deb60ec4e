"""Images of an .npz or .npy file, as they are scored."""

import json

import numpy as np

from dit_tf.evaluation.npz_file import NpzFile, sha256_of

_LARGEST_IMAGE = 2048  # pixels a side
_MOST_LABELS = 2**24
_MOST_PROVENANCE = 2**16  # bytes


class NpzImages:
    """Images as ADM's evaluator takes them: arr_0 uint8 (N, H, W, C) and, where it is there, arr_1, their labels. An
    .npy holds the first alone.

    count: N. shape: (H, W, C), C one of `channels`. ValueError for anything else, before it is read.
    """

    def __init__(self, flag, path, channels=(3,)):
        self._file = NpzFile(flag, path)
        found, title = self._file.header("arr_0"), self._file.title
        wanted = f"uint8 (N, H, W, {' or '.join(map(str, channels))})"
        if found.dtype != np.uint8:
            raise ValueError(f"{title}: its arr_0 must be {wanted}, 0 to 255, got {found}: {self._remedy(found)}.")
        if len(found.shape) != 4 or found.shape[-1] not in channels:
            raise ValueError(f"{title}: its arr_0 must be {wanted}, got {found}.")
        if not found.shape[0]:
            raise ValueError(f"{title}: its arr_0 must hold at least one image, got {found}.")
        if not all(1 <= side <= _LARGEST_IMAGE for side in found.shape[1:3]):
            raise ValueError(f"{title}: its images must be of 1 to {_LARGEST_IMAGE} pixels a side, got {found}.")
        self.path, self.count, self.shape = path, found.shape[0], found.shape[1:]

    def _remedy(self, found):
        """What makes uint8 of these numbers, by the range of the first."""
        if found.dtype.kind != "f" or not found.shape or not found.shape[0]:
            return "round and convert it"
        first = next(self._file.rows("arr_0", 1))
        low, high = float(np.min(first, initial=0)), float(np.max(first, initial=0))
        if not (high <= 1.001 and low >= -1.001):
            return "round and convert it"
        scale = "multiply by 255" if low >= 0 else "it reaches from -1 to 1: add 1, multiply by 127.5"
        return f"{scale}, round, and save it as uint8"

    def batches(self, batch_size, first=0):
        """Yields uint8 (B, H, W, C) from image `first` on; the last batch may be shorter."""
        return self._file.rows("arr_0", batch_size, first)

    def labels(self):
        """(N,) int64, or None where the file has none."""
        if "arr_1" not in self._file.names:
            return None
        if self.count > _MOST_LABELS:
            raise ValueError(f"{self._file.title}: {_MOST_LABELS:,} labels at most are read, got {self.count:,}.")
        return self._file.read("arr_1", (self.count,), "iu").astype(np.int64)

    def sha256(self):
        return sha256_of(self.path)

    def provenance(self):
        """Which images these are, JSON-able; made_by: what the file says about that itself, where it does."""
        told = {} if "provenance" not in self._file.names else dict(made_by=self._told())
        return dict(file=self.path, sha256=self.sha256(), images=self.count, size=list(self.shape), **told)

    def _told(self):
        """The dict of the array `provenance`, the bytes of a JSON object, as `dit_tf.sample` writes it."""
        found, title = self._file.header("provenance"), f"{self._file.title}: its provenance"
        rule = f"must be uint8 (n,), the text of a JSON object of at most {_MOST_PROVENANCE:,} bytes"
        if found.dtype != np.uint8 or len(found.shape) != 1 or not 0 < found.shape[0] <= _MOST_PROVENANCE:
            raise ValueError(f"{title} {rule}, got {found}: save the file without it.")
        text = self._file.read("provenance", found.shape, "u").tobytes()
        try:
            told = json.loads(text)
            json.dumps(told, allow_nan=False)  # what is told is written on, and 1e999 is read as no number of JSON's
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{title} {rule}, got what is none ({error}): save the file without it.") from error
        if not isinstance(told, dict):
            raise ValueError(f"{title} {rule}, got a {type(told).__name__}: save the file without it.")
        return told
