"""Which file or record of a data set cannot be read: what an error from inside a compiled loop does not say."""

import re

import tensorflow as tf
import tqdm

from dit_tf.runtime.progress import BAR_DELAY


def first_damaged(source, split, records, image_size, crop):
    """One sentence about the first of `records` that cannot be read or made an example of, or None.

    records: a finite tf.data.Dataset of the source's. They are gone through one by one.
    """
    name = f"--dataset={source.name}"
    example = tf.function(lambda record: source.example(record, image_size, crop, None), autograph=False)
    last = None
    bar = tqdm.tqdm(unit="record", desc="looking for damage", delay=BAR_DELAY, leave=False)
    with bar, tf.device("CPU:0"):
        try:
            for record in records:
                last = _text(record["key"])
                try:
                    example(record)
                except tf.errors.OpError as error:
                    return (
                        f"{name}: {last} cannot be read ({reason_of(error)}); remove or replace it, and where the data "
                        "set was prepared or encoded from other files, do so there and make it anew."
                    )
                bar.update()
        except tf.errors.OpError as error:
            where = source.damaged_file(split) or f"the record after {last or 'the beginning'}"
            return f"{name}: {where} cannot be read ({reason_of(error)}); restore it, or make the data set anew."
    return None


def first_unreadable(paths):
    """The first of TFRecord files that cannot be read to its end, or None."""
    for path in tqdm.tqdm(paths, unit="file", desc="checking files", delay=BAR_DELAY, leave=False):
        try:
            for _ in tf.data.TFRecordDataset(path).batch(256):
                pass
        except tf.errors.OpError:
            return path
    return None


def _text(key):
    return key.numpy().decode(errors="replace")


def reason_of(error):
    """One line: of TensorFlow's message, less the names of its functions and nodes and what Python code left below."""
    first = (str(getattr(error, "message", error)).strip() or type(error).__name__).splitlines()[0]
    first = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*|<\S+ object at \w+>", "", first)
    return " ".join(first.split()).rstrip(".")
