"""The images of a model as a set that is read like a file of them."""

import dataclasses
import hashlib

import numpy as np
import tqdm

from dit_tf.samplers.generate import in_batches
from dit_tf.samplers.options import SamplerOptions

# Of SamplerOptions, what is told of every run; of the others, what is not at its default.
_ALWAYS_TOLD = ("sampler", "num_steps", "solver", "cfg_scale", "guided_channels", "guidance_interval")


class DrawnImages:
    """N images that are drawn when they are read, and not kept. Image i is a function of (seed, i) and labels[i], so
    reading may begin anywhere.

    count: N. shape: (H, W, C). sampler: the `ImageSampler`. facts: JSON-able, what the images depend on besides.
    """

    def __init__(self, sampler, params, labels, seed, facts):
        self.sampler, self.count, self.shape = sampler, len(labels), sampler.image_shape
        self._params, self._labels, self._seed, self._facts = params, np.asarray(labels, np.int64), seed, facts

    def batches(self, batch_size, first=0):
        """Yields uint8 (B, H, W, C) from image `first` on; the last batch may be shorter."""
        return (drawn.images for drawn in self.draws(batch_size, first))

    def draws(self, batch_size, first=0):
        """Yields `Drawn` in NumPy: the same images, and what each has cost. ValueError where a solver gave up."""
        for _, drawn in in_batches(self.sampler, self._params, self._labels, self._seed, batch_size, first):
            check_finished(drawn.work)
            yield drawn

    def read(self, batch_size, progress=False):
        """All images, uint8 (N, H, W, C), by calls of `batch_size`, or as many as there are where that is less."""
        batch_size = min(batch_size, self.count)
        shown = dict(unit="image", desc="sampling", disable=not progress, dynamic_ncols=True)
        with tqdm.tqdm(total=self.count, **shown) as bar:
            images = []
            for batch in self.batches(batch_size):
                images.append(batch)
                bar.update(len(batch))
        return np.concatenate(images)

    def labels(self):
        """(N,) int64."""
        return self._labels

    def provenance(self):
        """The facts, how and from which seed it is sampled, and which labels: all that images follow from, to the grey
        level that another batch size or device may move. JSON-able."""
        return dict(
            self._facts, **told(self.sampler.options), seed=self._seed, images=self.count, size=list(self.shape),
            labels_sha256=hashlib.sha256(self._labels.astype("<i8").tobytes()).hexdigest(),
        )  # fmt: skip


def check_finished(work):
    """ValueError where a solver that chooses its own steps gave up."""
    if not work.finished.all():
        raise ValueError(
            f"--solver=dopri5 gave up on {(~work.finished).sum()} of {len(work.finished)} images: its steps became too "
            "many or too small; raise --atol and --rtol, or take --solver=heun."
        )


def told(options):
    """{name: value} of resolved options; tuples as lists."""
    given, default = dataclasses.asdict(options), SamplerOptions()
    told = {name: value for name, value in given.items() if name in _ALWAYS_TOLD or value != getattr(default, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
