"""A plan, checked to the last flag before anything runs: its trainings, and the rows that they will give."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os

from absl import flags as absl_flags

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.flags.commands import define_train
from dit_tf.flags.study import define_scoring
from dit_tf.preflight.analysis import analysis, configuration
from dit_tf.sample import sampler_options
from dit_tf.samplers.labels import LABEL_POLICIES
from dit_tf.samplers.options import SamplerOptions
from dit_tf.train_options import check_intervals

_HOW = ("remat", "scan_blocks", "accumulation_steps", "xla", "vae")  # a step is computed
_FILES = ("init_from", "vae")  # that a training begins with, which its configuration does not name before it is read
DEVICES = ("strategy", "tpu", "tpu_zone", "tpu_project", "logical_cpus")
_OF_THE_STUDY = ("workdir", *DEVICES)


@dataclasses.dataclass(frozen=True)
class Training:
    """options: the flags of dit_tf.train; encodes: whether its step begins with images that an autoencoder encodes."""

    name: str
    group: str
    options: absl_flags.FlagValues
    config: RunConfig
    encodes: bool

    @property
    def counts(self):
        """Parameters, multiply-adds and state, see `analysis`."""
        return _counts(dataclasses.replace(self.config, seed=0), self.encodes)

    @property
    def program(self):
        """What is compiled for it: the same for trainings that differ in their seed alone."""
        return dataclasses.replace(self.config, seed=0), *(self.options[name].value for name in _HOW)

    @property
    def kept_steps(self):
        every, last = self.options.keep_model_every, self.options.train_steps
        return [*range(every, last, every), last]

    @property
    def macs(self):
        """Multiply-adds of the whole training: those of the forward pass, three times for the gradient (the paper)."""
        return 3 * self.counts["macs"] * self.config.global_batch_size * self.options.train_steps


_counts = functools.cache(analysis)


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How models are scored. options: the flags of `define_scoring`."""

    name: str
    options: absl_flags.FlagValues
    asked: SamplerOptions


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table: a training's model at a step, drawn from and scored in one way. baseline: whether models
    are compared with one another by it."""

    training: Training
    scoring: Scoring
    step: int
    baseline: bool

    @property
    def key(self):
        """Names what the row is of, and nothing of where or when: a changed plan finds the rows that it still has."""
        own, training = self.scoring.options, self.training
        chosen = {name: own[name].value for name in sorted(own) if own[name].value != own[name].default}
        files = [training.options[name].value for name in _FILES]
        parts = json.loads(training.config.to_json()), files, self.step, chosen | dict(steps=None, data_dir=None)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]

    @property
    def macs(self):
        """Multiply-adds of all its images."""
        asked = self.scoring.asked.resolved(*fitting(self.training.config))
        steps = asked.num_steps or 50  # dopri5 chooses its own
        evaluations = steps * (2 if asked.solver == "heun" else 1) * (2 if asked.guided else 1)
        return self.training.counts["macs"] * evaluations * self.scoring.options.num_samples


def fitting(config):
    """(process, codec, null label): what a sampler's options must fit."""
    null_label = config.num_classes if config.class_dropout_prob else None
    return build.make_process(config), build.make_codec(config), null_label


def trainings_of(plan):
    """[Training], those of one program together. ValueError with the line of the plan that is wrong."""
    found = []
    for section in plan.of_kind("train"):
        for telling, arguments in section.grid():
            with _of_line(plan, section):
                options = _parsed(define_train, arguments, _OF_THE_STUDY)
                check_intervals(options)
                if options.eval_every:
                    raise ValueError(
                        f"--eval_every={options.eval_every} must be left out: [score ...] says how to score."
                    )
                options.keep_model_every = options.keep_model_every or options.train_steps
                config, encodes = configuration(options)
                build.check_size(config)
                build.make_process(config)
            name = os.path.join(section.name, telling or "only")
            if name in {training.name for training in found}:
                raise plan.error(section.line, f"there must be one training of a name, got {name} again.")
            found.append(Training(name, section.name, options, config, encodes))
    order = list(dict.fromkeys(training.program for training in found))
    return sorted(found, key=lambda training: order.index(training.program))


def programs_of(trainings):
    """[[Training, ...]]: those that one compilation serves, together."""
    return [list(alike) for _, alike in itertools.groupby(trainings, lambda training: training.program)]


def rows_of(plan, trainings):
    """[Row] in the order of the plan's scorings. ValueError with the line that is wrong."""
    found, baseline = {}, {}  # the first scoring of each group
    for section in plan.of_kind("score"):
        for number, (_, arguments) in enumerate(section.grid()):
            of = (section.name, number)
            with _of_line(plan, section):
                options = _parsed(define_scoring, arguments, ())
                if options.label_policy not in LABEL_POLICIES:
                    raise ValueError(
                        f"--label_policy must be one of {', '.join(LABEL_POLICIES)}, got {options.label_policy!r}."
                    )
                if options.num_samples < 1:
                    raise ValueError(f"--num_samples must be at least 1, got {options.num_samples}.")
                if options.features == "inception" and options.solver == "dopri5":
                    raise ValueError("--solver=dopri5 must be left out: what it costs is not known before; take heun.")
                scoring = Scoring(section.name, options, sampler_options(options))
                for training in (training for training in trainings if training.group in section.of):
                    scoring.asked.resolved(*fitting(training.config))
                    for step in steps_of(scoring, training):
                        row = Row(training, scoring, step, baseline.setdefault(training.group, of) == of)
                        found.setdefault(row.key, row)  # the first scoring has it, where two say the same
    return list(found.values())


def steps_of(scoring, training):
    """Which of a training's models are scored."""
    asked, kept = scoring.options.steps, training.kept_steps
    if asked in ("last", "every"):
        return kept[-1:] if asked == "last" else kept
    steps = [int(text) if text.strip().isdigit() else 0 for text in asked.split(",")]
    if not set(steps) <= set(kept):
        raise ValueError(
            f"--steps must be last, every, or among the steps that --keep_model_every and --train_steps of "
            f"{training.name} leave ({', '.join(map(str, kept))}), got {asked}."
        )
    return steps


@contextlib.contextmanager
def _of_line(plan, section):
    """What is wrong inside is of a line of the section."""
    try:
        yield
    except ValueError as error:
        raise plan.error(section.line_of(str(error)), str(error)) from error


def _parsed(define, arguments, refused):
    """The flags of a section. ValueError for one that is unknown, has no such value, or is not the plan's to say."""
    values = absl_flags.FlagValues()
    define(values)
    try:
        rest = values(["plan", *arguments])
    except absl_flags.Error as error:
        raise ValueError(str(error).rstrip(".") + ".") from error
    given = [name for name in refused if values[name].present]
    if given:
        raise ValueError(f"--{given[0]} must be left out: the study says where its trainings run.")
    if rest[1:]:
        raise ValueError(f"every argument must be a flag, --name=value, got {rest[1]!r}.")
    return values
