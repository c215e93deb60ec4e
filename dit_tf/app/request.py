"""What the page of dit_tf.app asks for, and what it is told while an image is drawn."""

import re
from typing import NamedTuple

import numpy as np

from dit_tf.config import MOST_SEED
from dit_tf.data.class_names import UNLABELLED

IMAGE = "image"  # the caption of what is drawn at the end


class Request(NamedTuple):
    """sampler and num_steps are None where they are not the page's to choose."""

    label: int
    seed: int
    cfg_scale: float
    sampler: str | None = None
    num_steps: int | None = None


class Progress(NamedTuple):
    """doing: a sentence. done, total: evaluations of the network; total is 0 where they cannot be counted.

    pictures: {caption: (H, W, C) uint8}, from noise on; the one of `IMAGE` is the answer, and the last.
    """

    doing: str
    done: int
    total: int
    pictures: dict[str, np.ndarray]

    @property
    def finished(self):
        return IMAGE in self.pictures


def checked(label, seed, cfg_scale, sampler, num_steps):
    """The `Request`; ValueError where a field of the page is empty, or the seed, a text, is none."""
    if label is None:
        raise ValueError("Choose a class first.")
    if sampler is not None and num_steps is None:
        raise ValueError("--num_steps must be a whole number, got none.")
    digits = re.fullmatch(r"\s*(\d{1,19})\s*", str(seed))
    if not digits or int(digits[1]) > MOST_SEED:
        raise ValueError(f"--seed must be a whole number from 0 to {MOST_SEED}, got {str(seed)[:40]!r}.")
    return Request(label, int(digits[1]), cfg_scale, sampler, num_steps)


def class_flag(classes, label):
    """The flag of sample and query that asks for one image of a class: by its number, or by id or name where numbers
    are names."""
    if classes == UNLABELLED:
        return "--num_samples=1"
    texts = (str(label), *classes.ids[label : label + 1], classes.caption(label), classes.names[label])
    return "--labels=" + next((text for text in texts if _means(classes, text, label)), str(label))


def _means(classes, text, label):
    try:
        return classes.find(text) == label
    except ValueError:
        return False
