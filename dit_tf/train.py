"""Train a diffusion transformer:

    python -m dit_tf.train --flagfile=launch/flags/digits.flags --workdir=runs/digits
    python -m dit_tf.train --dataset=folder:photos --vae=sd-vae-ft-ema --model=DiT-XL/2 --init_from=dit.keras

The same command again resumes from the newest checkpoint, bit for bit as if it had never stopped.
"""

if __name__ == "__main__":  # before the seconds that the imports take
    from dit_tf.runtime import preemption

    preemption.end_at_sigterm()

import contextlib
import os

import tensorflow as tf

from dit_tf import build, flags
from dit_tf.data.pipeline import first_damaged, open_dataset, training_batches
from dit_tf.evaluate_training import TrainingEvaluation
from dit_tf.models.costs import count_parameters, training_flops
from dit_tf.runtime.background_saver import BackgroundSaver
from dit_tf.runtime.checkpoint import Checkpoints, ema_snapshots
from dit_tf.runtime.cluster import LOST, Hosts, check_same_start
from dit_tf.runtime.distribution import check_batch, device_names
from dit_tf.runtime.image_files import replace_file, write_grid
from dit_tf.runtime.metrics_log import MetricsLog
from dit_tf.runtime.peak_flops import count_chips, peak_flops
from dit_tf.runtime.preemption import Preempted, StopRequest
from dit_tf.runtime.workdir import hold, writing_to
from dit_tf.samplers.generate import in_batches
from dit_tf.samplers.options import SamplerOptions
from dit_tf.train_options import check_intervals, check_parts, check_same_run, default_workdir, initialise, run_config
from dit_tf.training import callbacks
from dit_tf.training.ema import PowerFunction
from dit_tf.training.profile import Profile, parse_profile_steps
from dit_tf.training.throughput import Throughput

SAMPLES_PER_CLASS, MAX_SAMPLES = 5, 50


def main(options):
    with contextlib.ExitStack() as resources:
        train(options, resources, resources.enter_context(StopRequest()))


def train(options, resources, stop_request):
    """resources: where the work directory's lock and the thread that saves are entered, to end with the run."""
    check_intervals(options)
    profiled = options.profile_steps and parse_profile_steps(options.profile_steps, options.train_steps)
    strategy = flags.strategy_of(options, several_hosts=True)
    hosts = Hosts(strategy)
    stop_request.listen()
    check_batch("--global_batch_size", options.global_batch_size, strategy)
    check_parts(options, strategy.num_replicas_in_sync)
    source = open_dataset(options.dataset, options.data_dir, unlabelled=options.unconditional)
    spec = source.spec(options.split)
    with strategy.scope():
        vae = build.load_vae(options.vae, options.precision, spec.vae_sha256) if options.vae else None
    config = run_config(options, spec, vae)
    workdir = options.workdir or default_workdir(config)
    checkpoints = Checkpoints(workdir, options.keep_checkpoints, options.keep_checkpoint_hours)
    snapshots = ema_snapshots(workdir)

    with strategy.scope():
        model = build.make_model(config)
        if options.init_from:
            config = initialise(config, model, spec.classes, options.init_from)
        check_same_run(config, checkpoints)
        check_same_run(config, snapshots)
        trainer = build.make_trainer(
            config, model, None if spec.vae_sha256 else vae,  # stored latents are encoded already
            stop_step=options.train_steps, steps_per_execution=options.steps_per_execution, jit=options.xla,
            max_bad_steps=options.max_bad_steps, remat=options.remat, scan_blocks=options.scan_blocks,
            accumulation_steps=options.accumulation_steps,
        )  # fmt: skip
    if hosts.chief:
        resources.enter_context(hold(workdir))
    start = checkpoints.restore(trainer.checkpoint_state()) or 0
    check_same_start(workdir, hosts.gather(start))
    announce(config, trainer, workdir, start)

    stream = dict(image_size=config.image_size, seed=config.seed, crop=config.crop)
    batches = strategy.distribute_datasets_from_function(
        lambda context: training_batches(
            source,
            config.split,
            global_batch_size=config.global_batch_size,
            start_step=start,
            horizontal_flip=config.horizontal_flip,
            context=context,
            **stream,
        )
    )
    damage = naming_damage(source, config, trainer, options.steps_per_execution, stream)
    stop_when_asked = callbacks.StopWhenAsked(stop_request, hosts)
    if not hosts.chief:  # the chief writes for all: the weights are the same everywhere
        with damage, stop_request.noting_interrupts():
            trainer.fit(batches, [stop_when_asked])
        return hosts.part()

    saver = resources.enter_context(BackgroundSaver(checkpoints, start))
    snapshot_saver = resources.enter_context(BackgroundSaver(snapshots, start=None, dtype="float16"))
    with writing_to(workdir):
        replace_file(os.path.join(workdir, "flags.txt"), flags.resolved(options).encode())
    texts = build.model_texts(config, spec.classes)

    def save(step):
        snapshot_saver.wait()  # a run that goes on from this checkpoint will not make the snapshots before it
        saver.save(step, trainer.checkpoint_state(), texts)

    def save_snapshot(step):
        snapshot_saver.save(step, trainer.averages_state(PowerFunction), texts)

    metrics_log = MetricsLog(workdir, start)
    throughput = Throughput(
        config.global_batch_size, count_chips(strategy), training_flops(trainer.model, 1),
        peak_flops(strategy, config.precision),
    )  # fmt: skip
    progress = [
        throughput,
        *([Profile(*profiled, workdir)] if profiled else []),
        callbacks.ProgressBar(throughput),
        callbacks.ReportBadSteps(),
        callbacks.LogMetrics(options.log_every, metrics_log, throughput),
        callbacks.SaveCheckpoint(options.checkpoint_every, save),
        stop_when_asked,
    ]
    if vae is not None or config.codec == "pixels":
        draw = picture(config, trainer, vae, spec.classes, workdir, metrics_log)
        progress.append(callbacks.DrawSamples(options.sample_every, draw))
    else:
        print("No pictures will be drawn: that would need --vae.")
    if options.eval_every:
        evaluation = TrainingEvaluation(options, config, trainer, vae, source, workdir)
        progress.append(callbacks.Evaluate(options.eval_every, evaluation, evaluation.title, metrics_log))
        progress[-1].catch_up(start, options.train_steps)
    if config.ema_stds:
        progress.append(callbacks.SaveSnapshots(options.ema_snapshot_every, save_snapshot))
        progress[-1].catch_up(start, options.train_steps, snapshots.steps())
    try:
        with damage, stop_request.noting_interrupts():
            trainer.fit(batches, progress)
        saver.wait()
        snapshot_saver.wait()
    except (KeyboardInterrupt, Preempted):
        save(trainer.current_step())
        saver.wait()
        raise
    path = os.path.join(workdir, "model.keras")
    with writing_to(workdir):
        build.save_model(path, config, spec.classes, trainer.ema_tensors())
    hosts.part()
    print(f"Finished at step {trainer.current_step()}. Averaged weights: {path}")


