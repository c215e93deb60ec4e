"""Train a diffusion transformer:

    python -m dit_tf.train --flagfile=launch/flags/digits.flags --workdir=runs/digits
    python -m dit_tf.train --dataset=folder:photos --vae=sd-vae-ft-ema --model=DiT-XL/2 --init_from=dit.keras

The same command again resumes from the newest checkpoint, bit for bit as if it had never stopped.
"""

if __name__ == "__main__":  # before TensorFlow is imported, which takes seconds
    from dit_tf.runtime import log_filter, preemption

    preemption.end_at_sigterm()
    log_filter.hide_remarks()

import contextlib
import dataclasses

import tensorflow as tf

from dit_tf import autoencoder_file, build, flags
from dit_tf.config import FOLDER_READINGS, RESUMABLE
from dit_tf.data.description import opened
from dit_tf.data.pipeline import first_damaged, open_dataset, training_batches
from dit_tf.models.costs import count_parameters
from dit_tf.resumption import check_names, check_same_run, resume, stored_config
from dit_tf.runtime.checkpoint import Checkpoints, ema_snapshots
from dit_tf.runtime.cluster import LOST, Hosts, check_same_start
from dit_tf.runtime.distribution import check_batch, device_names, reads_here
from dit_tf.runtime.preemption import Preempted, StopRequest
from dit_tf.runtime.versions import installed, line
from dit_tf.runtime.workdir import hold
from dit_tf.train_history import told
from dit_tf.train_options import check_intervals, check_parts, default_workdir, initialise, run_config
from dit_tf.train_records import Records, Run
from dit_tf.training import callbacks
from dit_tf.training.profile import parse_profile_steps


def main(options):
    check_intervals(options)
    check_names(options.resume_with)
    parse_profile_steps(options.profile_steps, options.train_steps)
    with contextlib.ExitStack() as resources:
        stop_request = resources.enter_context(StopRequest())
        strategy = flags.strategy_of(options, several_hosts=True)
        train(options, strategy, resources, stop_request)


def train(options, strategy, resources, stop_request, train_step=None):
    """resources: where the work directory's lock and the thread that saves are entered, to end with the run.

    Returns its `TrainStep`. train_step: that of a training with the same flags but for the seed, see `make_trainer`.
    """
    hosts = Hosts(strategy)
    stop_request.listen()
    check_batch("--global_batch_size", options.global_batch_size, strategy)
    check_parts(options, strategy.num_replicas_in_sync)
    workdir = options.workdir or default_workdir(options)
    checkpoints = Checkpoints(workdir, options.keep_checkpoints, options.keep_checkpoint_hours)
    snapshots, stored = ema_snapshots(workdir), stored_config(checkpoints)
    reading = stored.folder_reading if stored else FOLDER_READINGS[-1]
    source = open_dataset(options.dataset, options.data_dir, options.unconditional, reading)
    spec = opened(source, options.split)
    check_readers(options, source, strategy)
    with strategy.scope():
        vae = load_vae(options, spec)
    config = dataclasses.replace(
        run_config(options, spec, vae), data_digest=source.digest(options.split), folder_reading=reading
    )

    with strategy.scope():
        model = build.make_model(config)
        if options.init_from:
            config = initialise(config, model, spec.classes, options.init_from)
        check_same_run(config, spec.classes, checkpoints, options.resume_with, options.allow_new_data)
        check_same_run(config, spec.classes, snapshots, RESUMABLE, allow_new_data=True)
        trainer = build.make_trainer(
            config, model, None if spec.is_latents else vae,  # stored latents are encoded already
            train_step,
            stop_step=options.train_steps, steps_per_execution=options.steps_per_execution, jit=options.xla,
            max_bad_steps=options.max_bad_steps, remat=options.remat, scan_blocks=options.scan_blocks,
            accumulation_steps=options.accumulation_steps,
        )  # fmt: skip
    if hosts.chief:
        resources.enter_context(hold(workdir))
    start, history = resume(config, checkpoints, trainer)
    check_same_start(workdir, hosts.gather(start))
    run = Run(config, source, spec.classes, vae, trainer, workdir, checkpoints, snapshots, start, history)
    announce(run)

    stream = dict(image_size=config.image_size, seed=config.seed, crop=config.crop)
    batches = strategy.distribute_datasets_from_function(
        lambda context: training_batches(
            source,
            config.split,
            global_batch_size=config.global_batch_size,
            first=history.examples,
            horizontal_flip=config.horizontal_flip,
            context=context,
            **stream,
        )
    )
    damage = naming_damage(run, options.steps_per_execution, stream)
    stop_when_asked = callbacks.StopWhenAsked(stop_request, hosts)
    if not hosts.chief:  # the chief writes for all: the weights are the same everywhere
        with damage, stop_request.noting_interrupts():
            trainer.fit(batches, [stop_when_asked])
        hosts.part()
        return trainer.functions

    records = Records(options, run, resources)
    progress = records.callbacks(stop_when_asked)
    try:
        with damage, stop_request.noting_interrupts():
            trainer.fit(batches, progress)
        records.wait()
    except (KeyboardInterrupt, Preempted):
        records.save(trainer.current_step())
        records.wait()
        raise
    records.finish()
    hosts.part()
    return trainer.functions


