"""Draw images from a trained model:

    python -m dit_tf.sample --workdir=runs/digits --labels=3,1,4 --cfg_scale=1.5 --output=grid.png
    python -m dit_tf.sample --workdir=runs/digits --num_samples=50000 --output=samples.npz
"""

import numpy as np
import tqdm

from dit_tf import build, flags
from dit_tf.runtime.distribution import check_batch, is_tpu, make_strategy
from dit_tf.runtime.image_files import write_grid, write_npz
from dit_tf.samplers.generate import SamplerOptions, in_batches, on_replicas, random_labels


def main(options):
    if bool(options.workdir) == bool(options.weights):
        raise ValueError("Exactly one of --workdir and --weights must be given.")
    if not options.output.endswith((".png", ".npz")):
        raise ValueError(f"--output must end in .png or .npz, got {options.output!r}.")
    strategy = make_strategy(options.strategy, options.tpu, options.logical_cpus)
    check_batch("--batch_size", options.batch_size, strategy)
    path = options.workdir or options.weights
    config = build.load_config(path)
    sampler = SamplerOptions(
        options.sampler, options.num_steps, options.eta, options.cfg_scale, options.guided_channels
    )
    labels = requested_labels(options, config.num_classes)
    model = build.load_model(path)
    sample = on_replicas(build.make_sampler(config, model, sampler, jit=not is_tpu(strategy)), strategy)

    replicas = strategy.num_replicas_in_sync
    batch_size = min(options.batch_size, -(-len(labels) // replicas) * replicas)
    images = []
    evaluations = sampler.num_steps * (2 if sampler.cfg_scale != 1.0 else 1)
    print(f"{sampler.sampler}, {sampler.num_steps} steps: {evaluations} evaluations of the network per image")
    with tqdm.tqdm(total=len(labels), unit="image", desc="sampling", dynamic_ncols=True) as bar:
        for _, batch in in_batches(sample, build.weights_of(model), labels, options.seed, batch_size):
            images.append(batch)
            bar.update(len(batch))
    images = np.concatenate(images)
    if options.output.endswith(".png"):
        write_grid(options.output, images, labels, columns=len(options.labels) if options.labels else None)
    else:
        write_npz(options.output, images, labels)
    print(f"{len(images)} images: {options.output}")


def requested_labels(options, num_classes):
    """(N,) int64: the labels of --labels, repeated up to --num_samples, or random ones."""
    if options.num_samples is not None and options.num_samples < 1:
        raise ValueError(f"--num_samples must be at least 1, got {options.num_samples}.")
    if not options.labels:
        if options.num_samples is None:
            raise ValueError("--labels or --num_samples must be given.")
        return random_labels(options.seed, options.num_samples, num_classes)
    for text in options.labels:
        if not text.strip().isdigit() or int(text) >= num_classes:
            raise ValueError(f"--labels must be classes from 0 to {num_classes - 1}, got {text!r}.")
    return np.resize([int(text) for text in options.labels], options.num_samples or len(options.labels))


if __name__ == "__main__":
    flags.run(main, flags.define_sample)
