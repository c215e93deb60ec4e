"""The trainer computes the same whatever drives it: steps per execution, replicas, interruptions, precision."""

import json

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
def unbroken_run(one_device, make_trainer, batches, arrays):
    trainer = make_trainer(one_device, stop_step=6, **AVERAGES)
    trainer.fit(batches())
    return arrays(trainer), trainer.functions


@pytest.fixture(scope="module")
def unbroken(unbroken_run):
    return unbroken_run[0]


@pytest.fixture(scope="module")
def compiled_step(unbroken_run):
    """The `TrainStep` of that run, whose compilation serves others too."""
    return unbroken_run[1]


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


def test_steps_per_execution_change_nothing_and_trace_once(
    one_device, make_trainer, batches, arrays, unbroken, compiled_step
):
    """Nor does it that the step was compiled for another trainer."""
    changed = dict(steps_per_execution=4, train_step=compiled_step)  # 4 does not divide 6
    trainer = make_trainer(one_device, stop_step=6, **changed, **AVERAGES)
    trainer.fit(batches())
    assert_equal(arrays(trainer), unbroken)
    assert trainer.num_traces == 1


@pytest.fixture(scope="module")
def halfway(one_device, make_trainer, batches, tmp_path_factory, compiled_step):
    """The checkpoints of three steps."""
    trainer = make_trainer(one_device, stop_step=3, train_step=compiled_step, **AVERAGES)
    trainer.fit(batches())
    checkpoints = Checkpoints(str(tmp_path_factory.mktemp("halfway")))
    checkpoints.save(3, trainer.checkpoint_state(), {})
    return checkpoints


def test_resumed_in_the_middle_of_an_execution_equals_unbroken(
    one_device, make_trainer, batches, arrays, unbroken, halfway
):
    trainer = make_trainer(one_device, stop_step=6, steps_per_execution=2, **AVERAGES)
    trainer.fit(batches(halfway.restore(trainer.checkpoint_state())))
    assert trainer.current_step() == 6
    assert_equal(arrays(trainer), unbroken)


def test_a_run_goes_on_with_its_blocks_as_one_loop(one_device, make_trainer, batches, arrays, unbroken, halfway):
    """From the same checkpoint to the same moments and weights, but for the order of float32 sums, here without XLA.
    Where a gradient is nothing but rounding, as that of K's bias, Adam's steps may go either way."""
    trainer = make_trainer(one_device, stop_step=6, steps_per_execution=3, scan_blocks=True, jit=False, **AVERAGES)
    trainer.fit(batches(halfway.restore(trainer.checkpoint_state())))
    resumed = arrays(trainer)
    assert resumed.keys() == unbroken.keys() and resumed["step"] == 6
    for name, expected in unbroken.items():
        noisy = name.endswith("attention/qkv/bias") and name.startswith(("params/", "ema"))
        tolerance = 3 * 2e-3 if noisy else 2e-6 * np.abs(expected).max()  # 2e-7 was seen
        np.testing.assert_allclose(resumed[name], expected, rtol=0, atol=tolerance, err_msg=name)


def test_two_replicas_take_the_step_of_one(make_trainer, batches, arrays, one_device, seen_logs):
    """After one step m = 0.1 gradient, so every gradient is compared; the sums over the batch differ in their order."""
    one, two = (
        make_trainer(one_device, stop_step=1),
        make_trainer(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), 1),
    )
    (expected,), (actual,) = seen_logs(one, batches()), seen_logs(two, batches())
    for name in ("loss", "grad_norm", "quarters"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(actual["quarters"][1], expected["quarters"][1])  # how many there are: eighths
    expected, actual = arrays(one), arrays(two)
    slots = [name for name in expected if name.startswith("m/")]
    assert all(np.abs(expected[name]).max() > 0 for name in slots)
    for name in slots:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(actual[name], expected[name], atol=1e-5 * scale, err_msg=name)
    for name in (name for name in expected if name.startswith(("params/", "ema"))):
        # Adam's first step is a sign: where a gradient is nothing but rounding, it may go the other way.
        change = np.abs(actual[name] - expected[name])
        noise = np.abs(expected[name.replace("ema/", "m/").replace("params/", "m/")]) < 1e-7
        assert change[~noise].max(initial=0) <= 1e-5, name
    replicas = [[v.numpy() for v in w.value.values] for w in two.variables_of.params]
    assert all(np.array_equal(a, b) for a, b in replicas)


def test_the_step_reduces_once_over_replicas(make_trainer, batches):
    """Gradients, the loss terms and the loss by quarter in one batched call, nothing else."""
    trainer = make_trainer(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), stop_step=1, jit=False)
    calls = []
    reduce = trainer.distribute_strategy.extended._batch_reduce_to

    def counting(reduce_op, pairs, *args, **kwargs):
        calls.append(len(pairs))
        return reduce(reduce_op, pairs, *args, **kwargs)

    trainer.distribute_strategy.extended._batch_reduce_to = counting
    trainer.fit(batches())
    assert calls == [len(trainer.model.trainable_variables) + 4]


