"""The trainer computes the same whatever drives it: steps per execution, replicas, interruptions, precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.training.ema import PowerFunction

ONE = "/CPU:0"
AVERAGES = dict(ema_decays=(0.5,), ema_stds=(0.1,))


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def one_device():
    return tf.distribute.OneDeviceStrategy(ONE)


@pytest.fixture(scope="module")
def compiled_step(one_device, make_trainer):
    """A `TrainStep` whose compilation serves every trainer."""
    return make_trainer(one_device, stop_step=1, **AVERAGES).functions


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return Checkpoints(str(tmp_path_factory.mktemp("halfway")))


@pytest.fixture(scope="module")
def step_by_step(one_device, make_trainer, batches, arrays, fit, compiled_step, checkpoints):
    """(state before, [(logs, state) after each of six steps]); the third is kept in `checkpoints`."""
    trainer = make_trainer(one_device, stop_step=6, train_step=compiled_step, **AVERAGES)

    def save(batch, logs):
        if trainer.current_step() == 3:
            checkpoints.save(3, trainer.checkpoint_state(), {})

    return arrays(trainer), fit(trainer, batches(), keras.callbacks.LambdaCallback(on_train_batch_end=save))


@pytest.fixture(scope="module")
def unbroken(step_by_step):
    """The state after six steps."""
    return step_by_step[1][-1][1]


def test_state_has_every_weight_slot_and_average_once(one_device, make_trainer):
    trainer = make_trainer(one_device, stop_step=1)
    weights = len(trainer.model.trainable_variables)
    assert len(trainer.checkpoint_state()) == 4 * weights + 1
    assert len({id(v) for v in trainer.checkpoint_state().values()}) == 4 * weights + 1


def test_further_averages_have_names_of_their_own_and_are_of_these_weights(one_device, make_trainer, unbroken):
    weights = [name.removeprefix("params/") for name in unbroken if name.startswith("params/")]
    for name in ("ema_decay_0.5", "ema_std_0.1"):
        for weight in weights:
            distance = np.abs(unbroken[f"{name}/{weight}"] - unbroken[f"params/{weight}"])
            assert 0 < distance.max() < 6e-3, weight  # six steps of Adam at 1e-3, of which each has a share
    assert len(unbroken) == (4 + 2) * len(weights) + 1
    trainer = make_trainer(one_device, stop_step=1, **AVERAGES)
    powers = trainer.averages_state(PowerFunction)
    assert powers.keys() == {f"ema_std_0.1/{weight}" for weight in weights}
    assert all(trainer.checkpoint_state()[name] is variable for name, variable in powers.items())


@pytest.fixture(scope="module")
def four_and_two(one_device, make_trainer, batches, fit, compiled_step):
    """(trainer, [(logs, state) after four steps and after two more]): the step was compiled for another trainer."""
    trainer = make_trainer(one_device, stop_step=6, steps_per_execution=4, train_step=compiled_step, **AVERAGES)
    return trainer, fit(trainer, batches())


def test_steps_per_execution_change_nothing_and_trace_once(four_and_two, step_by_step):
    trainer, seen = four_and_two
    steps = [state for _, state in step_by_step[1]]
    for (_, state), expected in zip(seen, (steps[3], steps[5]), strict=True):
        assert_equal(state, expected)
    assert trainer.num_traces == 1


def test_the_logs_are_means_over_the_execution(four_and_two, step_by_step):
    single = [logs for logs, _ in step_by_step[1]]
    for (together, _), steps in zip(four_and_two[1], (single[:4], single[4:]), strict=True):
        for name in ("loss", "grad_norm", "quarters"):
            # The mean of up to four float32 numbers near 1, summed in float32.
            np.testing.assert_allclose(together[name], np.mean([log[name] for log in steps], axis=0), rtol=1e-6)
        assert together["quarters"][1].sum() == 1.0  # eight examples a step, as shares of the batch


def test_the_first_ema_is_the_initial_weights_moved_by_one_step(step_by_step):
    before, after = step_by_step[0], step_by_step[1][0][1]
    for name in (name for name in before if name.startswith("params/")):
        expected = 0.9 * np.float64(before[name]) + 0.1 * np.float64(after[name])
        np.testing.assert_allclose(after[name.replace("params/", "ema/")], expected, atol=1e-7)  # an ulp below 1


def test_resumed_in_the_middle_of_an_execution_equals_unbroken(
    one_device, make_trainer, batches, arrays, unbroken, checkpoints, compiled_step
):
    changed = dict(steps_per_execution=2, train_step=compiled_step)
    trainer = make_trainer(one_device, stop_step=6, **changed, **AVERAGES)
    trainer.fit(batches(checkpoints.restore(trainer.checkpoint_state())))
    assert trainer.current_step() == 6
    assert_equal(arrays(trainer), unbroken)


def test_a_run_goes_on_with_its_blocks_as_one_loop(one_device, make_trainer, batches, arrays, tmp_path):
    """From the same checkpoint to the same moments and weights, but for the order of float32 sums, here without XLA.
    Where a gradient is nothing but rounding, as that of K's bias, Adam's steps may go either way."""
    options = dict(model="DiT-64x2x2/4", steps_per_execution=3, jit=False)
    plain, looped = (make_trainer(one_device, stop, scan_blocks=scan, **options) for stop, scan in ((3, 0), (6, 1)))
    checkpoints = Checkpoints(str(tmp_path))
    plain.fit(batches())
    checkpoints.save(3, plain.checkpoint_state(), {})
    looped.fit(batches(checkpoints.restore(looped.checkpoint_state())))
    plain.stop_step = 6
    plain.fit(batches(3))
    resumed, unbroken = arrays(looped), arrays(plain)
    assert resumed.keys() == unbroken.keys() and resumed["step"] == unbroken["step"] == 6
    for name, expected in unbroken.items():
        noisy = name.endswith("attention/qkv/bias") and name.startswith(("params/", "ema"))
        tolerance = 3 * 2e-3 if noisy else 2e-6 * np.abs(expected).max()  # 2e-7 was seen
        np.testing.assert_allclose(resumed[name], expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def two_replicas(make_trainer, batches, fit):
    """(trainer, [(logs, state) after one step], how many tensors went into each reduction)."""
    trainer = make_trainer(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), stop_step=1, **AVERAGES)
    calls = []
    reduce = trainer.distribute_strategy.extended._batch_reduce_to

    def counting(reduce_op, pairs, *args, **kwargs):
        calls.append(len(pairs))
        return reduce(reduce_op, pairs, *args, **kwargs)

    trainer.distribute_strategy.extended._batch_reduce_to = counting
    return trainer, fit(trainer, batches()), calls


def test_two_replicas_take_the_step_of_one(two_replicas, step_by_step):
    """After one step m = 0.1 gradient, so every gradient is compared; the sums over the batch differ in their order."""
    (logs, expected), (trainer, ((actual_logs, actual),), _) = step_by_step[1][0], two_replicas
    for name in ("loss", "grad_norm", "quarters"):
        np.testing.assert_allclose(actual_logs[name], logs[name], rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(actual_logs["quarters"][1], logs["quarters"][1])  # how many there are: eighths
    slots = [name for name in expected if name.startswith("m/")]
    assert all(np.abs(expected[name]).max() > 0 for name in slots)
    for name in slots:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-5 * scale, err_msg=name)
    for name in (name for name in expected if name.startswith(("params/", "ema"))):
        # Adam's first step is a sign: where a gradient is nothing but rounding, it may go the other way.
        change = np.abs(actual[name] - expected[name])
        noise = np.abs(expected[f"m/{name.split('/', 1)[1]}"]) < 1e-7
        assert change[~noise].max(initial=0) <= 1e-5, name
    replicas = [[v.numpy() for v in w.value.values] for w in trainer.variables_of.params]
    assert all(np.array_equal(a, b) for a, b in replicas)


def test_the_step_reduces_once_over_replicas(two_replicas):
    """Gradients, the loss terms and the loss by quarter in one batched call, nothing else."""
    trainer, _, calls = two_replicas
    assert calls == [len(trainer.model.trainable_variables) + 4]


def test_training_lowers_the_loss_of_a_fixed_batch(one_device, make_trainer, batches, fit, compiled_step):
    changed = dict(steps_per_execution=40, train_step=compiled_step)
    trainer = make_trainer(one_device, stop_step=120, **changed, **AVERAGES)
    history = [float(logs["loss"]) for logs, _ in fit(trainer, batches().take(1).repeat())]
    assert history[-1] < 0.8 * history[0]


def test_bfloat16_keeps_float32_state_and_stays_near_float32(one_device, make_trainer, batches, fit, step_by_step):
    trainer = make_trainer(one_device, 1, precision="bfloat16", **AVERAGES)
    (_, expected), ((_, actual),) = step_by_step[1][0], fit(trainer, batches())
    assert all(a.dtype == np.float32 for name, a in actual.items() if name != "step")
    for name in (name for name in actual if name.startswith("m/") and "qkv" in name):
        # bfloat16 has 8 bits: 4e-3 per rounding, a dozen of them in a row, and cancellation in the sums.
        distance = np.linalg.norm(actual[name] - expected[name]) / np.linalg.norm(expected[name])
        assert 1e-5 < distance < 0.05, (name, distance)
