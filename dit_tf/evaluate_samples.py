"""ADM's five numbers of samples against a reference: what `python -m dit_tf.evaluate` does unless told otherwise."""

import os
import platform

import keras
import numpy as np
import tensorflow as tf

import dit_tf
from dit_tf import flags
from dit_tf.data.source_images import open_images
from dit_tf.evaluation.evaluator import Evaluator
from dit_tf.evaluation.extractor import FEATURES, InceptionExtractor, PixelExtractor
from dit_tf.evaluation.image_folder import ImageFolder
from dit_tf.evaluation.inception import ADDRESS, load_inception
from dit_tf.evaluation.npz_images import NpzImages
from dit_tf.evaluation.references import Reference
from dit_tf.models.codec import scale_pixels
from dit_tf.pretrained.download import download
from dit_tf.pretrained.published import DOWNLOADS
from dit_tf.runtime.distribution import check_batch
from dit_tf.runtime.output_files import write_json
from dit_tf.sample import drawn_images, plan

IMAGES = "an .npz as ADM publishes or --make_reference writes, an .npy, a folder of PNG or JPEG files, or a data set"
CHANNELS = (1, 3)  # that images may have
_LEAST_SIDE = 16  # pixels, of images that Inception, which has 299, says something of


def evaluate_samples(options):
    model = options.workdir or options.weights
    if bool(options.samples) == bool(model):
        raise ValueError("Either --samples or a model (--workdir or --weights) must be given, and not both.")
    if not options.reference:
        raise ValueError(f"--reference must be given: {IMAGES}.")
    strategy = flags.strategy_of(options)
    check_batch("--batch_size", options.batch_size, strategy)
    if model:
        samples = drawn_images(options, strategy, labels=None)
        print(plan(samples.sampler))
    else:
        samples = open_set("--samples", options.samples, options.samples_split, options)
    evaluator, facts = make_evaluator(options, strategy, samples.shape, options.batch_size, partial=options.output)
    evaluator.check(samples)
    provenance = dict(samples=samples.provenance(), **facts, **versions())

    scores = evaluator(samples)
    provenance["features_sha256"] = evaluator.features_sha256
    metrics = dict(scores.numbers(), provenance=provenance)
    write_json(options.output, metrics)
    evaluator.remove()
    print(scores.table())
    for doubt in scores.doubts():
        print(doubt)
    print(f"of {scores.count:,} images: {options.output}")


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