def test_the_logs_are_means_over_the_execution(one_device, make_trainer, batches, seen_logs):
    def logs(steps_per_execution):
        trainer = make_trainer(one_device, stop_step=4, steps_per_execution=steps_per_execution, jit=False)
        return seen_logs(trainer, batches())

    single, (together,) = logs(1), logs(4)
    for name in ("loss", "grad_norm", "quarters"):
        # The mean of four float32 numbers near 1, summed in float32.
        np.testing.assert_allclose(together[name], np.mean([log[name] for log in single], axis=0), rtol=1e-6)
    assert together["quarters"][1].sum() == 1.0  # eight examples a step, as shares of the batch


def test_the_first_ema_is_the_initial_weights_moved_by_one_step(one_device, make_trainer, batches, arrays):
    trainer = make_trainer(one_device, stop_step=1, jit=False)
    before = arrays(trainer)
    trainer.fit(batches())
    after = arrays(trainer)
    for name in (name for name in before if name.startswith("params/")):
        expected = 0.9 * np.float64(before[name]) + 0.1 * np.float64(after[name])
        np.testing.assert_allclose(after[name.replace("params/", "ema/")], expected, atol=1e-7)  # an ulp below 1


def test_training_lowers_the_loss_of_a_fixed_batch(one_device, make_trainer, batches, seen_logs):
    trainer = make_trainer(one_device, stop_step=60, steps_per_execution=20, learning_rate=3e-3)
    history = [float(logs["loss"]) for logs in seen_logs(trainer, batches().take(1).repeat())]
    assert history[-1] < 0.8 * history[0]


def test_bfloat16_keeps_float32_state_and_stays_near_float32(one_device, make_trainer, batches, arrays):
    full, half = make_trainer(one_device, 1, jit=False), make_trainer(one_device, 1, precision="bfloat16")
    full.fit(batches())
    half.fit(batches())
    expected, actual = arrays(full), arrays(half)
    assert all(a.dtype == np.float32 for name, a in actual.items() if name != "step")
    for name in (name for name in expected if name.startswith("m/") and "qkv" in name):
        # bfloat16 has 8 bits: 4e-3 per rounding, a dozen of them in a row, and cancellation in the sums.
        distance = np.linalg.norm(actual[name] - expected[name]) / np.linalg.norm(expected[name])
        assert 1e-5 < distance < 0.05, (name, distance)


_COMPILE = """
import dataclasses, json, sys
from dit_tf.runtime import tpu_compiler
tpu_compiler.prepare_environment()
from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.costs import abstract, training_flops
overrides, topology, per_core = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
stored, options = overrides.pop("stored", False), overrides.pop("options", {})
config = RunConfig(**overrides)
model = abstract(lambda: build.make_model(config))
vae = abstract(AutoencoderKL) if config.codec == "vae" and not stored else None
cores = tpu_compiler.mesh_of(topology).size
examples = dict(example_shape=(config.image_size, config.image_size, config.channels))
if stored:
    examples = dict(example_shape=(config.image_size // 8, config.image_size // 8, 8), example_dtype="bfloat16")
report, _ = tpu_compiler.compile_train_step(
    build.make_train_step(config, model, vae, **options), topology=topology, global_batch_size=per_core * cores,
    **examples)
weights_bytes = 4 * sum(v.shape.num_elements() for v in model.trainable_variables)
print(json.dumps({**dataclasses.asdict(report), "analytic_flops": training_flops(model, per_core),
                  "copies": report.state_bytes / weights_bytes,
                  "total_bytes": report.total_bytes}))
"""


