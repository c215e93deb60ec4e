"""The train step as the TPU compiler takes it: in place, with one sum over the cores, without the host."""

import json

import pytest

_COMPILE = """
import dataclasses, json, sys
from dit_tf.runtime import tpu_compiler
tpu_compiler.prepare_environment()
from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.costs import abstract, training_flops
for topology, per_core, overrides in json.loads(sys.argv[1]):
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


@pytest.fixture(scope="module")
def compile_for_tpu(run_with_tpu_compiler):
    """compile_for_tpu((topology, per_core, overrides), ...) -> a report of each, from one process."""

    def run(*programs):
        lines = run_with_tpu_compiler(_COMPILE, json.dumps(programs))
        return [json.loads(line) for line in lines if line.startswith("{")]

    return run


def assert_a_good_tpu_program(report, memory, all_reduces=1, copies=4):
    assert report["total_bytes"] < memory
    # Not aliased: the batch and the step, which are not results, and losses, which are not arguments; padding included.
    assert report["copies"] == copies
    assert report["aliased_bytes"] >= report["state_bytes"]
    assert report["output_bytes"] - report["aliased_bytes"] < 2**14
    assert report["all_reduces"] == all_reduces
    assert report["host_operations"] == 0


_AVERAGES = dict(ema_decays=(0.5,), ema_stds=(0.1,))
_STEPS = {
    "ddpm": {},
    "flow of stored latents": dict(
        objective="flow", learn_sigma=False, codec="vae", image_size=64, channels=3, stored=True, **_AVERAGES
    ),
    "score of Haar bands": dict(
        objective="flow", path="vp", prediction="score", loss_weight="likelihood", codec="haar"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled_steps(compile_for_tpu):
    programs = [("v3:2x2", 16, dict(model="DiT-64x1x2/4", **overrides)) for overrides in _STEPS.values()]
    return dict(zip(_STEPS, compile_for_tpu(*programs), strict=True))


@pytest.mark.parametrize("name", _STEPS)
def test_the_tpu_compiler_takes_the_train_step(compiled_steps, name):
    report = compiled_steps[name]
    assert report["cores"] == 8
    copies = 4 + sum(len(_STEPS[name].get(average, ())) for average in _AVERAGES)
    assert_a_good_tpu_program(report, memory=16 * 2**30, copies=copies)


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_a_step_from_images_through_the_autoencoder(compile_for_tpu):
    """Its encoder is an argument of 137 MB that no step changes; eight images go through at once."""
    images = dict(codec="vae", image_size=256, channels=3, num_classes=1000)
    (report,) = compile_for_tpu(("v3:2x2", 16, images))
    assert_a_good_tpu_program(report, memory=16 * 2**30)
    assert report["argument_bytes"] - report["state_bytes"] > 130 * 2**20


@pytest.mark.tpu_compile
@pytest.mark.parametrize("topology, memory", [("v3:2x2", 16 * 2**30), ("v4:2x2x1", 32 * 2**30)])
def test_the_tpu_compiler_takes_s2_at_256_pixels(compile_for_tpu, topology, memory):
    latents = dict(codec="vae", image_size=256, num_classes=1000, precision="bfloat16", stored=True)
    (report,) = compile_for_tpu((topology, 8, dict(model="DiT-S/2", **latents)))
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
    saving = overrides | dict(options=dict(remat=True))
    programs = [("v4:2x2x1", per_core, changed) for changed in (saving, overrides)]
    with_remat, *without = compile_for_tpu(*programs[: 2 if temporary < 1 else 1])
    flops = 1.005 * with_remat["analytic_flops"]
    if without:
        flops, temporary = without[0]["flops"], temporary * without[0]["temporary_bytes"]
    assert with_remat["temporary_bytes"] <= temporary
    assert 1.2 * flops < with_remat["flops"] <= 1.35 * flops


@pytest.mark.tpu_compile
def test_the_tpu_compiler_takes_the_blocks_as_one_loop(compile_for_tpu):
    """The blocks one after the other took 248 MiB of temporaries, 25 MiB with remat, this 9.5. The FLOPs are those of
    one block of eight."""
    small_and_deep = dict(model="DiT-64x8x2/2", image_size=32, precision="bfloat16")
    (report,) = compile_for_tpu(("v4:2x2x1", 64, dict(options=dict(scan_blocks=True), **small_and_deep)))
    assert_a_good_tpu_program(report, memory=32 * 2**30)
    assert report["temporary_bytes"] <= 25 * 2**20
    assert 1 / 8 < report["flops"] / report["analytic_flops"] < 2 / 8
