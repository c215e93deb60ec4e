"""One train step as two pure functions of tensors: loss and gradients; update of weights, slots and EMA.

Nothing is captured, so that `DiTTrainer` wraps them, a replica runs them and an ahead-of-time compiler takes them, all
the same functions; between the two stands only the sum of the gradients over the replicas.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.training.ema import Exponential, ema_update
from dit_tf.training.quarters import SHAPE, by_quarter


class State(NamedTuple):
    """What an update turns into its successor: lists of float32 tensors in the order of the trainable weights."""

    params: list
    m: list
    v: list
    ema: list
    averages: tuple = ()  # a list for each further average


class TrainStep:
    def __init__(
        self, model, call_with, process, codec, optimizer, ema_decay, *,
        averages=(), clip_norm=0.0, accumulation_steps=1,
    ):  # fmt: skip
        """call_with(model, params, (x, t, y)): the model as a function of its weights. averages: those beside the one
        of ema_decay, of `dit_tf.training.ema`. clip_norm: the longest that the gradients of all weights together may
        be, 0: any. accumulation_steps: parts that a batch is computed in, one after the other."""
        self.model, self.call_with = model, call_with
        self.process, self.codec = process, codec
        self.optimizer, self.average, self.averages = optimizer, Exponential(ema_decay), tuple(averages)
        self.clip_norm, self.accumulation_steps = clip_norm, accumulation_steps

    def loss_and_gradients(self, params, frozen, batch, seed, step):
        """params: list; frozen: the codec's encoder; batch: examples (N, ...) that the codec encodes, labels (N,) and
        places in the global batch (N,) int32; seed int64 and step int32 scalars -> ({name: mean over the batch} and
        its "quarters", see `by_quarter`; dense gradients). The randomness of a row is a function of (seed, step, place
        in the global batch), so it does not matter which replica holds it, nor which part of the batch."""
        if self.accumulation_steps == 1:
            return self._of_part(params, frozen, batch, seed, step)
        parts = [self._split(x) for x in batch]

        def add(i, sums):
            part = self._of_part(params, frozen, [x[i] for x in parts], seed, step)
            return i + 1, tf.nest.map_structure(tf.add, sums, part)

        zeros = self._zero_losses(), [tf.zeros_like(p) for p in params]
        count = self.accumulation_steps
        _, sums = tf.while_loop(lambda i, _: i < count, add, (tf.constant(0), zeros), maximum_iterations=count)
        return tf.nest.map_structure(lambda value: value / count, sums)

    @functools.cached_property
    def compiled(self):
        """(loss_and_gradients, update) for XLA, the same to every trainer: what is compiled for one serves the next."""
        functions = self.loss_and_gradients, self.update
        return tuple(tf.function(function, jit_compile=True, autograph=False) for function in functions)

    def _split(self, x):
        """(N, ...) -> (parts, N / parts, ...)"""
        size, count = x.shape[0], self.accumulation_steps
        if size is not None and size % count:
            raise ValueError(f"--accumulation_steps must divide the {size} examples of a replica, got {count}.")
        return tf.reshape(x, (count, -1 if size is None else size // count, *x.shape[1:]))

    def _of_part(self, params, frozen, batch, seed, step):
        examples, labels, row = batch
        seeds = RowSeeds(seed, row, step)
        x = self.codec.encode(frozen, examples, seeds)
        y = self.model.drop_labels(labels, seeds.uniform(Stream.LABEL_DROPOUT))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params)
            terms = self.process.training_losses(
                lambda x_t, t: self.call_with(self.model, params, (x_t, t, y)), x, seeds
            )
            losses = {name: tf.reduce_mean(term) for name, term in terms.items()}
        losses["quarters"] = by_quarter(terms["loss"], self.process.quarter(seeds))
        gradients = tape.gradient(losses["loss"], params, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return losses, [tf.convert_to_tensor(g) for g in gradients]  # the label table's gradient comes as IndexedSlices

    def state_of(self, value):
        """A State that has `value`, a list, in all of its places."""
        return State(value, value, value, value, (value,) * len(self.averages))

    def _zero_losses(self):
        return {name: tf.zeros(()) for name in self.process.loss_names} | {"quarters": tf.zeros(SHAPE)}

    def zero_logs(self):
        """What `update` logs, all 0, before anything is traced: where sums over steps begin."""
        return self._zero_losses() | {"grad_norm": tf.zeros(())}

    def update(self, state, losses, gradients, step):
        """Losses and gradients are means over all replicas; step int32 counts the updates from 1 -> (State, losses
        and `grad_norm`, the length of all gradients together, before clipping). Where the loss or that length is not
        finite the state stays as it was."""
        norm = tf.linalg.global_norm(gradients)
        if self.clip_norm:
            scale = self.clip_norm / tf.maximum(norm, self.clip_norm)
            gradients = [scale * g for g in gradients]
        params, m, v = self.optimizer.update(state.params, state.m, state.v, gradients, step)
        ema, *averages = (
            ema_update(old, params, average.rate(step))
            for old, average in zip((state.ema, *state.averages), (self.average, *self.averages), strict=True)
        )
        new = State(params, m, v, ema, tuple(averages))
        logs = losses | {"grad_norm": norm}
        good = is_finite(logs)
        return tf.nest.map_structure(lambda after, before: tf.where(good, after, before), new, state), logs


def is_finite(logs):
    """Whether the step that logged this was applied."""
    return tf.math.is_finite(logs["loss"]) & tf.math.is_finite(logs["grad_norm"])
