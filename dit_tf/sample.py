"""Draw images from a trained model:

    python -m dit_tf.sample --workdir=runs/digits --labels=3,1,4 --cfg_scale=1.5 --output=grid.png
    python -m dit_tf.sample --workdir=runs/digits --num_samples=50000 --output=samples.npz
    python -m dit_tf.sample --weights=dit.keras --vae=vae.keras --labels="golden retriever",n02099601 --cfg_scale=4
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tqdm

from dit_tf import build, flags
from dit_tf.runtime.distribution import check_batch, make_strategy
from dit_tf.runtime.image_files import write_grid, write_npz
from dit_tf.samplers.generate import in_batches
from dit_tf.samplers.labels import random_labels
from dit_tf.samplers.options import SamplerOptions


def main(options):
    if bool(options.workdir) == bool(options.weights):
        raise ValueError("Exactly one of --workdir and --weights must be given.")
    if not options.output.endswith((".png", ".npz")):
        raise ValueError(f"--output must end in .png or .npz, got {options.output!r}.")
    strategy = make_strategy(options.strategy, options.tpu, options.logical_cpus)
    check_batch("--batch_size", options.batch_size, strategy)
    path = options.workdir or options.weights
    config = build.load_config(path)
    asked = sampler_options(options)
    classes = build.load_classes(path)
    labels = requested_labels(options, classes)
    vae = load_vae(options, config)
    model = build.load_model(path)
    sampler = build.make_sampler(config, model, asked, strategy, vae)

    replicas = strategy.num_replicas_in_sync
    batch_size = min(options.batch_size, -(-len(labels) // replicas) * replicas)
    batches = []
    print(plan(sampler))
    with tqdm.tqdm(total=len(labels), unit="image", desc="sampling", dynamic_ncols=True) as bar:
        for _, batch in in_batches(sampler, build.weights_of(model), labels, options.seed, batch_size):
            check_finished(batch.work)
            batches.append(batch)
            bar.update(len(batch.images))
    images, work = tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
    if sampler.solver.evaluations is None:
        print(report(work))
    if options.output.endswith(".png"):
        captions = [classes.caption(label) for label in labels]
        write_grid(options.output, images, captions, columns=len(options.labels) if options.labels else None)
    else:
        write_npz(options.output, images, labels)
    print(f"{len(images)} images: {options.output}")


def sampler_options(options):
    """The sampler's flags as a record."""
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(SamplerOptions)}
    try:
        low, high = (float(text) for text in options.guidance_interval)
    except ValueError as error:
        given = ",".join(options.guidance_interval)
        raise ValueError(f"--guidance_interval must be two numbers, LOW,HIGH, got {given!r}.") from error
    return SamplerOptions(**fields | dict(guidance_interval=(low, high)))


def plan(sampler):
    """One line about what an image will cost."""
    o = sampler.options
    name = f"{o.sampler} ({o.solver})" if o.solver else o.sampler
    rows = ", each of two rows for guidance" if o.guided else ""
    if sampler.solver.evaluations is None:
        return f"{name}: as many function evaluations as an image needs{rows}"
    return f"{name}, {o.num_steps} steps: {sampler.solver.evaluations} function evaluations per image{rows}"


def check_finished(work):
    """ValueError where a solver that chooses its own steps gave up."""
    if not work.finished.all():
        raise ValueError(
            f"--solver=dopri5 gave up on {(~work.finished).sum()} of {len(work.finished)} images: its steps became too "
            "many or too small; raise --atol and --rtol, or take --solver=heun."
        )


def report(work):
    """One line about what images have cost under such a solver."""
    e = work.evaluations
    accepted = (e - 2) // 6 - work.rejected  # two evaluations at the start, six for each step that is tried
    steps = f"{accepted.mean():.1f} steps accepted and {work.rejected.mean():.1f} rejected"
    return f"{e.mean():.1f} function evaluations per image ({e.min()} to {e.max()}); {steps}"


def load_vae(options, config):
    """The autoencoder of --vae, which must be given where the model works on latents, and nowhere else."""
    if config.codec == "vae" and not options.vae:
        raise ValueError(
            "--vae must be given: this model draws latents. `python -m dit_tf.convert --source=sd-vae-ft-ema "
            "--output=vae.keras` gets the published decoder."
        )
    if config.codec != "vae" and options.vae:
        raise ValueError(f"--vae goes with models of latents; this one draws pixels, got --vae={options.vae}.")
    return build.load_vae(options.vae, config.precision, config.vae_sha256) if options.vae else None


def requested_labels(options, classes):
    """(N,) int64: the labels of --labels, repeated up to --num_samples, or random ones."""
    if options.num_samples is not None and options.num_samples < 1:
        raise ValueError(f"--num_samples must be at least 1, got {options.num_samples}.")
    if not options.labels:
        if options.num_samples is None:
            raise ValueError("--labels or --num_samples must be given.")
        return random_labels(options.seed, options.num_samples, len(classes))
    return np.resize([classes.find(text) for text in options.labels], options.num_samples or len(options.labels))


if __name__ == "__main__":
    flags.run(main, flags.define_sample, resumes=False)