@pytest.fixture
def compile_for_tpu(run_with_tpu_compiler):
    def run(topology, per_core, **overrides):
        return json.loads(run_with_tpu_compiler(_COMPILE, json.dumps(overrides), topology, per_core)[-1])

    return run


def assert_a_good_tpu_program(report, memory, all_reduces=1, copies=4):
    assert report["total_bytes"] < memory
    # Not aliased: the batch and the step, which are not results, and losses, which are not arguments; padding included.
    assert report["copies"] == copies
    assert report["aliased_bytes"] >= report["state_bytes"]
    assert report["output_bytes"] - report["aliased_bytes"] < 2**16
    assert report["all_reduces"] == all_reduces
    assert report["host_operations"] == 0


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        dict(objective="flow", learn_sigma=False, **AVERAGES),
        dict(objective="flow", path="vp", prediction="score", loss_weight="likelihood", codec="haar"),
        dict(codec="vae", image_size=64, channels=3, stored=True),
    ],
    ids=["ddpm", "flow", "score of Haar bands", "stored latents"],
)
def test_the_tpu_compiler_takes_the_train_step(compile_for_tpu, overrides):
    report = compile_for_tpu("v3:2x2", per_core=16, **overrides)
    assert report["cores"] == 8
    assert_a_good_tpu_program(report, memory=16 * 2**30, copies=4 + sum(len(overrides.get(a, ())) for a in AVERAGES))


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_a_step_from_images_through_the_autoencoder(compile_for_tpu):
    """Its encoder is an argument of 137 MB that no step changes; eight images go through at once."""
    report = compile_for_tpu("v3:2x2", per_core=16, codec="vae", image_size=256, channels=3, num_classes=1000)
    assert_a_good_tpu_program(report, memory=16 * 2**30)
    assert report["argument_bytes"] - report["state_bytes"] > 130 * 2**20


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology, memory", [("v3:2x2", 16 * 2**30), ("v4:2x2x1", 32 * 2**30)])
def test_the_tpu_compiler_takes_s2_at_256_pixels(compile_for_tpu, topology, memory):
    latents = dict(codec="vae", image_size=256, num_classes=1000, precision="bfloat16", stored=True)
    report = compile_for_tpu(topology, per_core=8, model="DiT-S/2", **latents)
    # 131 MB of gradients are more than the compiler combines into one call.
    assert_a_good_tpu_program(report, memory, all_reduces=2)
    assert report["flops"] <= 1.06 * report["analytic_flops"]


@pytest.mark.tpu_compile
@pytest.mark.parametrize(
    "overrides, per_core, temporary",
    [
        (dict(model="DiT-64x8x2/2", image_size=32), 64, 1 / 4),
        (dict(model="DiT-XL/2", codec="vae", image_size=256, num_classes=1000, stored=True), 32, 8.9 / 3 * 2**30),
    ],
    ids=["small and deep", "XL/2"],
)
def test_the_tpu_compiler_keeps_the_rematerialisation(compile_for_tpu, overrides, per_core, temporary):
    """temporary: the most that is allowed, in bytes or as a share of what it is without. XL/2 without took 8.9 GiB and
    2.29e13 FLOPs, 1.005 of the analytic count. A third more FLOPs is one more forward pass."""
    overrides["precision"] = "bfloat16"
    with_remat = compile_for_tpu("v4:2x2x1", per_core, options=dict(remat=True), **overrides)
    flops = 1.005 * with_remat["analytic_flops"]
    if temporary < 1:
        without = compile_for_tpu("v4:2x2x1", per_core, **overrides)
        flops, temporary = without["flops"], temporary * without["temporary_bytes"]
    assert with_remat["temporary_bytes"] <= temporary
    assert 1.2 * flops < with_remat["flops"] <= 1.35 * flops


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_the_blocks_as_one_loop(compile_for_tpu):
    """The blocks one after the other took 248 MiB of temporaries, 25 MiB with remat, this 9.5. The FLOPs are those of
    one block of eight."""
    small_and_deep = dict(model="DiT-64x8x2/2", image_size=32, precision="bfloat16")
    report = compile_for_tpu("v4:2x2x1", per_core=64, options=dict(scan_blocks=True), **small_and_deep)
    assert_a_good_tpu_program(report, memory=32 * 2**30)
    assert report["temporary_bytes"] <= 25 * 2**20
    assert 1 / 8 < report["flops"] / report["analytic_flops"] < 2 / 8
