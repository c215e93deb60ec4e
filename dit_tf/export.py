"""Make a SavedModel of a trained model, which TensorFlow Serving serves and TensorFlow alone loads:

    python -m dit_tf.export --workdir=runs/digits --sampler=ddim --num_steps=50 --output=models/digits/1
    python -m dit_tf.export --weights=dit.keras --vae=vae.keras --cfg_scale=4 --weights_dtype=bfloat16

What it takes and gives: dit_tf/serving/signatures.py, and docs/serving.md. A version that is there is never changed.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import json
import os
import shutil

import tensorflow as tf

import dit_tf
from dit_tf import build, flags
from dit_tf.runtime.output_files import replace_file, writing
from dit_tf.sample import load_vae, model_path, plan, sampler_options
from dit_tf.samplers.drawn_images import told
from dit_tf.serving.rules import LARGEST_SCALE
from dit_tf.serving.stored_weights import DTYPES
from dit_tf.serving.warmup import INSTALL, missing_protocol, write_warmup

_FACTS = os.path.join("assets.extra", "dit_tf.json")


def main(options):
    sizes = check_flags(options)
    path, asked = model_path(options), sampler_options(options)
    config, classes = build.load_config(path), build.load_classes(path)
    vae = load_vae(options, config)
    model = build.load_model(path)
    served = build.make_served_model(
        config, model, asked, classes, vae=vae, dtype=options.weights_dtype, max_batch_size=sizes[-1]
    )
    signatures = served.signatures(options.xla)
    print(plan(served.sampler), flush=True)
    facts = dict(
        dit_tf=dit_tf.__version__, tensorflow=tf.__version__, model=path, objective=config.objective,
        weights_sha256=build.weights_digest(build.weights_of(model)), weights_dtype=options.weights_dtype,
        vae_sha256=None if vae is None else build.weights_digest(vae.by_name.values()),
        batch_sizes=sizes, num_classes=config.num_classes, **told(served.sampler.options),
    )  # fmt: skip
    del facts["cfg_scale"]  # which each request brings
    with writing(options.output, "--output"):
        save(served, signatures, options.output, sizes, asked.cfg_scale, facts)
    print(f"{bytes_in(options.output) / 2**20:.1f} MiB, signatures {', '.join(signatures)}: {options.output}")


def check_flags(options):
    """The numbers of rows of --batch_sizes."""
    output = options.output.rstrip("/")
    if not os.path.basename(output).isdecimal():
        raise ValueError(f"--output must end in a version number, such as models/dit/1, got {options.output!r}.")
    if os.path.exists(output):
        newer = os.path.join(os.path.dirname(output), str(int(os.path.basename(output)) + 1))
        raise ValueError(
            f"--output={options.output} is there, and a version that may be served is never changed: write the next, "
            f"--output={newer}, or remove it."
        )
    if options.weights_dtype not in DTYPES:
        raise ValueError(f"--weights_dtype must be one of {', '.join(DTYPES)}, got {options.weights_dtype!r}.")
    if not 0.0 <= options.cfg_scale <= LARGEST_SCALE:
        raise ValueError(f"--cfg_scale must be from 0 to {LARGEST_SCALE:g}, got {options.cfg_scale}.")
    try:
        sizes = [int(text) for text in options.batch_sizes]
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes != sorted(set(sizes)):
        raise ValueError(f"--batch_sizes must be ascending numbers from 1 on, got {','.join(options.batch_sizes)!r}.")
    return sizes


def save(served, signatures, output, sizes, cfg_scale, facts):
    """The directory gets its name when it is whole; what a killed run leaves is no version to a server."""
    unfinished = os.path.join(os.path.dirname(output.rstrip("/")), f"unfinished-{os.path.basename(output.rstrip('/'))}")
    shutil.rmtree(unfinished, ignore_errors=True)
    tf.saved_model.save(served, unfinished, signatures=signatures)
    replace_file(os.path.join(unfinished, _FACTS), (json.dumps(facts, indent=1) + "\n").encode())
    if missing_protocol():
        print(f"No warm-up requests, so the first ones will be slow: they need `{INSTALL}`.")
    else:
        write_warmup(unfinished, signatures, served.sampler.input_shape, sizes, cfg_scale)
    os.rename(unfinished, output)


def bytes_in(directory):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(directory) for name in names)


if __name__ == "__main__":
    flags.run(main, flags.define_export, resumes=False)
