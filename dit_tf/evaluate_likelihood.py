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
from dit_tf.runtime.distribution import check_batch
from dit_tf.runtime.output_files import write_json, writing
from dit_tf.runtime.partial_results import PartialResults
from dit_tf.samplers.likelihood import SOLVERS
from dit_tf.samplers.options import DEFAULT_STEPS

_TOLERANCE = 1e-5  # of dopri5, absolute and relative


def evaluate_likelihood(options):
    if bool(options.workdir) == bool(options.weights):
        raise ValueError("Exactly one of --workdir and --weights must be given.")
    path = options.workdir or options.weights
    config = build.load_config(path)
    method = likelihood_method(options, config)
    strategy = flags.strategy_of(options)
    check_batch("--batch_size", options.batch_size, strategy)
    dataset, split, classes = options.dataset or config.dataset, options.split or "test", build.load_classes(path)
    source = open_dataset(dataset, options.data_dir, classes == UNLABELLED, config.folder_reading)
    spec = opened(source, split)
    label_of = matched(f"--dataset={dataset}", spec.classes, classes)
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
            result = evaluated(likelihood, shared, batch, label_of[labels], options, first, wanted)
            with writing(options.output, "--output"):
                partial.append(result)
            bar.update(wanted)
    write_metrics(options.output, partial.batches, dict(provenance, weights_sha256=digest))
    partial.remove()


def likelihood_method(options, config):
    """The arguments of `build.make_likelihood`; ValueError where they do not fit the model."""
    if config.objective == "ddpm":
        if options.solver is not None:
            raise ValueError(f"--solver goes with models trained with --objective=flow, got {options.solver!r}.")
        steps = config.num_timesteps if options.num_steps is None else options.num_steps
        if not 1 <= steps <= config.num_timesteps:
            raise ValueError(f"--num_steps must be from 1 to {config.num_timesteps}, got {steps}.")
        return dict(num_steps=steps)
    solver = options.solver or SOLVERS[0]
    if solver not in SOLVERS:
        raise ValueError(f"--solver must be one of {', '.join(SOLVERS)}, got {solver!r}.")
    if solver != "dopri5":
        steps = DEFAULT_STEPS["ode"] if options.num_steps is None else options.num_steps
        if steps < 1:
            raise ValueError(f"--num_steps must be at least 1, got {steps}.")
        return dict(solver=solver, num_steps=steps)
    if options.num_steps is not None:
        raise ValueError(f"--num_steps goes with --solver=heun or euler; dopri5 chooses, got {options.num_steps}.")
    atol, rtol = (_TOLERANCE if value is None else value for value in (options.atol, options.rtol))
    if not (atol > 0 and rtol > 0):
        raise ValueError(f"--atol and --rtol must be positive, got {atol} and {rtol}.")
    return dict(solver=solver, atol=atol, rtol=rtol)


def matched(title, classes, model_classes):
    """int64 (K,): the label that each class of a data set has in a model, see `ClassTable.labels_in`."""
    labels = classes.labels_in(model_classes, title)
    if model_classes.by_number and classes != model_classes:
        print(f"The model knows its classes by number alone: class i of {title} is taken for label i.")
    return labels


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


def evaluated(likelihood, shared, examples, labels, options, first, wanted):
    """{"bits_per_dim", "evaluations"} of the first `wanted` images of a batch, filled up to its static size."""
    size = options.batch_size
    fill = np.arange(size) % len(examples)
    bits, evaluations, finished = likelihood(
        shared, tf.constant(examples[fill]), tf.constant(labels[fill], tf.int32), tf.constant(options.seed, tf.int64),
        tf.range(first, first + size),
    )  # fmt: skip
    if not finished.numpy()[:wanted].all():
        raise ValueError(
            "--solver=dopri5 did not reach the end: its steps became too many or too small; raise --atol and --rtol, "
            "or take --solver=heun."
        )
    return {"bits_per_dim": bits.numpy()[:wanted].tolist(), "evaluations": evaluations.numpy()[:wanted].tolist()}


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
