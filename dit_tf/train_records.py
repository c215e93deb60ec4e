"""What the chief of a training keeps of it: checkpoints, snapshots of averages, metrics, pictures, scores, the model.
"""

import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dit_tf import build, flags
from dit_tf.config import RunConfig
from dit_tf.data.class_names import ClassTable
from dit_tf.data.source import Source
from dit_tf.evaluate_training import TrainingEvaluation
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.costs import training_flops
from dit_tf.runtime.background_saver import BackgroundSaver
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.runtime.image_files import pictured_channels, write_grid
from dit_tf.runtime.metrics_log import MetricsLog
from dit_tf.runtime.output_files import replace_file
from dit_tf.runtime.peak_flops import count_chips, peak_flops
from dit_tf.runtime.workdir import writing_to
from dit_tf.samplers.generate import in_batches
from dit_tf.samplers.options import SamplerOptions
from dit_tf.train_history import FILE, History
from dit_tf.training import callbacks
from dit_tf.training.ema import PowerFunction
from dit_tf.training.profile import Profile, parse_profile_steps
from dit_tf.training.throughput import Throughput
from dit_tf.training.trainer import DiTTrainer

_SAMPLES_PER_CLASS, _MAX_SAMPLES = 5, 50


def kept_model(workdir, step):
    """Where --keep_model_every puts the averaged weights of a step."""
    return os.path.join(workdir, "models", f"{step:08d}.keras")


class Run(NamedTuple):
    """A training, ready to go on from step `start`."""

    config: RunConfig
    source: Source
    classes: ClassTable
    vae: AutoencoderKL | None
    trainer: DiTTrainer
    workdir: str
    checkpoints: Checkpoints
    snapshots: Checkpoints
    start: int
    history: History


class Records:
    """To be made by the one process that holds the work directory. resources: an ExitStack, which ends the threads that
    save."""

    def __init__(self, options, run, resources):
        self.options, self.run = options, run
        self._saver = resources.enter_context(BackgroundSaver(run.checkpoints, run.start))
        self._snapshot_saver = resources.enter_context(BackgroundSaver(run.snapshots, start=None, dtype="float16"))
        self._texts = build.model_texts(run.config, run.classes)
        with writing_to(run.workdir):
            replace_file(os.path.join(run.workdir, "flags.txt"), flags.resolved(options).encode())

    def save(self, step):
        self._snapshot_saver.wait()  # a run that goes on from this checkpoint will not make the snapshots before it
        self._saver.save(step, self.run.trainer.checkpoint_state(), self._texts_at(step))

    def _texts_at(self, step):
        return self._texts | {FILE: self.run.history.to_json(step)}

    def wait(self):
        """Until all that was saved is on the disk."""
        self._saver.wait()
        self._snapshot_saver.wait()

    def finish(self):
        path = os.path.join(self.run.workdir, "model.keras")
        self._write_model(path)
        print(f"Finished at step {self.run.trainer.current_step()}. Averaged weights: {path}")

    def _write_model(self, path):
        run = self.run
        weights = run.trainer.ema_tensors()
        if not all(np.isfinite(value).all() for value in weights):
            step = run.trainer.current_step()
            raise ValueError(f"The averaged weights after step {step} are not finite: {path} was not written.")
        with writing_to(run.workdir):
            build.save_model(path, run.config, run.classes, weights)

    def callbacks(self, stop_when_asked):
        """What happens between executions, in this order. What a killed run left undone at its last step is done now.
        """
        options, run = self.options, self.run
        config, strategy, log = run.config, run.trainer.distribute_strategy, MetricsLog(run.workdir, run.start)
        for change in run.history.changed_here:
            log.note(run.start, changed=change["changed"])
        flops, peak = training_flops(run.trainer.model, 1), peak_flops(strategy, config.precision)
        throughput = Throughput(config.global_batch_size, count_chips(strategy), flops, peak)
        profiled = parse_profile_steps(options.profile_steps, options.train_steps)
        found = [
            throughput,
            *([Profile(*profiled, run.workdir)] if profiled else []),
            callbacks.ProgressBar(throughput),
            callbacks.ReportBadSteps(),
            callbacks.LogMetrics(options.log_every, log, throughput),
            callbacks.SaveCheckpoint(options.checkpoint_every, self.save),
            stop_when_asked,
        ]
        if run.vae is not None or config.codec != "vae":
            shown = pictured_channels(config.channels)
            if options.sample_every and shown != config.channels:
                print(f"Pictures show the first {shown} of {config.channels} channels.")
            found.append(callbacks.DrawSamples(options.sample_every, self._picture(log)))
        else:
            print("No pictures will be drawn: that would need --vae.")
        if options.eval_every:
            evaluation = TrainingEvaluation(options, config, run.trainer, run.vae, run.source, run.workdir)
            found.append(callbacks.Evaluate(options.eval_every, evaluation, evaluation.title, log))
            found[-1].catch_up(run.start, options.train_steps)
        if config.ema_stds:
            found.append(callbacks.SaveSnapshots(options.ema_snapshot_every, self._save_snapshot))
            found[-1].catch_up(run.start, options.train_steps, run.snapshots.steps())
        if options.keep_model_every:
            found.append(callbacks.SaveSnapshots(options.keep_model_every, self._keep_model))
            there = tf.io.gfile.exists(kept_model(run.workdir, run.start))
            found[-1].catch_up(run.start, options.train_steps, [run.start] if there else [])
        return found

    def _keep_model(self, step):
        self._write_model(kept_model(self.run.workdir, step))

    def _save_snapshot(self, step):
        self._snapshot_saver.save(step, self.run.trainer.averages_state(PowerFunction), self._texts_at(step))

    def _picture(self, log):
        """draw(step): a grid of guided samples from the averaged weights, from the same noise every time, into
        WORKDIR/samples and TensorBoard."""
        config, classes, trainer, workdir = self.run.config, self.run.classes, self.run.trainer, self.run.workdir
        per_class = max(1, min(_SAMPLES_PER_CLASS, _MAX_SAMPLES // config.num_classes))
        labels = [label for _ in range(per_class) for label in range(config.num_classes)][:_MAX_SAMPLES]
        guided = trainer.model.null_label is not None
        few = dict(sampler="ddim", num_steps=50) if config.objective == "ddpm" else dict(sampler="ode", num_steps=25)
        sampler = SamplerOptions(**few, cfg_scale=1.5 if guided else 1.0)
        sample = build.make_sampler(config, trainer.model, sampler, vae=self.run.vae)

        def draw(step):
            _, drawn = next(in_batches(sample, trainer.ema_tensors(), labels, 0, len(labels)))
            path = os.path.join(workdir, "samples", f"{step:08d}.png")
            captions = [classes.caption(label) for label in labels]
            with writing_to(workdir):
                write_grid(path, drawn.images, captions, min(config.num_classes, 10), labels)
            log.picture(step, "samples", path)

        return draw
