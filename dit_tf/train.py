"""Train a diffusion transformer:

    python -m dit_tf.train --flagfile=launch/flags/digits.flags --workdir=runs/digits

The same command again resumes from the newest checkpoint, bit for bit as if it had never stopped.
"""

import dataclasses
import os

from dit_tf import build, flags
from dit_tf.config import RunConfig
from dit_tf.data.pipeline import dataset_spec, open_dataset, training_batches
from dit_tf.models.costs import count_parameters, training_flops
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.runtime.distribution import check_batch, make_strategy
from dit_tf.runtime.image_files import replace_file, write_grid
from dit_tf.runtime.metrics_log import MetricsLog
from dit_tf.runtime.peak_flops import measure_peak_flops
from dit_tf.samplers.generate import in_batches
from dit_tf.samplers.options import SamplerOptions
from dit_tf.training import callbacks

SAMPLES_PER_CLASS, MAX_SAMPLES = 5, 50


def main(options):
    check_intervals(options)
    strategy = make_strategy(options.strategy, options.tpu, options.logical_cpus)
    check_batch("--global_batch_size", options.global_batch_size, strategy)
    builder = open_dataset(options.dataset, options.data_dir)
    config = run_config(options, dataset_spec(builder, options.split))
    workdir = options.workdir or default_workdir(config)
    checkpoints = Checkpoints(workdir, keep=options.keep_checkpoints)
    check_same_run(config, checkpoints)

    with strategy.scope():
        trainer = build.make_trainer(
            config, stop_step=options.train_steps, steps_per_execution=options.steps_per_execution, jit=options.xla
        )
    start = checkpoints.restore(trainer.checkpoint_state()) or 0
    replace_file(os.path.join(workdir, "flags.txt"), flags.resolved(options).encode())
    announce(config, trainer, workdir, start)

    batches = training_batches(
        builder,
        config.split,
        image_size=config.image_size,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        start_step=start,
        horizontal_flip=config.horizontal_flip,
    )

    def save(step):
        checkpoints.save(step, trainer.checkpoint_state(), config.to_json())

    throughput = callbacks.Throughput(config.global_batch_size, training_flops(trainer.model, 1), measure_peak_flops())
    progress = [
        throughput,
        callbacks.ProgressBar(throughput),
        callbacks.LogMetrics(options.log_every, MetricsLog(workdir, start), throughput),
        callbacks.SaveCheckpoint(options.checkpoint_every, save),
        callbacks.DrawSamples(options.sample_every, picture(config, trainer, workdir)),
    ]
    try:
        trainer.fit(batches, progress)
    except KeyboardInterrupt:
        save(trainer.current_step())
        raise
    path = os.path.join(workdir, "model.keras")
    build.save_model(path, config, trainer.ema_tensors())
    print(f"Finished at step {trainer.current_step()}. Averaged weights: {path}")


def run_config(options, spec):
    """Flags and data set -> RunConfig: what has a flag is taken from it, what is left open from the data set."""
    flagged = {f.name: getattr(options, f.name) for f in dataclasses.fields(RunConfig) if hasattr(options, f.name)}
    flip = spec.horizontal_flip if options.horizontal_flip is None else options.horizontal_flip
    size = options.image_size or spec.image_size or 256
    learn_sigma = options.objective == "ddpm" if options.learn_sigma is None else options.learn_sigma
    flagged["learn_sigma"] = learn_sigma
    from_data = dict(image_size=size, channels=spec.channels, num_classes=spec.num_classes, horizontal_flip=flip)
    return RunConfig(**flagged | from_data)


def default_workdir(config):
    name = config.model.replace("DiT", "SiT") if config.objective == "flow" else config.model
    return f"runs/{config.dataset}-{name.replace('/', '-')}"


def check_intervals(options):
    """ValueError unless every periodic event falls on the end of an execution."""
    for name in ("steps_per_execution", "train_steps", "checkpoint_every", "log_every"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    for name in ("checkpoint_every", "log_every", "sample_every"):
        if getattr(options, name) % options.steps_per_execution:
            raise ValueError(
                f"--{name} must be a multiple of --steps_per_execution ({options.steps_per_execution}), got "
                f"{getattr(options, name)}."
            )


def check_same_run(config, checkpoints):
    """ValueError where the work directory belongs to a training of another configuration."""
    text = checkpoints.read_config()
    if text is None:
        return
    differences = config.differences(RunConfig.from_json(text))
    if differences:
        raise ValueError(
            f"--workdir={checkpoints.workdir} holds a run of another configuration ({'; '.join(differences)}): repeat "
            "its flags to resume it, or choose another --workdir."
        )


def announce(config, trainer, workdir, start):
    trainable, _ = count_parameters(trainer.model)
    replicas = trainer.distribute_strategy.num_replicas_in_sync
    share = config.global_batch_size // replicas
    print(f"{config.model} ({config.block}), {trainable / 1e6:.2f} M parameters, {config.precision}; into {workdir}")
    if config.objective == "flow":
        print(f"flow matching: {config.path} path, {config.prediction} prediction")
    print(f"{config.dataset} at {config.image_size} pixels, {replicas} replica(s) of {share} examples")
    if start:
        print(f"Resuming from step {start}")


def picture(config, trainer, workdir):
    """draw(step): a grid of guided samples from the averaged weights, from the same noise every time."""
    per_class = max(1, min(SAMPLES_PER_CLASS, MAX_SAMPLES // config.num_classes))
    labels = [label for _ in range(per_class) for label in range(config.num_classes)][:MAX_SAMPLES]
    guided = trainer.model.null_label is not None
    few = dict(sampler="ddim", num_steps=50) if config.objective == "ddpm" else dict(sampler="ode", num_steps=25)
    sampler = SamplerOptions(**few, cfg_scale=1.5 if guided else 1.0)
    sample = build.make_sampler(config, trainer.model, sampler)

    def draw(step):
        _, drawn = next(in_batches(sample, trainer.ema_tensors(), labels, 0, len(labels)))
        path = os.path.join(workdir, "samples", f"{step:08d}.png")
        write_grid(path, drawn.images, labels, columns=min(config.num_classes, 10))

    return draw


if __name__ == "__main__":
    flags.run(main, flags.define_train)
