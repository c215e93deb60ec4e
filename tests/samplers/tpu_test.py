"""The sampler that runs, and the loop that computes bits per dimension, as the TPU compiler takes them for one core."""

import json
import re

import pytest

_BATCH, _STEPS, _TIMESTEPS = 4, 10, 1000
_COMPILE = """
import dataclasses, json, sys
from dit_tf.runtime import tpu_compiler
tpu_compiler.prepare_environment()
import jax
import tensorflow as tf
from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.diffusion.likelihood import bits_per_dim
from dit_tf.models.costs import abstract, call_with, count_macs
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.samplers.options import SamplerOptions
from dit_tf.samplers.guidance import condition

jax.config.update("jax_enable_x64", True)  # seeds have 64 bits
batch, steps = map(int, sys.argv[1:])
config = RunConfig(model="DiT-64x1x2/2")
model = abstract(lambda: build.make_model(config))
params = [tf.TensorSpec(v.shape, v.dtype) for v in model.trainable_variables]
images = tf.TensorSpec((batch, config.image_size, config.image_size, config.channels), tf.float32)
row, seed = tf.TensorSpec((batch,), tf.int32), tf.TensorSpec((), tf.int64)

@tf.function(jit_compile=True, autograph=False)
def bpd(params, images, labels, seed, row):
    model_fn = condition(lambda x, t, y: call_with(model, params, (x, t, y)), labels)
    return tuple(bits_per_dim(build.make_process(config), model_fn, images, RowSeeds(seed, row)))

flow_config = RunConfig(model="DiT-64x1x2/2", objective="flow", learn_sigma=False, precision="bfloat16")
flow_model = abstract(lambda: build.make_model(flow_config))
flow_params = [tf.TensorSpec(v.shape, v.dtype) for v in flow_model.trainable_variables]
pixels = tf.TensorSpec(images.shape, tf.uint8)

def sampler(*arguments, flow=False, **more):
    chosen = (flow_config, flow_model) if flow else (config, model)
    made = build.make_sampler(*chosen, SamplerOptions(*arguments, **more))
    controls = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), made.controls)
    return made.program, ((flow_params if flow else params, [], controls), row, seed, row)

def served():  # each row with a seed and a scale of its own, as dit_tf.export serves it
    program, ((params, decoder, (values, scale, interval)), labels, seed, row) = sampler("ddim", steps, cfg_scale=2.0)
    controls = values, tf.TensorSpec((batch,), tf.float32), interval
    return program, ((params, decoder, controls), labels, tf.TensorSpec((batch,), tf.int64), row)

def likelihood(**more):
    return build.make_likelihood(flow_config, flow_model, **more), ((flow_params, []), pixels, row, seed, row)

programs = {
    "guided ddim": sampler("ddim", steps, eta=0.5, cfg_scale=2.0),
    "served ddim": served(),
    "dpm-solver++": sampler("dpmpp", steps, cfg_scale=2.0),
    "adaptive ddpm": sampler("ode", solver="dopri5", cfg_scale=2.0),
    "heun in an interval": sampler("ode", steps // 2, cfg_scale=2.0, guidance_interval=(0.2, 0.8), flow=True),
    "stochastic": sampler("sde", steps, cfg_scale=2.0, flow=True),
    "adaptive": sampler("ode", solver="dopri5", cfg_scale=2.0, flow=True),
    "bits per dim": (bpd, (params, images, row, seed, row)),
    "flow's bits per dim": likelihood(),
    "flow's bits per dim, heun": likelihood(solver="heun", num_steps=steps // 2),
}
for name, (function, specs) in programs.items():
    report, text = tpu_compiler.compile_function(function, specs, topology="v3:2x2")
    weight_bytes = 4 * sum(v.shape.num_elements() for v in flow_params)
    print(json.dumps([name, dict(dataclasses.asdict(report), text=text, macs=count_macs(model), weights=weight_bytes)]))
"""


@pytest.fixture(scope="module")
def compiled(run_with_tpu_compiler):
    """{name: the compiler's report, the program's text and the model's multiply-adds}, from a process of its own."""
    lines = run_with_tpu_compiler(_COMPILE, _BATCH, _STEPS)
    return dict(json.loads(line) for line in lines if line.startswith("["))


def loops(text):
    """The trip count of every while loop that counts up to a constant, None for any other."""
    conditions = re.findall(r" while\(.*?condition=(%[\w.-]+)", text)
    bodies = [re.search(rf"^{re.escape(name)} \(.*?^}}", text, re.MULTILINE | re.DOTALL).group() for name in conditions]
    limits = [re.findall(r"s32\[\]\S* constant\((\d+)\)", body) for body in bodies if "direction=LT" in body]
    return [int(limit[0]) if len(limit) == 1 else None for limit in limits] + [None] * (len(bodies) - len(limits))


_IMAGES, _ROWS = rf"\(u8\[{_BATCH},8,8,1\]", rf"\(f32\[{_BATCH}\]"
_ADAPTIVE = None  # a loop that ends when its rows do


@pytest.mark.parametrize(
    "name, steps, rows, result",
    [
        ("guided ddim", _STEPS, 2 * _BATCH, _IMAGES),
        ("served ddim", _STEPS, 2 * _BATCH, _IMAGES),
        ("dpm-solver++", _STEPS, 2 * _BATCH, _IMAGES),
        ("adaptive ddpm", _ADAPTIVE, 4 * _BATCH, _IMAGES),  # in the loop and after it
        ("heun in an interval", _STEPS, 2 * _BATCH, _IMAGES),  # two halves of a step are two turns
        ("stochastic", _STEPS, 2 * _BATCH, _IMAGES),
        ("adaptive", _ADAPTIVE, 2 * _BATCH, _IMAGES),
        ("bits per dim", _TIMESTEPS, _BATCH, rf"\((f32\[{_BATCH}\]\S* ){{2}}f32\[{_BATCH},{_TIMESTEPS}\]"),
        ("flow's bits per dim", _ADAPTIVE, 2 * _BATCH, _ROWS),  # the network and its gradient with respect to x
        ("flow's bits per dim, heun", _STEPS, 2 * _BATCH, _ROWS),
    ],
)
def test_the_tpu_program_is_one_loop_without_the_host(compiled, name, steps, rows, result):
    report = compiled[name]
    assert re.search(rf"->{result}", report["text"].split("\n", 1)[0])
    assert loops(report["text"]) == [steps]
    assert not re.search(r"\[[\d,]*<=\d+", report["text"])  # no shape that is known only when it runs
    assert (report["host_operations"], report["all_reduces"], report["cores"]) == (0, 0, 1)
    # The compiler counts the loop's body once: one evaluation of the network, and a tenth of it for all the rest.
    assert 1 < report["flops"] / (2 * rows * report["macs"]) < 1.15
    # Weights come as arguments; the rest of the memory is for one step, padded to tiles of 8 x 128.
    assert report["weights"] <= report["argument_bytes"] < 1.5 * report["weights"]
    assert report["temporary_bytes"] < 2**23
