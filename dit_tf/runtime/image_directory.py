"""A directory of single images that is filled over as many runs as it takes.

    DIR/000000.png ...    the images
    DIR/samples.json      what they are of, before the first of them
    DIR/labels.csv        file, label, class: when all are there
    DIR/unfinished.jsonl  a line for each batch that is there, until then
"""

import csv
import io
import json
import os

import numpy as np
from PIL import Image

from dit_tf.runtime.output_files import replace_file
from dit_tf.runtime.partial_results import PartialResults

_FACTS, _TABLE, _JOURNAL = "samples.json", "labels.csv", "unfinished.jsonl"


class ImageDirectory:
    """Images (N, H, W, C) uint8 of 1 or 3 channels; `ImageDirectory(path, key, shape)` finds those that another run has
    written under the same key (JSON) and shape. ValueError where the directory holds PNG files that are of another.

    count: images that are there. notes: of each batch, what was appended with it.
    """

    def __init__(self, path, key, shape):
        self.path, self._shape = path, tuple(map(int, shape))
        facts = json.dumps(dict(of=key, shape=self._shape), indent=1) + "\n"
        os.makedirs(path, exist_ok=True)
        self._digits = max(6, len(str(self._shape[0] - 1)))
        there, images = self._place(_FACTS), any(name.endswith(".png") for name in os.listdir(path))
        same = os.path.exists(there) and open(there, encoding="utf-8").read() == facts
        if images and not same:
            raise ValueError(f"{path} holds images of another run, or of none: give another directory.")
        if not same:
            replace_file(there, facts.encode())
        self._journal = PartialResults(self._place(_JOURNAL), facts)
        self.count, self.notes = 0, []
        for first, count, note in self._journal.batches:
            if first == self.count:
                self.count += count
                self.notes.append(note)
        if os.path.exists(self._place(_TABLE)):  # written last
            self.count = self._shape[0]
        missing = (i for i in range(self.count) if not os.path.exists(self._place(self._name(i))))
        self.count = next(missing, self.count)

    def append(self, images, note=None):
        """The next images (B, H, W, C), and whatever JSON is to be kept with them."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != self._shape[1:] or len(images) > self._shape[0] - self.count:
            raise ValueError(f"{self.path} takes uint8 {self._shape} and has {self.count}, got {images.shape}.")
        for i, image in enumerate(images, start=self.count):
            content = io.BytesIO()
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, format="PNG")
            replace_file(self._place(self._name(i)), content.getvalue())
        self._journal.append([self.count, len(images), note])
        self.count += len(images)
        self.notes.append(note)

    def finish(self, labels, names):
        """Write the table of labels (N,) and their classes' names, and leave nothing but it and the images."""
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["file", "label", "class"])
        rows.writerows([self._name(i), int(label), name] for i, (label, name) in enumerate(zip(labels, names)))
        replace_file(self._place(_TABLE), table.getvalue().encode())
        self._journal.remove()

    def _place(self, name):
        return os.path.join(self.path, name)

    def _name(self, i):
        return f"{i:0{self._digits}d}.png"
