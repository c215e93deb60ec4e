"""A tiny model and everything around it, as a run would build them."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build
from dit_tf.config import RunConfig


@pytest.fixture(scope="session")
def config():
    return RunConfig(model="DiT-64x1x2/4", global_batch_size=8, learning_rate=1e-3, ema_decay=0.9, seed=3)


@pytest.fixture(scope="session")
def batches(config):
    """batches(first): an endless data set of made-up global batches, a function of the step, from step `first`."""

    def make(first=0):
        def batch(step):
            noise = tf.random.stateless_uniform((8, 8, 8, 1), (step, 1), 0, 256, tf.int32)
            labels = tf.random.stateless_uniform((8,), (step, 2), 0, 10, tf.int32)
            return tf.cast(noise, tf.uint8), labels, tf.range(8)

        data = tf.data.Dataset.counter(first).map(batch)
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return data.with_options(options)

    return make


@pytest.fixture(scope="session")
def awaken():
    """awaken(trainer): replace the zero initialisations, so that every weight has a gradient. Same values each time."""

    def assign(trainer):
        rng = np.random.default_rng(1)
        _, _, _, ema, averages = trainer.variables_of
        for weight, *copies in zip(trainer.variables_of.params, ema, *averages):
            weight.assign(rng.normal(0, 0.1, weight.shape))
            for average in copies:
                average.assign(weight)

    return assign


@pytest.fixture(scope="session")
def make_trainer(config, awaken):
    def make(strategy, stop_step, steps_per_execution=1, scan_blocks=False, jit=True, train_step=None, **changes):
        with strategy.scope():
            changed = dataclasses.replace(config, **changes)
            model = build.make_model(changed)
            options = dict(stop_step=stop_step, steps_per_execution=steps_per_execution, jit=jit)
            trainer = build.make_trainer(changed, model, None, train_step, scan_blocks=scan_blocks, **options)
        awaken(trainer)
        return trainer

    return make


@pytest.fixture(scope="session")
def fit(arrays):
    """fit(trainer, dataset, *callbacks) -> [(logs, state as `arrays`)] at the end of every execution."""

    def watched(trainer, dataset, *callbacks):
        seen = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda _, logs: seen.append((dict(logs), arrays(trainer)))
        )
        trainer.fit(dataset, [watch, *callbacks])
        return seen

    return watched


@pytest.fixture(scope="session")
def arrays():
    """arrays(trainer) -> {name: array} of everything a checkpoint holds."""
    return lambda trainer: {name: np.asarray(tf.convert_to_tensor(v)) for name, v in trainer.checkpoint_state().items()}
