"""What a set of images is compared with, and how: reference, features, and the `Evaluator` of both."""

import dataclasses
import os
import platform

import keras
import numpy as np
import tensorflow as tf

import dit_tf
from dit_tf.data.source_images import open_images
from dit_tf.evaluation.evaluator import Evaluator
from dit_tf.evaluation.extractor import FEATURES, InceptionExtractor, PixelExtractor
from dit_tf.evaluation.image_folder import ImageFolder
from dit_tf.evaluation.inception import ADDRESS, load_inception
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.evaluation.precision_recall import DTYPES
from dit_tf.evaluation.references import Reference
from dit_tf.models.codec import scale_pixels
from dit_tf.pretrained.download import download
from dit_tf.pretrained.published import DOWNLOADS

CHANNELS = (1, 3)  # that images may have
_LEAST_SIDE = 16  # pixels, of images that Inception, which has 299, says something of


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What `make_evaluator` asks for, by the names of the flags of evaluate."""

    reference: str | None = None
    reference_split: str = "train"
    features: str = FEATURES[0]
    inception: str | None = None
    num_reference_images: int | None = None
    precision_recall_dtype: str = DTYPES[0]
    allow_few_samples: bool = False
    data_dir: str | None = None
    image_size: int | None = None
    crop: str = "fast"


def make_evaluator(options, strategy, shape, batch_size, partial, reference=None):
    """The `Evaluator` of the flags, and what it compares with and how (JSON).

    shape: (H, W, C) of the samples. reference: an image set in the place of --reference.
    """
    stored = reference is None and options.reference.endswith(".npz")
    if stored:
        reference = Reference("--reference", options.reference, CHANNELS)
        if options.features == FEATURES[0] and options.inception is None:
            reference.statistics()  # what the published network has, before it is fetched
        if reference.remark():
            print(reference.remark(), flush=True)
    elif reference is None:
        reference = open_set("--reference", options.reference, options.reference_split, options, otherwise=shape[0])
    images = reference.images if stored else reference
    extractor = make_extractor(options.features, options.inception, shape, batch_size, strategy)
    statistics = reference.statistics(*(*extractor.widths, None)[:2]) if stored else None
    how = dict(
        num_reference_images=options.num_reference_images, dtype=options.precision_recall_dtype,
        allow_few_samples=options.allow_few_samples,
    )  # fmt: skip
    evaluator = Evaluator(extractor, statistics, images, partial=partial, **how)
    facts = dict(reference=reference.provenance(), **extractor.facts, precision_recall_dtype=how.pop("dtype"), **how)
    return evaluator, facts


def make_extractor(features, inception_file, shape, batch_size, strategy):
    """The features that images (H, W, C) are compared by. inception_file: of --features=inception; None: fetched."""
    if features not in FEATURES:
        raise ValueError(f"--features must be one of {', '.join(FEATURES)}, got {features!r}.")
    if features == "pixels":
        if inception_file is not None:
            raise ValueError(f"--inception goes with --features=inception, got --inception={inception_file}.")
        return PixelExtractor(shape, batch_size, scale_pixels)
    if shape is not None and min(shape[:2]) < _LEAST_SIDE:
        size = "x".join(map(str, shape))
        raise ValueError(
            f"--features=inception is for images of {_LEAST_SIDE} pixels a side and more, got {size}: take "
            "--features=pixels."
        )
    if inception_file is None:
        inception_file = fetch_inception()
    with strategy.scope():
        network = load_inception(inception_file)
    return InceptionExtractor(network, batch_size, strategy)


def fetch_inception():
    """The path of the published network, which is downloaded if it is not there yet."""
    path = os.path.join(os.path.expanduser(DOWNLOADS), os.path.basename(ADDRESS))
    if not os.path.exists(path):
        print(f"Inception of 2015-12-05, 96 MB: {ADDRESS}", flush=True)
    try:
        return download(ADDRESS, path)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}; or name the file with --inception.") from error


def open_set(flag, value, split, options, otherwise=None):
    """What --reference or --samples names, as an image set. otherwise: the side in pixels that images of a data set are
    cropped to, where neither --image_size nor the data set has one."""
    if value.endswith((".npz", ".npy")):
        return NpzImages(flag, value, CHANNELS)
    if os.path.isdir(value):
        return ImageFolder(flag, value)
    return open_images(flag, value, split, options.data_dir, options.image_size, options.crop, otherwise=otherwise)


def versions():
    """What the numbers were computed with."""
    devices = {device.device_type for device in tf.config.list_logical_devices()} - {"TPU_SYSTEM"}
    return dict(
        dit_tf=dit_tf.__version__, tensorflow=tf.__version__, keras=keras.__version__, numpy=np.__version__,
        python=platform.python_version(), devices=sorted(devices),
    )  # fmt: skip
