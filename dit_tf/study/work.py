"""The work of a study: one training, and one row of its table."""

import contextlib
import io
import os

import numpy as np
from absl import flags as absl_flags

from dit_tf import autoencoder_file, build
from dit_tf.data.pipeline import open_dataset, real_images
from dit_tf.data.source_images import SourceImages
from dit_tf.evaluation.class_agreement import class_agreement, train_classifier
from dit_tf.evaluation.extractor import PixelExtractor
from dit_tf.flags.groups import strategy_of
from dit_tf.flags.study import define_study
from dit_tf.inference.likelihood import matched
from dit_tf.inference.scoring import make_evaluator, versions
from dit_tf.models.codec import scale_pixels
from dit_tf.runtime.metrics_log import read_metrics
from dit_tf.runtime.output_files import replace_file
from dit_tf.runtime.preemption import StopRequest
from dit_tf.samplers.drawn_images import DrawnImages
from dit_tf.samplers.labels import LABEL_POLICIES
from dit_tf.study.cost import Clock, note_time
from dit_tf.study.grid import Training, programs_of, rows_of, trainings_of
from dit_tf.study.plan import read_plan
from dit_tf.study.table import Table
from dit_tf.train import train
from dit_tf.train_records import kept_model

PICTURED = 10  # images of each model that the report shows, from the same noise
_COMPARED = (  # the flags that say how images are compared with a reference
    "reference_split", "features", "inception", "num_reference_images", "precision_recall_dtype", "allow_few_samples",
    "image_size", "crop", "batch_size",
)  # fmt: skip
_MOST_JUDGED = 5000  # images of a data set whose classes are learnt by the judge, whose time grows with their square


def unfinished(trainings, rows, worker, table):
    """[Training or Row] of these trainings that are not there yet, in the order in which they are done."""
    todo = [training for training in trainings if not worker.is_trained(training)]
    return todo + [row for row in rows if row.training in trainings and not table.has(row)]


def work(place, plan_path, workdir, devices, number, expected):
    """Train and score the trainings of one program, in a process that does nothing else. place: see `run_alone`;
    devices: flags of the study; number: of the program in the plan; expected: see `Clock`."""
    note_time(workdir, "start of a process", place.started)
    options = absl_flags.FlagValues()
    define_study(options)
    options(["study", *devices])
    plan = read_plan(plan_path)
    trainings = trainings_of(plan)
    rows, table = rows_of(plan, trainings), Table(workdir)
    worker, mine = Worker(workdir, strategy_of(options), place.slot), programs_of(trainings)[number]
    clock = Clock(workdir, [*trainings, *rows], expected, lambda: unfinished(trainings, rows, worker, table))
    for unit in unfinished(mine, rows, worker, table):
        if isinstance(unit, Training):
            with clock.timing(unit, f"training {unit.name}"):
                worker.train(unit)
        else:
            with clock.timing(unit, f"{unit.scoring.name} of {unit.training.name} at step {unit.step}"):
                table.write(unit, worker.score(unit))


