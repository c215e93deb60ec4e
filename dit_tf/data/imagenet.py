"""What is special about ImageNet: archives fetched by hand, a split without labels, and classes named by synsets."""

import pathlib

from dit_tf.data import class_names
from dit_tf.data.class_names import ClassTable

NAME = "imagenet2012"  # of the data set of TensorFlow Datasets
ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def check_archives(manual_dir: pathlib.Path):
    """ValueError unless the archives lie where TensorFlow Datasets looks for them.

    With one of the two it would prepare a data set without the other's split, for good.
    """
    missing = [name for name in ARCHIVES if not (manual_dir / name).exists()]
    if missing:
        raise ValueError(
            f"--dataset={NAME} needs {' and '.join(ARCHIVES)} (155 GB, not unpacked) in {manual_dir}: download "
            f"{' and '.join(missing)} from https://image-net.org with an account there, and move what you have got to "
            "that directory."
        )


def check_split(split):
    """ValueError for the split whose labels the competition kept to itself."""
    if any(part.split("[")[0].strip() in ("test", "all") for part in split.split("+")):
        raise ValueError(f"--split={split} of {NAME} has no labels: take --split=validation.")


def class_table(names):
    """The table of classes that a data set calls `names`; synsets of ImageNet, all or some, get their English names."""
    table = class_names.imagenet()
    label_of = {synset: label for label, synset in enumerate(table.ids)}
    if not all(name in label_of for name in names):
        return ClassTable(tuple(names))
    return ClassTable(tuple(table.names[label_of[name]] for name in names), tuple(names))
