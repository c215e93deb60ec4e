"""DiTTrainer: the train step as a keras.Model that `fit` drives, on one device or many replicas.

Keras' own train function switches XLA off under a strategy, fails to loop over steps under MirroredStrategy and sums
over replicas inside the optimizer; this one compiles the two halves of the step, sums once between them, and loops in
the graph.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from dit_tf.runtime.distribution import is_tpu
from dit_tf.training.train_step import State, is_finite


class BadSteps(NamedTuple):
    """Steps that were not applied, because their loss or gradient was not finite; int32 scalars."""

    bad_steps: tf.Tensor  # of this execution
    first_bad_step: tf.Tensor  # of this execution, counted from 1; 0: none
    in_a_row: tf.Tensor  # up to here, over all executions

    def after(self, step, good):
        first = tf.where(good | (self.bad_steps > 0), self.first_bad_step, step)
        return BadSteps(self.bad_steps + tf.cast(~good, tf.int32), first, tf.where(good, 0, self.in_a_row + 1))


class DiTTrainer(keras.Model):
    """Weights, optimizer slots, EMA and step of one training, and the step itself.

    Build it inside the strategy's scope. `fit` takes global batches (examples, labels, place in the global batch) and
    runs until `stop_step`; the logs of an execution are means over its steps, equal on all replicas. A step whose loss
    or gradient is not finite counts, and changes nothing else; `fit` ends with a ValueError at the last of
    `max_bad_steps` such steps in a row (counted from where it began: no checkpoint holds that count).
    """

    def __init__(self, train_step, *, seed, stop_step, steps_per_execution=1, jit=True, max_bad_steps=10, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.functions = train_step
        self.model = train_step.model
        self.seed, self.stop_step, self.jit, self.max_bad_steps = seed, stop_step, jit, max_bad_steps
        self.num_traces = 0
        weights = self.model.trainable_variables
        copies = {name: [self._copy(v, name) for v in weights] for name in ("m", "v", "ema")}
        averages = tuple([self._copy(v, average.name) for v in weights] for average in train_step.averages)
        self.variables_of = State(params=weights, **copies, averages=averages)
        for variables in (self.variables_of.ema, *self.variables_of.averages):
            for average, weight in zip(variables, weights):
                average.assign(weight)
        self.step = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="step")
        self.built = True
        self.compile(optimizer=None, jit_compile=False, steps_per_execution=steps_per_execution)

    def _copy(self, weight, name):
        name = f"{name}_{weight.path.replace('/', '_')}"
        return self.add_weight(shape=weight.shape, dtype="float32", initializer="zeros", trainable=False, name=name)

    def checkpoint_state(self):
        """{name: tf.Variable} of everything that a resumed run needs; the names are part of the file format."""
        *fields, averages = self.variables_of
        state = {"step": self.step.value} | self._named(dict(zip(State._fields, fields)))
        return state | self._named({a.name: variables for a, variables in zip(self.functions.averages, averages)})

    def averages_state(self, kind):
        """The part of it that is the averages of a kind, a class of `dit_tf.training.ema`."""
        averages = zip(self.functions.averages, self.variables_of.averages)
        return self._named({a.name: variables for a, variables in averages if isinstance(a, kind)})

    def begin_averages(self, names):
        """Averages of these names, which no checkpoint has held so far, begin as the weights are."""
        for average, variables in zip(self.functions.averages, self.variables_of.averages):
            if average.name in names:
                for variable, weight in zip(variables, self.variables_of.params):
                    variable.assign(weight)

    def _named(self, copies):
        """{name: list parallel to the weights} -> {"name/path of the weight": tf.Variable}."""
        return {
            f"{name}/{weight.path}": variable.value
            for name, variables in copies.items()
            for weight, variable in zip(self.variables_of.params, variables)
        }

    def state(self):
        """The present `State`, as tensors."""
        *fields, averages = self.variables_of
        return State(*map(_tensors, fields), averages=tuple(map(_tensors, averages)))

    def current_step(self):
        """How many steps the weights have taken, read off the device."""
        return int(tf.convert_to_tensor(self.step.value))

    def ema_tensors(self):
        """The averaged weights, in the order of the model's trainable weights."""
        return _tensors(self.variables_of.ema)

    def train_step(self, batch):
        """One step in the replica context on this replica's share of the batch -> global means of the losses, and the
        length of the gradient."""
        replica = tf.distribute.get_replica_context()
        step = tf.convert_to_tensor(self.step.value)
        state, frozen = self.state(), _tensors(self.functions.codec.encoder_variables)
        loss_and_gradients, update = self._compiled_on_host_devices(replica.strategy)
        losses, gradients = loss_and_gradients(state.params, frozen, batch, tf.constant(self.seed, tf.int64), step)
        share = 1.0 / replica.num_replicas_in_sync
        losses, gradients = replica.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.nest.map_structure(lambda value: value * share, (losses, gradients))
        )
        new, logs = update(state, losses, gradients, step + 1)
        for variable, value in zip(tf.nest.flatten(self.variables_of), tf.nest.flatten(new)):
            variable.value.assign(value)  # each replica its own copy: no reduction, they are equal already
        self.step.value.assign(step + 1)
        return logs

    def _compiled_on_host_devices(self, strategy):
        """A TPU replica function is compiled as a whole, and a nested must-compile call would leave the TPU."""
        if not self.jit or is_tpu(strategy):
            return self.functions.loss_and_gradients, self.functions.update
        return self.functions.compiled

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return self.train_function
        strategy = self.distribute_strategy

        @tf.function(autograph=False, reduce_retracing=True)
        def run_steps(iterator, count, completed, bad_in_a_row):
            self.num_traces += 1

            def one_step(i, sums, bad, waited):
                batch, wait = _timed_next(iterator)
                logs = strategy.run(self.train_step, args=(batch,))
                logs = {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}
                good = is_finite(logs)
                sums = {name: sums[name] + tf.where(good, value, 0.0) for name, value in logs.items()}
                return i + 1, sums, bad.after(completed + i + 1, good), waited + wait

            def unfinished(i, sums, bad, waited):
                return (i < count) & (bad.in_a_row < self.max_bad_steps)

            none = BadSteps(tf.constant(0), tf.constant(0), bad_in_a_row)
            start = tf.constant(0), self.functions.zero_logs(), none, tf.constant(0.0, tf.float64)
            taken, sums, bad, waited = tf.while_loop(unfinished, one_step, start)
            good_steps = tf.cast(taken - bad.bad_steps, tf.float32)
            return taken, {name: value / good_steps for name, value in sums.items()}, bad, waited

        def train_function(iterator):
            count, completed = self.end_of_execution() - self.completed_steps, tf.constant(self.completed_steps)
            taken, logs, bad, waited = run_steps(iterator, tf.constant(count), completed, self.bad_in_a_row)
            self.completed_steps, self.bad_in_a_row = self.completed_steps + int(taken), bad.in_a_row
            if int(bad.in_a_row) >= self.max_bad_steps:
                raise ValueError(
                    f"The loss or the gradient of {self.max_bad_steps} steps in a row was not finite, from step "
                    f"{self.completed_steps - self.max_bad_steps + 1} on; none of them was applied. Try --clip_norm=1, "
                    "a lower --learning_rate or --precision=float32, with another --workdir."
                )
            counts = {"steps": taken, "bad_steps": bad.bad_steps, "first_bad_step": bad.first_bad_step}
            return logs | counts | {"waited": waited}

        self.train_function = train_function
        return train_function

    def end_of_execution(self):
        """The step that the next execution ends at: a multiple of steps_per_execution, wherever the run was resumed."""
        boundary = (self.completed_steps // self.steps_per_execution + 1) * self.steps_per_execution
        return min(boundary, self.stop_step)

    def begin(self):
        """Counts from the present step: what the train function needs before its first call."""
        self.completed_steps, self.bad_in_a_row = self.current_step(), tf.constant(0)

    def fit(self, dataset, callbacks=()):
        """Train from the present step to `stop_step`. The data set must begin at the present step."""
        self.begin()
        if self.completed_steps >= self.stop_step:
            return
        since_boundary = self.completed_steps % self.steps_per_execution
        steps = self.stop_step - self.completed_steps + since_boundary
        try:
            super().fit(dataset, steps_per_epoch=steps, verbose=0, callbacks=list(callbacks), shuffle=False)
        except BaseException:
            for callback in callbacks:  # to close what they have open: Keras calls it where nothing was raised
                callback.on_train_end()
            raise

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Keras would call the model once on made-up data, which fails with several workers; all is built already."""


def _tensors(variables):
    return [tf.convert_to_tensor(v.value) for v in variables]


def _timed_next(iterator):
    """The next global batch, and how many seconds there was nothing to compute on for lack of it, float64 scalar.

    A step of the loop in the graph begins when the loss of the one before it is known, since whether to go on depends
    on it. So from here until the batch has come, the devices have nothing to do but to copy it.
    """
    with tf.device("CPU:0"):
        began = tf.timestamp()
    with tf.control_dependencies([began]):
        batch = next(iterator)
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)), tf.device("CPU:0"):
        return batch, tf.timestamp() - began
