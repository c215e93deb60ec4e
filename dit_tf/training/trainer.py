"""DiTTrainer: the train step as a keras.Model that `fit` drives, on one device or many replicas.

Keras' own train function switches XLA off under a strategy, fails to loop over steps under MirroredStrategy and sums
over replicas inside the optimizer; this one compiles the two halves of the step, sums once between them, and loops in
the graph.
"""

import keras
import tensorflow as tf

from dit_tf.runtime.distribution import is_tpu
from dit_tf.training.train_step import State


class DiTTrainer(keras.Model):
    """Weights, optimizer slots, EMA and step of one training, and the step itself.

    Build it inside the strategy's scope. `fit` takes global batches (examples, labels, place in the global batch) and
    runs until `stop_step`; the logs of an execution are means over its steps, equal on all replicas.
    """

    def __init__(self, train_step, *, seed, stop_step, steps_per_execution=1, jit=True, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.functions = train_step
        self.model = train_step.model
        self.seed, self.stop_step, self.jit = seed, stop_step, jit
        self.num_traces = 0
        weights = self.model.trainable_variables
        copies = {name: [self._copy(v, name) for v in weights] for name in ("m", "v", "ema")}
        self.variables_of = State(params=weights, **copies)
        for average, weight in zip(self.variables_of.ema, weights):
            average.assign(weight)
        self.step = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="step")
        self.built = True
        self.compile(optimizer=None, jit_compile=False, steps_per_execution=steps_per_execution)

    def _copy(self, weight, name):
        name = f"{name}_{weight.path.replace('/', '_')}"
        return self.add_weight(shape=weight.shape, dtype="float32", initializer="zeros", trainable=False, name=name)

    def checkpoint_state(self):
        """{name: tf.Variable} of everything that a resumed run needs; the names are part of the file format."""
        state = {"step": self.step.value}
        for field in State._fields:
            for weight, variable in zip(self.variables_of.params, getattr(self.variables_of, field)):
                state[f"{field}/{weight.path}"] = variable.value
        return state

    def current_step(self):
        """How many steps the weights have taken, read off the device."""
        return int(tf.convert_to_tensor(self.step.value))

    def ema_tensors(self):
        """The averaged weights, in the order of the model's trainable weights."""
        return [tf.convert_to_tensor(v.value) for v in self.variables_of.ema]

    def train_step(self, batch):
        """One step in the replica context on this replica's share of the batch -> global means of the losses, and the
        length of the gradient."""
        replica = tf.distribute.get_replica_context()
        step = tf.convert_to_tensor(self.step.value)
        state = State(*([tf.convert_to_tensor(v.value) for v in variables] for variables in self.variables_of))
        frozen = [tf.convert_to_tensor(v.value) for v in self.functions.codec.encoder_variables]
        compiled = self._compiled_on_host_devices(replica.strategy)
        seed = tf.constant(self.seed, tf.int64)
        losses, gradients = compiled(self.functions.loss_and_gradients)(state.params, frozen, batch, seed, step)
        share = 1.0 / replica.num_replicas_in_sync
        losses, gradients = replica.all_reduce(
            tf.distribute.ReduceOp.SUM, tf.nest.map_structure(lambda value: value * share, (losses, gradients))
        )
        new, logs = compiled(self.functions.update)(state, losses, gradients, step + 1)
        for variable, value in zip(tf.nest.flatten(self.variables_of), tf.nest.flatten(new)):
            variable.value.assign(value)  # each replica its own copy: no reduction, they are equal already
        self.step.value.assign(step + 1)
        return logs

    def _compiled_on_host_devices(self, strategy):
        """A TPU replica function is compiled as a whole, and a nested must-compile call would leave the TPU."""
        if not self.jit or is_tpu(strategy):
            return lambda function: function
        return lambda function: tf.function(function, jit_compile=True, autograph=False)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return self.train_function
        strategy = self.distribute_strategy

        @tf.function(autograph=False, reduce_retracing=True)
        def run_steps(iterator, count):
            self.num_traces += 1

            def one_step(i, sums):
                losses = strategy.run(self.train_step, args=(next(iterator),))
                losses = {name: strategy.experimental_local_results(value)[0] for name, value in losses.items()}
                return i + 1, {name: sums[name] + value for name, value in losses.items()}

            zeros = {name: tf.zeros(()) for name in self.functions.log_names}
            _, sums = tf.while_loop(lambda i, _: i < count, one_step, (tf.constant(0), zeros))
            return {name: value / tf.cast(count, tf.float32) for name, value in sums.items()}

        def train_function(iterator):
            # Executions end at multiples of steps_per_execution, wherever the run was resumed.
            to_boundary = self.steps_per_execution - self.completed_steps % self.steps_per_execution
            count = min(to_boundary, self.stop_step - self.completed_steps)
            logs = run_steps(iterator, tf.constant(count))
            self.completed_steps += count
            return logs

        self.train_function = train_function
        return train_function

    def fit(self, dataset, callbacks=()):
        """Train from the present step to `stop_step`. The data set must begin at the present step."""
        self.completed_steps = self.current_step()
        if self.completed_steps >= self.stop_step:
            return
        since_boundary = self.completed_steps % self.steps_per_execution
        steps = self.stop_step - self.completed_steps + since_boundary
        super().fit(dataset, steps_per_epoch=steps, verbose=0, callbacks=list(callbacks), shuffle=False)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Keras would call the model once on made-up data, which fails with several workers; all is built already."""