class Worker:
    """Trains and scores the models of one program, on one strategy: what is compiled serves all seeds, and one row
    after the other where it can. Without a strategy it finds what is there."""

    def __init__(self, workdir, strategy=None, slot=0):
        """slot: of its process among those that work at the same time."""
        self.workdir, self._strategy, self._slot = workdir, strategy, slot
        self._train_step, self._samplers = None, []
        self._evaluators, self._judges = {}, {}

    def path_of(self, training):
        return os.path.join(self.workdir, "runs", training.name)

    def is_trained(self, training):
        return os.path.exists(kept_model(self.path_of(training), training.options.train_steps))

    def train(self, training):
        """To the end, from wherever it was."""
        options = training.options
        options.workdir = self.path_of(training)
        with contextlib.ExitStack() as resources:
            stop_request = resources.enter_context(StopRequest())
            self._train_step = train(options, self._strategy, resources, stop_request, self._train_step)

    def score(self, row):
        """{name: value} of a row: what it is of, what it cost, its scores, and where they come from."""
        training, options = row.training, row.scoring.options
        config = training.config
        model = build.load_model(kept_model(self.path_of(training), row.step))
        sampler = self._sampler(config, model, row.scoring.asked, options.vae)
        params = build.weights_of(model)
        labels = LABEL_POLICIES[options.label_policy](options.seed, options.num_samples, config.num_classes)
        facts = dict(weights_sha256=build.weights_digest(params), label_policy=options.label_policy)
        drawn = DrawnImages(sampler, params, labels, options.seed, facts)
        images, evaluations = drawn, sampler.solver.evaluations
        if options.features == "pixels":
            images = Held(drawn, options.batch_size)
            evaluations = images.evaluations
        evaluator, compared = self._evaluator(training, options, images.shape)
        scores = evaluator(images, name=row.key).numbers()
        if options.features == "pixels":
            scores |= self._agreement(training, images.images, labels)
        if row.baseline and row.step == training.options.train_steps:
            self._keep_pictures(training, next(iter(images.batches(options.batch_size)))[:PICTURED])
        loss = [loss for step, loss in self.losses(training) if step <= row.step][-1:]
        provenance = dict(
            samples=drawn.provenance(), features_sha256=dict(evaluator.features_sha256), **compared, **versions()
        )
        found = described(row, sampler.options, evaluations) | dict(loss=loss[0] if loss else None)
        return found | scores | dict(provenance=provenance)

    def losses(self, training):
        """[(step, mean loss since the step before)]; none of a training that has not begun."""
        lines = read_metrics(self.path_of(training))
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    def pictures(self, training):
        """uint8 (K, H, W, C), or None where they are not there yet."""
        path = self._pictures(training)
        return np.load(path) if os.path.exists(path) else None

    def _sampler(self, config, model, asked, vae_path):
        for sampler in (sampler for path, sampler in self._samplers if path == vae_path):
            with contextlib.suppress(ValueError):  # it needs a compilation of its own
                return sampler.with_options(asked)
        vae = autoencoder_file.load_for(config, vae_path)
        sampler = build.make_sampler(config, model, asked, self._strategy, vae)
        self._samplers.append((vae_path, sampler))
        return sampler

    def _evaluator(self, training, options, shape):
        config = training.config
        key = shape, options.reference or (config.dataset, config.split), *(options[name].value for name in _COMPARED)
        if key not in self._evaluators:
            reference = None
            if not options.reference:
                reading = build.load_config(self.path_of(training)).folder_reading
                source = open_dataset(config.dataset, training.options.data_dir, folder_reading=reading)
                reference = SourceImages("--dataset", source, config.split, config.image_size, config.crop)
            partial = os.path.join(self.workdir, "evaluation", f"{self._slot}-{len(self._evaluators)}")
            made = make_evaluator(options, self._strategy, shape, options.batch_size, partial, reference)
            self._evaluators[key] = made
        return self._evaluators[key]

    def _agreement(self, training, images, labels):
        """{"class_agreement"} of uint8 images (N, H, W, C), of small labelled data sets; else {}."""
        config = training.config
        if config.dataset not in self._judges:
            self._judges[config.dataset] = self._judge(training, images.shape[1:])
        judge, features = self._judges[config.dataset]
        return {} if judge is None else dict(class_agreement=class_agreement(judge, features(images), labels))

    def _judge(self, training, shape):
        """(classifier or None, what it looks at)."""
        config, features = training.config, PixelExtractor(shape, None, scale_pixels)
        path = self.path_of(training)
        trained = build.load_config(path)
        source = open_dataset(config.dataset, training.options.data_dir, folder_reading=trained.folder_reading)
        spec = source.spec(config.split)
        if config.num_classes < 2 or spec.num_examples > _MOST_JUDGED:
            return None, features
        label_of = matched(f"--dataset={config.dataset}", spec.classes, build.load_classes(path))
        real, classes = real_images(source, config.split)
        return train_classifier(features(real), label_of[classes]), features

    def _pictures(self, training):
        return os.path.join(self.path_of(training), "pictures.npy")

    def _keep_pictures(self, training, images):
        content = io.BytesIO()
        np.save(content, images)
        replace_file(self._pictures(training), content.getvalue())


class Held:
    """A set of small images, drawn once and kept in memory. evaluations: of the network for an image, in the mean."""

    def __init__(self, drawn, batch_size):
        batches = list(drawn.draws(batch_size))
        self.images = np.concatenate([batch.images for batch in batches])
        self.evaluations = float(np.concatenate([batch.work.evaluations for batch in batches]).mean())
        self.count, self.shape, self.provenance = drawn.count, drawn.shape, drawn.provenance

    def batches(self, batch_size, first=0):
        return (self.images[i : i + batch_size] for i in range(first, self.count, batch_size))


def described(row, options, evaluations):
    """What a row is of, and what it costs; options: of the sampler, resolved."""
    training, config = row.training, row.training.config
    macs, doubled = training.counts["macs"], 2 if options.guided else 1
    flow = config.objective == "flow"
    some = options.guided and options.guided_channels not in (None, build.make_codec(config).channels)
    guided_channels = options.guided_channels if some else None  # None: all
    return dict(
        run=training.name, group=training.group, score=row.scoring.name, baseline=row.baseline, step=row.step,
        seed=config.seed, dataset=config.dataset, model=config.model, block=config.block, codec=config.codec,
        image_size=config.image_size, objective=config.objective, path=config.path if flow else "",
        prediction=config.prediction if flow else "noise", loss_weight=config.loss_weight,
        global_batch_size=config.global_batch_size, parameters=training.counts["parameters"], macs=macs,
        training_macs=3 * macs * config.global_batch_size * row.step,
        sampler=options.sampler, solver=options.solver, num_steps=options.num_steps, evaluations=evaluations,
        cfg_scale=options.cfg_scale, guided_channels=guided_channels,
        diffusion=options.diffusion if options.sampler == "sde" else "",
        sampling_macs=macs * evaluations * doubled, num_samples=row.scoring.options.num_samples,
        features=row.scoring.options.features,
    )  # fmt: skip
