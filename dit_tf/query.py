"""Draw images from a served model, at an address of TensorFlow Serving:

    python -m dit_tf.query --server=grpc://localhost:8500 --labels=3,1,4 --cfg_scale=1.5 --output=grid.png
    python -m dit_tf.query --server=http://localhost:8501 --num_samples=1000 --output=samples.npz

Image i has the seed --seed + i: it is image 0 of `dit_tf.sample --seed=SEED+i` with the sampler that the model was
exported with. The same command again, after an interruption, goes on where it stopped.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import hashlib
import json
import os

import numpy as np
import tqdm

import dit_tf
from dit_tf import flags
from dit_tf.config import MOST_SEED
from dit_tf.data.class_names import ClassTable
from dit_tf.runtime.image_files import write_grid
from dit_tf.runtime.npz_writer import PartialArray
from dit_tf.runtime.output_files import writing
from dit_tf.sample import requested_labels
from dit_tf.serving.client import connect
from dit_tf.serving.rules import LARGEST_SCALE


def main(options):
    check_flags(options)
    version, shape = connect(options.server, options.model, options.model_version, options.deadline).description()
    # All images are of one version, though the server may have another by the time that the last is drawn.
    served = connect(options.server, options.model, version, options.deadline)
    classes = ClassTable(*served.classes())
    labels, policy = requested_labels(options, options.labels, classes)
    if options.seed + len(labels) - 1 > MOST_SEED:
        raise ValueError(f"--seed must leave room for {len(labels)} seeds below 2**63, got {options.seed}.")
    facts = provenance(options, version, shape, labels, policy)
    with writing(options.output, "--output"):
        rows = PartialArray(options.output, facts, (len(labels), *shape))

    if rows.count:
        print(f"{rows.count} of {len(labels)} images are there already: going on behind them")
    bar = tqdm.tqdm(total=len(labels), initial=rows.count, unit="image", desc="asking", dynamic_ncols=True)
    with bar:
        for first in range(rows.count, len(labels), options.batch_size):
            part = labels[first : first + options.batch_size]
            seeds = range(options.seed + first, options.seed + first + len(part))
            images = served.images(part, seeds, [options.cfg_scale] * len(part))
            with writing(options.output, "--output"):
                rows.append(images)
            bar.update(len(part))
    with writing(options.output, "--output"):
        if options.output.endswith(".png"):
            captions = [classes.caption(label) for label in labels]
            columns = len(options.labels) if options.labels else None
            write_grid(options.output, rows.finished(), captions, columns, labels)
            rows.remove()
        else:
            rows.finish(labels, provenance=np.frombuffer(json.dumps(facts).encode(), np.uint8))
    print(f"{len(labels)} images of version {version} of {options.model}: {options.output}")


def check_flags(options):
    if not options.output.endswith((".png", ".npz")) or os.path.isdir(options.output):
        raise ValueError(f"--output must be a file that ends in .png or .npz, got {options.output!r}.")
    if not options.server:
        raise ValueError("--server must be given: the address of the server, such as grpc://localhost:8500.")
    if not options.model:
        raise ValueError("--model must be the name that the server has for the model, got ''.")
    for name, least in dict(model_version=1, batch_size=1).items():
        if options[name].value is not None and options[name].value < least:
            raise ValueError(f"--{name} must be at least {least}, got {options[name].value}.")
    if not 0.0 <= options.cfg_scale <= LARGEST_SCALE:
        raise ValueError(f"--cfg_scale must be from 0 to {LARGEST_SCALE:g}, got {options.cfg_scale}.")
    if not 0.0 < options.deadline < float("inf"):
        raise ValueError(f"--deadline must be a number of seconds above 0, got {options.deadline}.")


def provenance(options, version, shape, labels, policy):
    """All that the images follow from. JSON-able."""
    return dict(
        dit_tf=dit_tf.__version__, server=options.server, model=options.model, version=version, label_policy=policy,
        cfg_scale=options.cfg_scale, seed=options.seed, images=len(labels), size=list(shape),
        labels_sha256=hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
    )  # fmt: skip


if __name__ == "__main__":
    flags.run(main, flags.define_query)
