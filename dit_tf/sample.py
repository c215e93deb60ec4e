"""Draw images from a trained model:

    python -m dit_tf.sample --workdir=runs/digits --labels=3,1,4 --cfg_scale=1.5 --output=grid.png
    python -m dit_tf.sample --workdir=runs/digits --num_samples=50000 --output=samples.npz
    python -m dit_tf.sample --weights=dit.keras --vae=vae.keras --labels="golden retriever",n02099601 --cfg_scale=4

Images go to the disk as they are drawn. The same command again, after an interruption, goes on where it stopped.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import dataclasses
import json
import os

import numpy as np
import tqdm

from dit_tf import autoencoder_file, build, flags
from dit_tf.inference.trained_model import TrainedModel
from dit_tf.runtime.distribution import check_batch
from dit_tf.runtime.image_directory import ImageDirectory
from dit_tf.runtime.image_files import write_grid
from dit_tf.runtime.npz_writer import PartialArray
from dit_tf.runtime.output_files import writing
from dit_tf.samplers.labels import chosen_labels
from dit_tf.samplers.options import SamplerOptions


def main(options):
    is_file = options.output.endswith((".png", ".npz"))
    directory = options.output.endswith("/") or os.path.isdir(options.output) and not is_file
    if not directory and (not is_file or os.path.isdir(options.output)):
        raise ValueError(
            f"--output must be a file that ends in .png or .npz, or a directory, DIR/, got {options.output!r}."
        )
    strategy = flags.strategy_of(options)
    check_batch("--batch_size", options.batch_size, strategy)
    drawn = drawn_images(options, strategy, options.labels)
    replicas = strategy.num_replicas_in_sync
    batch_size = min(options.batch_size, -(-drawn.count // replicas) * replicas)
    with writing(options.output, "--output"):
        kind = ImageDirectory if directory else PartialArray
        rows = kind(options.output, drawn.provenance(), (drawn.count, *drawn.shape))

    print(plan(drawn.sampler))
    if rows.count:
        print(f"{rows.count} of {drawn.count} images are there already: going on behind them")
    bar = tqdm.tqdm(total=drawn.count, initial=rows.count, unit="image", desc="sampling", dynamic_ncols=True)
    with bar:
        for images, work in drawn.draws(batch_size, first=rows.count):
            with writing(options.output, "--output"):
                rows.append(images, note=cost(work, drawn.sampler))
            bar.update(len(images))
    if drawn.sampler.solver.evaluations is None and rows.notes:
        print(report(rows.notes))
    with writing(options.output, "--output"):
        if directory:
            classes = build.load_classes(model_path(options))
            rows.finish(drawn.labels(), [classes.caption(label) for label in drawn.labels()])
        elif options.output.endswith(".png"):
            draw_grid(options, drawn, rows)
        else:
            told = np.frombuffer(json.dumps(drawn.provenance()).encode(), np.uint8)
            rows.finish(drawn.labels(), provenance=told)
    print(f"{drawn.count} image{'s' * (drawn.count != 1)}: {options.output}")


def drawn_images(options, strategy, labels):
    """The images that the flags ask for, as a set. labels: texts, or None for those of --label_policy. ValueError where
    the flags do not go together or do not fit the model."""
    path, asked = model_path(options), sampler_options(options)
    config, classes = build.load_config(path), build.load_classes(path)
    null_label = config.num_classes if config.class_dropout_prob else None
    labels, policy = requested_labels(options, labels, classes, null_label)
    return load_model(options, strategy).images_of(asked, labels, options.seed, policy)


def load_model(options, strategy=None):
    """The `TrainedModel` of --workdir or --weights, with the autoencoder of --vae."""
    path = model_path(options)
    config, classes = build.load_config(path), build.load_classes(path)
    vae = load_vae(options, config)
    return TrainedModel(config, classes, build.load_model(path), vae, path, strategy)


def model_path(options):
    if bool(options.workdir) == bool(options.weights):
        raise ValueError("Exactly one of --workdir and --weights must be given.")
    return options.workdir or options.weights


def sampler_options(options):
    """The sampler's flags as a record; --atol and --rtol may be None, for its defaults."""
    given = {f.name: getattr(options, f.name) for f in dataclasses.fields(SamplerOptions)}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        low, high = (float(text) for text in options.guidance_interval)
    except ValueError as error:
        given = ",".join(options.guidance_interval)
        raise ValueError(f"--guidance_interval must be two numbers, LOW,HIGH, got {given!r}.") from error
    return SamplerOptions(**given | dict(guidance_interval=(low, high)))


def requested_labels(options, texts, classes, null_label=None):
    """(N,) int64: the labels of `texts`, repeated up to --num_samples, or those of --label_policy; and the policy.

    null_label: of a model that can draw without a class, which the text null then means.
    """
    labels = [classes.find(text, null_label=null_label) for text in texts or ()]
    return chosen_labels(labels, options.num_samples, options.label_policy, options.seed, len(classes))


def load_vae(options, config):
    """The autoencoder of --vae, which must be given where the model works on latents, and nowhere else."""
    if config.codec == "vae" and not options.vae:
        raise ValueError(
            "--vae must be given: this model draws latents. `python -m dit_tf.convert --source=sd-vae-ft-ema "
            "--output=vae.keras` gets the published decoder."
        )
    if config.codec != "vae" and options.vae:
        raise ValueError(f"--vae goes with models of latents; this one draws pixels, got --vae={options.vae}.")
    return autoencoder_file.load_for(config, options.vae)


def plan(sampler):
    """One line about what an image will cost."""
    o = sampler.options
    name = f"{o.sampler} ({o.solver})" if o.solver else o.sampler
    rows = ", each of two rows for guidance" if o.guided else ""
    if sampler.solver.evaluations is None:
        return f"{name}: as many function evaluations as an image needs{rows}"
    return f"{name}, {o.num_steps} steps: {sampler.solver.evaluations} function evaluations per image{rows}"


def cost(work, sampler):
    """JSON: what a batch of images has cost where nobody knows it beforehand, else None."""
    if sampler.solver.evaluations is None:
        return dict(evaluations=work.evaluations.tolist(), rejected=work.rejected.tolist())
    return None


def report(costs):
    """One line about what the images of all batches have cost."""
    e, rejected = (np.concatenate([batch[name] for batch in costs]) for name in ("evaluations", "rejected"))
    accepted = (e - 2) // 6 - rejected  # two evaluations at the start, six for each step that is tried
    steps = f"{accepted.mean():.1f} steps accepted and {rejected.mean():.1f} rejected"
    return f"{e.mean():.1f} function evaluations per image ({e.min()} to {e.max()}); {steps}"


def draw_grid(options, drawn, rows):
    """The .png of all images, which are forgotten then."""
    classes = build.load_classes(model_path(options))
    captions = [classes.caption(label) for label in drawn.labels()]
    columns = len(options.labels) if options.labels else None
    write_grid(options.output, rows.finished(), captions, columns, drawn.labels())
    rows.remove()


if __name__ == "__main__":
    flags.run(main, flags.define_sample)
