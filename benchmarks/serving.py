"""The SavedModel beside the Python sampler on the same work: latency, images/s, size, load time, and what fewer bytes of
weights change.

    python benchmarks/serving.py                                        # DiT-Ti/2 as on digits, DiT-B/2 with an autoencoder
    python benchmarks/serving.py --workdir=runs/digits --num_steps=50   # a trained model

Weights are random except with --workdir. Both sides draw the same guided images by DDIM, compiled by XLA and not, in
turns; the median turn counts, and a ratio is the median of the ratios within a turn. The default signature has no XLA,
and so its peer is the same sampler without XLA; `serving_xla`'s is what dit_tf.sample runs.
"""

import os
import statistics
import tempfile
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags
from machine import print_machine

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.data.class_names import numbered
from dit_tf.flags import run
from dit_tf.inference import exporting
from dit_tf.inference.trained_model import TrainedModel
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.samplers.options import SamplerOptions
from dit_tf.serving.stored_weights import DTYPES

CASES = {
    "digits": dict(model="DiT-Ti/2"),
    "b2": dict(model="DiT-B/2", codec="vae", channels=3, image_size=256, num_classes=1000),
}
SCALE = 1.5


class Case(NamedTuple):
    config: RunConfig
    model: object
    vae: AutoencoderKL | None
    classes: object


def define_flags(values):
    flags.DEFINE_list("cases", list(CASES), f"Among {', '.join(CASES)}.", flag_values=values)
    flags.DEFINE_string("workdir", None, "A trained model of pixels in place of the cases.", flag_values=values)
    flags.DEFINE_integer("num_steps", 10, "Of DDIM.", flag_values=values)
    flags.DEFINE_list("rows", ["1", "8"], "Images of a request.", flag_values=values)
    flags.DEFINE_list("weights_dtypes", list(DTYPES[1:]), "Beside float32.", flag_values=values)
    flags.DEFINE_integer("turns", 5, "Of every program; the median counts.", flag_values=values)


def main(options):
    unknown = set(options.cases) - set(CASES)
    if unknown:
        raise ValueError(f"--cases must be among {', '.join(CASES)}, got {', '.join(sorted(unknown))}.")
    if set(options.weights_dtypes) - set(DTYPES[1:]):
        raise ValueError(f"--weights_dtypes must be among {', '.join(DTYPES[1:])}, got {options.weights_dtypes}.")
    if options.turns < 1:
        raise ValueError(f"--turns must be at least 1, got {options.turns}.")
    rows = [int(text) for text in options.rows]
    print_machine()
    for name in [options.workdir] if options.workdir else options.cases:
        measure(name, trained(name) if options.workdir else untrained(name), options, rows)


def trained(path):
    return Case(build.load_config(path), build.load_model(path), None, build.load_classes(path))


def untrained(name):
    config, rng = RunConfig(**CASES[name]), np.random.default_rng(0)
    model = build.make_model(config)
    for variable in model.trainable_variables:
        if not np.any(variable):  # the output is zero at the start
            variable.assign(rng.normal(0, 0.02, variable.shape))
    vae = AutoencoderKL() if config.codec == "vae" else None
    return Case(config, model, vae, numbered(config.num_classes))


def measure(name, case, options, rows):
    config, model, vae, _ = case
    asked = SamplerOptions("ddim", options.num_steps, cfg_scale=SCALE)
    sampler = build.make_sampler(config, model, asked, vae=vae)
    params, plain = build.weights_of(model), tf.function(sampler.draw, autograph=False)
    decoder = build.tensors(build.make_codec(config, vae).decoder_variables)
    shared = params, decoder, tf.nest.map_structure(tf.constant, sampler.controls)
    with tempfile.TemporaryDirectory() as directory:
        dtypes = DTYPES[0], *options.weights_dtypes
        saved = {dtype: exported(case, asked, dtype, max(rows), directory) for dtype in dtypes}
        print(f"\n{name}: {config.model}, {config.image_size} pixels, DDIM-{options.num_steps}, guided\n")
        print("| weights | MiB | loaded in s | change of an image in grey levels |\n|---|---|---|---|")
        whole = None
        for dtype, (loaded, size, seconds) in saved.items():
            drawn = requested(loaded, "serving_default", 8)().astype(int)
            whole = drawn if whole is None else whole
            print(f"| {dtype} | {size / 2**20:.1f} | {seconds:.2f} | {np.abs(drawn - whole).mean():.2f} |", flush=True)
        print("\n| program | rows | ms a request | images/s | time beside its peer |\n|---|---|---|---|---|")
        float32 = saved["float32"][0]
        for count in rows:
            label, row, seed = tf.zeros(count, tf.int32), tf.range(count), tf.constant(0, tf.int64)
            programs = {
                "sampler": lambda: plain(shared, label, seed, row).images.numpy(),
                "serving_default": requested(float32, "serving_default", count),
            }
            for dtype in options.weights_dtypes:
                programs[f"serving_default, {dtype}"] = requested(saved[dtype][0], "serving_default", count)
            programs |= {
                "sampler, XLA": lambda: sampler(params, label, seed, row).images.numpy(),
                "serving_xla": requested(float32, "serving_xla", count),
            }
            print_rows(take_turns(programs, options.turns), count)


def exported(case, asked, dtype, most, directory):
    """(what TensorFlow loads, bytes on disk, seconds to load)."""
    model = TrainedModel(case.config, case.classes, case.model, case.vae)
    served = exporting.make_served(model, asked, dtype, [max(8, most)])
    output = os.path.join(directory, dtype, "1")
    exporting.save(model, served, served.signatures(xla=dtype == "float32"), output, [1], SCALE, dtype)
    del served
    began = time.perf_counter()
    return tf.saved_model.load(output), exporting.bytes_in(output), time.perf_counter() - began


def requested(loaded, signature, count):
    """A function that sends one request of so many rows, and gives uint8 images."""
    draw = loaded.signatures[signature]
    label, seed = tf.zeros(count, tf.int64), tf.range(count, dtype=tf.int64)
    return lambda: draw(label=label, seed=seed, cfg_scale=tf.fill((count,), SCALE))["image"].numpy()


def take_turns(programs, turns):
    """{name: [seconds, a turn each]}; the first call of each compiles, and is not counted."""
    measured = {name: [] for name in programs}
    for turn in range(turns + 1):
        for name, call in programs.items():
            began = time.perf_counter()
            call()
            if turn:
                measured[name].append(time.perf_counter() - began)
    return measured


def print_rows(measured, count):
    for name, own in measured.items():
        peer = measured["sampler, XLA" if name.endswith(("XLA", "xla")) else "sampler"]
        ratio, median = statistics.median(a / b for a, b in zip(own, peer)), statistics.median(own)
        print(f"| {name} | {count} | {1e3 * median:.1f} | {count / median:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    run(main, define_flags, resumes=False)
