"""Scores of the averaged weights while they are trained: what `python -m dit_tf.train --eval_every=5000` adds."""

import hashlib
import os
import tempfile

import tqdm

from dit_tf import build
from dit_tf.data.source_images import SourceImages
from dit_tf.evaluation.scores import title_of
from dit_tf.inference.scoring import make_evaluator
from dit_tf.runtime.distribution import local_strategy
from dit_tf.runtime.workdir import is_remote
from dit_tf.samplers.drawn_images import DrawnImages
from dit_tf.samplers.labels import random_labels
from dit_tf.samplers.options import SamplerOptions

_BATCH = 100  # images, or a few more, so that every replica has as many
_SEED = 0  # of labels and noise, the same at every step: what changes is the model alone


class TrainingEvaluation:
    """Called with a step, draws --eval_samples images from the averaged weights and gives {name: number}.

    It draws and looks at images on the replicas that train; of several hosts the chief does so alone. What is computed
    of a step is kept in the work directory until its numbers are there, and of the reference for good, so that a killed
    run goes on; in the directory of temporary files where the work directory is on gs://.
    """

    def __init__(self, options, config, trainer, vae, source, workdir):
        """ValueError where the flags do not fit together, before anything is compiled."""
        if config.codec == "vae" and vae is None:
            raise ValueError("--vae must be given with --eval_every: images are scored, and the model draws latents.")
        if not options.reference and source.spec(config.split).is_latents:
            raise ValueError("--reference must be given with --eval_every: the data set has latents and no images.")
        if options.eval_samples < 1:
            raise ValueError(f"--eval_samples must be at least 1, got {options.eval_samples}.")
        asked = SamplerOptions(num_steps=options.eval_num_steps, cfg_scale=options.eval_cfg_scale)
        self._trainer, strategy = trainer, local_strategy(trainer.distribute_strategy)
        self._sampler = build.make_sampler(config, trainer.model, asked, strategy, vae)
        self._labels = random_labels(_SEED, options.eval_samples, config.num_classes)
        reference = None
        if not options.reference:
            reference = SourceImages("--dataset", source, config.split, config.image_size, config.crop)
        if is_remote(workdir):  # features are memory-mapped
            workdir = os.path.join(tempfile.gettempdir(), hashlib.sha256(workdir.encode()).hexdigest()[:16])
        partial = os.path.join(workdir, "evaluation", "step")
        batch_size = -(-_BATCH // strategy.num_replicas_in_sync) * strategy.num_replicas_in_sync
        images = self._images({})
        self._evaluator, _ = make_evaluator(options, strategy, images.shape, batch_size, partial, reference)
        self._evaluator.check(images)
        self.title = title_of(options.features, options.eval_samples)

    def _images(self, facts):
        return DrawnImages(self._sampler, self._trainer.ema_tensors(), self._labels, _SEED, facts)

    def __call__(self, step):
        weights = build.weights_digest(self._trainer.ema_tensors())
        scores = self._evaluator(self._images(dict(step=step, weights_sha256=weights)), name=f"{step:08d}")
        tqdm.tqdm.write(f"Step {step}:\n{scores.table()}")
        return scores.logged()