@contextlib.contextmanager
def naming_damage(source, config, trainer, steps, stream):
    """A training that fails inside may have met a record that cannot be read, somewhere in the execution of `steps`
    steps that failed: TensorFlow does not say which. ValueError, where there is one."""
    try:
        yield
    except LOST:
        raise
    except tf.errors.OpError as error:
        first, count = (n * config.global_batch_size for n in (trainer.current_step(), steps))
        damage = first_damaged(source, config.split, first=first, count=count, **stream)
        raise ValueError(damage) from error if damage else error


def announce(config, trainer, workdir, start):
    trainable, _ = count_parameters(trainer.model)
    strategy = trainer.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    share = config.global_batch_size // replicas
    print(f"{config.model} ({config.block}), {trainable / 1e6:.2f} M parameters, {config.precision}; into {workdir}")
    if config.objective == "flow":
        print(f"flow matching: {config.path} path, {config.prediction} prediction")
    latents = ", as latents" if config.codec == "vae" else ""
    devices = f"{replicas} replica(s) of {share} examples on {device_names(strategy)}"
    print(f"{config.dataset} at {config.image_size} pixels{latents}, {devices}")
    if start:
        print(f"Resuming from step {start}")


def picture(config, trainer, vae, classes, workdir, metrics_log):
    """draw(step): a grid of guided samples from the averaged weights, from the same noise every time, into
    WORKDIR/samples and TensorBoard."""
    per_class = max(1, min(SAMPLES_PER_CLASS, MAX_SAMPLES // config.num_classes))
    labels = [label for _ in range(per_class) for label in range(config.num_classes)][:MAX_SAMPLES]
    guided = trainer.model.null_label is not None
    few = dict(sampler="ddim", num_steps=50) if config.objective == "ddpm" else dict(sampler="ode", num_steps=25)
    sampler = SamplerOptions(**few, cfg_scale=1.5 if guided else 1.0)
    sample = build.make_sampler(config, trainer.model, sampler, vae=vae)

    def draw(step):
        _, drawn = next(in_batches(sample, trainer.ema_tensors(), labels, 0, len(labels)))
        path = os.path.join(workdir, "samples", f"{step:08d}.png")
        with writing_to(workdir):
            write_grid(path, drawn.images, [classes.caption(label) for label in labels], min(config.num_classes, 10))
        metrics_log.picture(step, "samples", path)

    return draw


if __name__ == "__main__":
    flags.run(main, flags.define_train)