def load_vae(options, spec):
    """The autoencoder of --vae, None where it is not given."""
    if not options.vae:
        return None
    factor = None if spec.is_latents else options.scaling_factor
    vae = autoencoder_file.load(options.vae, options.precision, spec.vae_sha256, factor)
    if not spec.is_latents:
        autoencoder_file.scale_or_assumed(vae, options.vae)
    elif not spec.vae_sha256:
        autoencoder_file.check_scale(vae, options.vae, spec.latent_scale, f"{options.dataset}'s")
    return vae


def check_readers(options, source, strategy):
    """ValueError where images need PIL, and the hosts that read them run no Python."""
    if reads_here(strategy):
        return
    if options.crop == "pil":
        raise ValueError("--crop=pil runs in Python, which the hosts of a TPU slice do not: take --crop=fast.")
    if source.needs_python:
        raise ValueError(
            f"--dataset={source.name} has WebP, TIFF or AVIF files, which Python reads, and the hosts of a TPU slice "
            "run none: save them as JPEG or PNG, or encode them with dit_tf.encode."
        )


@contextlib.contextmanager
def naming_damage(run, steps, stream):
    """A training that fails inside may have met a record that cannot be read, somewhere in the execution of `steps`
    steps that failed: TensorFlow does not say which. ValueError, where there is one."""
    try:
        yield
    except LOST:
        raise
    except tf.errors.OpError as error:
        first, count = run.history.examples_at(run.trainer.current_step()), steps * run.config.global_batch_size
        damage = first_damaged(run.source, run.config.split, first=first, count=count, **stream)
        raise ValueError(damage) from error if damage else error


def announce(run):
    config, strategy = run.config, run.trainer.distribute_strategy
    trainable, _ = count_parameters(run.trainer.model)
    replicas = strategy.num_replicas_in_sync
    share = config.global_batch_size // replicas
    print(line(installed()))
    size = f"{trainable / 1e6:.2f} M parameters"
    print(f"{config.model} ({config.block}), {size}, {config.precision}; into {run.workdir}")
    if config.objective == "flow":
        print(f"flow matching: {config.path} path, {config.prediction} prediction")
    latents = ", as latents" if config.codec == "vae" else ""
    devices = f"{replicas} replica(s) of {share} examples on {device_names(strategy)}"
    print(f"{config.dataset} at {config.image_size} pixels{latents}, {devices}")
    if run.start:
        print(f"Resuming from step {run.start}")
    for change in run.history.changed_here:
        print(f"From here on: {told(change)}")


if __name__ == "__main__":
    flags.run(main, flags.define_train)
