"""Bits per dimension of real images: what `python -m dit_tf.evaluate --likelihood` does."""

import math

import numpy as np
import tensorflow as tf
import tqdm

import dit_tf
from dit_tf import autoencoder_file, build, flags
from dit_tf.data.class_names import UNLABELLED
from dit_tf.data.description import opened
from dit_tf.data.pipeline import examples_in_order, open_dataset
from dit_tf.inference import likelihood as inference
from dit_tf.runtime.distribution import check_batch
from dit_tf.runtime.output_files import write_json, writing
from dit_tf.runtime.partial_results import PartialResults


def evaluate_likelihood(options):
    if bool(options.workdir) == bool(options.weights):
        raise ValueError("Exactly one of --workdir and --weights must be given.")
    path = options.workdir or options.weights
    config = build.load_config(path)
    method = inference.likelihood_method(
        config, options.num_steps, options.solver, options.atol, options.rtol
    )
    strategy = flags.strategy_of(options)
    check_batch("--batch_size", options.batch_size, strategy)
    dataset, split, classes = options.dataset or config.dataset, options.split or "test", build.load_classes(path)
    source = open_dataset(dataset, options.data_dir, classes == UNLABELLED, config.folder_reading)
    spec = opened(source, split)
    label_of = inference.matched(f"--dataset={dataset}", spec.classes, classes)
    count = num_examples(options, spec.num_examples)
    vae = load_vae(options, config, spec)
    model = build.load_model(path)
    likelihood = build.make_likelihood(config, model, strategy, vae, **method)

    provenance = dict(
        dit_tf=dit_tf.__version__, tensorflow=tf.__version__, model=path, objective=config.objective, **method,
        dataset=dataset, split=split, data_digest=source.digest(split), num_examples=count, seed=options.seed,
    )  # fmt: skip
    params = build.weights_of(model)
    digest = build.weights_digest(params)
    shared = params, build.encoder_of(vae)
    key = dict(provenance, weights=digest, batch=options.batch_size)
    with writing(options.output, "--output"):
        partial = PartialResults(options.output + ".partial", key)
    done = len(partial.batches) * options.batch_size
    kind = dict(image_size=config.image_size, crop=config.crop)
    batches = examples_in_order(source, split, batch_size=options.batch_size, first=done, **kind)
    with tqdm.tqdm(total=count, initial=min(done, count), unit="image", desc="likelihood", dynamic_ncols=True) as bar:
        for first, (batch, labels, _) in zip(range(done, count, options.batch_size), batches):
            wanted = min(len(batch), count - first)
            result = inference.evaluated(
                likelihood, shared, batch, label_of[labels], options.seed, options.batch_size, first, wanted
            )
            with writing(options.output, "--output"):
                partial.append(result)
            bar.update(wanted)
    write_metrics(options.output, partial.batches, dict(provenance, weights_sha256=digest))
    partial.remove()


def load_vae(options, config, spec):
    """The autoencoder that images go through before the model sees them; None for stored latents and for pixels."""
    if spec.is_latents and config.codec != "vae":
        raise ValueError("--dataset has latents, and the model works on pixels: give a data set of images.")
    if spec.vae_sha256 and config.vae_sha256 not in ("", spec.vae_sha256):
        raise ValueError("--dataset has latents of another autoencoder than the model's: give one of the same.")
    if spec.is_latents or config.codec != "vae":
        return None
    if not options.vae:
        raise ValueError("--vae must be given: the model works on latents, and the data set has images.")
    return autoencoder_file.load_for(config, options.vae)


def num_examples(options, available):
    if options.num_examples is None:
        return available
    if not 1 <= options.num_examples <= available:
        raise ValueError(f"--num_examples must be from 1 to {available}, got {options.num_examples}.")
    return options.num_examples


def write_metrics(path, batches, provenance):
    bits = np.concatenate([batch["bits_per_dim"] for batch in batches])
    evaluations = np.concatenate([batch["evaluations"] for batch in batches])
    error = float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else None
    provenance = dict(provenance, function_evaluations=float(evaluations.mean()))
    metrics = dict(bits_per_dim=float(bits.mean()), bits_per_dim_standard_error=error, provenance=provenance)
    write_json(path, metrics)
    print(f"{len(bits)} images, {evaluations.mean():.1f} function evaluations per image")
    spread = f" +- {error:.4f} (standard error)" if error else ""
    print(f"bits per dimension {bits.mean():.4f}{spread}: {path}")
