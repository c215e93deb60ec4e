"""A trained model as a SavedModel, which TensorFlow Serving serves and TensorFlow alone loads."""

import json
import os
import shutil

import tensorflow as tf

import dit_tf
from dit_tf import build
from dit_tf.runtime.output_files import replace_file, writing
from dit_tf.samplers.drawn_images import told
from dit_tf.serving.rules import LARGEST_SCALE
from dit_tf.serving.stored_weights import DTYPES
from dit_tf.serving.warmup import INSTALL, missing_protocol, write_warmup

_FACTS = os.path.join("assets.extra", "dit_tf.json")


def check_export(output, weights_dtype, cfg_scale, batch_sizes):
    """The numbers of rows of batch_sizes. ValueError for what cannot be exported so, or to there."""
    output_directory = output.rstrip("/")
    if not os.path.basename(output_directory).isdecimal():
        raise ValueError(f"--output must end in a version number, such as models/dit/1, got {output!r}.")
    if os.path.exists(output_directory):
        newer = os.path.join(os.path.dirname(output_directory), str(int(os.path.basename(output_directory)) + 1))
        raise ValueError(
            f"--output={output} is there, and a version that may be served is never changed: write the next, "
            f"--output={newer}, or remove it."
        )
    if weights_dtype not in DTYPES:
        raise ValueError(f"--weights_dtype must be one of {', '.join(DTYPES)}, got {weights_dtype!r}.")
    if not 0.0 <= cfg_scale <= LARGEST_SCALE:
        raise ValueError(f"--cfg_scale must be from 0 to {LARGEST_SCALE:g}, got {cfg_scale}.")
    try:
        sizes = [int(text) for text in batch_sizes]
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
        shown = ",".join(map(str, batch_sizes))
        raise ValueError(f"--batch_sizes must be ascending numbers from 1 on, got {shown!r}.")
    return sizes


def make_served(model, options, weights_dtype, sizes):
    """The `ServedModel` of a `TrainedModel` and `SamplerOptions`, for requests of at most the last of sizes."""
    return build.make_served_model(
        model.config, model.network, options, model.classes, vae=model.vae, dtype=weights_dtype,
        max_batch_size=sizes[-1],
    )  # fmt: skip


def save(model, served, signatures, output, sizes, cfg_scale, weights_dtype):
    """Write the directory, which gets its name when it is whole; what a killed run leaves is no version to a server.

    cfg_scale: of the warm-up's requests; each request brings its own.
    """
    facts = dict(
        dit_tf=dit_tf.__version__, tensorflow=tf.__version__, model=model.source, objective=model.config.objective,
        weights_sha256=build.weights_digest(build.weights_of(model.network)), weights_dtype=weights_dtype,
        vae_sha256=None if model.vae is None else build.weights_digest(model.vae.by_name.values()),
        batch_sizes=sizes, num_classes=model.config.num_classes, **told(served.sampler.options),
    )  # fmt: skip
    del facts["cfg_scale"]
    place = output.rstrip("/")
    unfinished = os.path.join(os.path.dirname(place), f"unfinished-{os.path.basename(place)}")
    with writing(output, "--output"):
        shutil.rmtree(unfinished, ignore_errors=True)
        tf.saved_model.save(served, unfinished, signatures=signatures)
        replace_file(os.path.join(unfinished, _FACTS), (json.dumps(facts, indent=1) + "\n").encode())
        if missing_protocol():
            print(f"No warm-up requests, so the first ones will be slow: they need `{INSTALL}`.")
        else:
            write_warmup(unfinished, signatures, served.sampler.input_shape, sizes, cfg_scale)
        os.rename(unfinished, place)


def bytes_in(directory):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(directory) for name in names)
