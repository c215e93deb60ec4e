"""From (labels, seed, image index) to uint8 images: noise, sampler, guidance and codec in one compiled function."""

import copy
import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dit_tf.runtime.distribution import is_tpu, on_replicas
from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers import guidance
from dit_tf.samplers.solvers import Work, make_solver


class Drawn(NamedTuple):
    """images (N, H, W, C) uint8, and what each has cost."""

    images: tf.Tensor
    work: Work


class ImageSampler:
    """A function (params, labels (N,) int32, seed, row (N,) int32) -> `Drawn`.

    Image i of a run has row i, and depends on (seed, i) and its label alone: not on N, not on its neighbours.

    `program` is compiled once for a shape and a number of steps: seeds, labels, the guidance scale and its interval,
    and the numbers of the solver are arguments. `with_options` gives it others.
    """

    def __init__(self, call, process, codec, null_label, options, strategy=None):
        """call(params, x, t, y): the model as a function of its weights. ValueError where options do not fit it.

        strategy: over whose replicas the rows are shared out; None is the default device.
        """
        self._call, self._process, self._codec, self._null_label = call, process, codec, null_label
        self.image_shape, self.input_shape = codec.image_shape, (*codec.input_size, codec.channels)
        self._set(options)
        self.program = tf.function(self.draw, jit_compile=not is_tpu(strategy), autograph=False)
        self._run = self.program if strategy is None else on_replicas(self.program, strategy)

    def _set(self, options):
        self.options = options.resolved(self._process, self._codec, self._null_label)
        self.solver = make_solver(self._process, self.options, clip_denoised=self._codec.bounded)
        self.controls = (self.solver.values, np.float32(options.cfg_scale), np.float32(options.guidance_interval))

    def with_options(self, options):
        """The same compiled program with other numbers; ValueError where the options need another program."""
        other = copy.copy(self)
        other._set(options)
        if other._structure() != self._structure():
            raise ValueError(f"{other.options} need a compilation of their own beside {self.options}.")
        return other

    def _structure(self):
        """What the program was traced for, as opposed to what it is called with."""
        o = self.options
        shift = o.timestep_shift if self._process.objective == "ddpm" else None  # it chooses the chain's constants
        guidance_of = (o.guided, o.guided and o.guided_all_the_way, o.guided_channels)
        return o.sampler, o.solver, o.eta, self.solver.evaluations, shift, guidance_of

    def __call__(self, params, labels, seed, row):
        decoder = [tf.convert_to_tensor(v.value) for v in self._codec.decoder_variables]
        return self._run((params, decoder, tf.nest.map_structure(tf.constant, self.controls)), labels, seed, row)

    def draw(self, shared, labels, seed, row):
        """What `program` compiles. seed may be (N,), a run for each row, and the scale of the controls too."""
        params, decoder, (values, scale, interval) = shared
        seeds = RowSeeds(seed, row)
        model_fn = self._model_fn(functools.partial(self._call, params), labels, scale, interval)
        x = seeds.normal(Stream.START, self.input_shape)
        x, work = self.solver.run(values, model_fn, x, seeds)
        return Drawn(self._codec.decode(decoder, x), work)

    def _model_fn(self, model, labels, scale, interval):
        if not self.options.guided:
            return guidance.condition(model, labels)
        active = None
        if not self.options.guided_all_the_way:
            active = guidance.within(interval[0], interval[1], self._process.clock)
        return guidance.guide(model, labels, self._null_label, scale, self.options.guided_channels, active)


def in_batches(sample, params, labels, seed, batch_size, first=0):
    """Yields (labels, `Drawn` in NumPy) until all labels (N,) from image `first` on have their image, in calls of one
    static batch size.

    The last batch is filled up with rows that are thrown away, so that one compilation serves them all.
    """
    for begin in range(first, len(labels), batch_size):
        rows = np.arange(begin, begin + batch_size, dtype=np.int32)
        padded = np.resize(labels[begin : begin + batch_size], batch_size).astype(np.int32)
        drawn = sample(params, tf.constant(padded), tf.constant(seed, tf.int64), tf.constant(rows))
        count = min(batch_size, len(labels) - begin)
        yield labels[begin : begin + count], tf.nest.map_structure(lambda x, count=count: x.numpy()[:count], drawn)
