"""Weights of a network whose time is 1 at noise become those of the same network by SiT's clock."""

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build, convert, flags
from dit_tf.models.embeddings import sincos_position_table, sinusoid_frequencies
from dit_tf.pretrained.dit_map import weight_map
from dit_tf.pretrained.source_clock import turned
from dit_tf.pretrained.torch_pickle import write_torch

WIDTH, SIDE, STD = 64, 4, 0.5  # data are independent N(0, STD^2)


def gain(t):
    """Of Gaussian data and the linear path: the velocity at (x, t), noise at 0, is this times x."""
    return (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2)


def sinusoid(t):
    angles = t[:, None] * sinusoid_frequencies().astype(np.float64)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def silu(x):
    return x / (1 + np.exp(-x))


def network(velocity_gain):
    """Official weights of a DiT of one block that gives velocity_gain(t) x: one pixel a token, added in one direction
    to a constant so large that the last norm scales all alike; the last modulation is a function of t by least
    squares."""
    rng, large = np.random.default_rng(0), 300.0
    shapes = {theirs: (WIDTH,) for _, theirs, _ in weight_map(1)}
    shapes |= {
        "x_embedder.proj.weight": (WIDTH, 1, 1, 1), "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH), "y_embedder.embedding_table.weight": (3, WIDTH),
        "blocks.0.attn.qkv.weight": (3 * WIDTH, WIDTH), "blocks.0.attn.qkv.bias": (3 * WIDTH,),
        "blocks.0.attn.proj.weight": (WIDTH, WIDTH), "blocks.0.mlp.fc1.weight": (4 * WIDTH, WIDTH),
        "blocks.0.mlp.fc1.bias": (4 * WIDTH,), "blocks.0.mlp.fc2.weight": (WIDTH, 4 * WIDTH),
        "blocks.0.adaLN_modulation.1.weight": (6 * WIDTH, WIDTH), "blocks.0.adaLN_modulation.1.bias": (6 * WIDTH,),
        "final_layer.linear.weight": (1, WIDTH), "final_layer.linear.bias": (1,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
    }  # fmt: skip
    state = {name: np.zeros(shape) for name, shape in shapes.items()}
    signs = np.where(np.arange(WIDTH) % 2, 1.0, -1.0)  # the constant's
    direction = np.where(np.arange(WIDTH) % 4 < 2, 1.0, -1.0)  # of the pixel, orthogonal to it; both have mean 0
    state["x_embedder.proj.weight"] = direction.reshape(WIDTH, 1, 1, 1)
    state["x_embedder.proj.bias"] = large * signs
    state["final_layer.linear.weight"] = large * direction[None] / WIDTH
    state["t_embedder.mlp.0.weight"] = rng.normal(size=(WIDTH, 256)) * 3 / np.arange(1, 257) ** 0.5
    state["t_embedder.mlp.2.weight"] = rng.normal(size=(WIDTH, WIDTH)) / 4
    t = np.linspace(0, 1, 2001)
    features = silu(silu(sinusoid(t) @ state["t_embedder.mlp.0.weight"].T) @ state["t_embedder.mlp.2.weight"].T)
    design = np.concatenate([features, np.ones((len(t), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(design, velocity_gain(t) - 1.0, rcond=1e-10)  # the norm's factor is 1 + scale
    assert np.abs(design @ solution - (velocity_gain(t) - 1.0)).max() < 0.01
    state["final_layer.adaLN_modulation.1.weight"][WIDTH:] = solution[:-1]
    state["final_layer.adaLN_modulation.1.bias"][WIDTH:] = solution[-1]
    state["pos_embed"] = sincos_position_table((SIDE, SIDE), WIDTH)[None]
    return {name: a.astype(np.float32) for name, a in state.items()}


def drawn(parse, tmp_path, state, *more):
    """By how much the converted network's flow narrows noise: what it makes of its deviation."""
    write_torch(tmp_path / "file.pt", state)
    arguments = [f"--source={tmp_path}/file.pt", f"--output={tmp_path}/file.keras", "--num_heads=4", *more]
    convert.main(parse(flags.define_convert, *arguments, "--objective=flow", "--codec=pixels"))
    config, model = build.load_config(f"{tmp_path}/file.keras"), build.load_model(f"{tmp_path}/file.keras")
    process, call = build.make_process(config), build.call_of(model)
    velocity = tf.function(call, autograph=False)
    noise = np.random.default_rng(1).normal(size=(16, SIDE, SIDE, 1)).astype(np.float32)
    labels, params, x, steps = np.zeros(len(noise), np.int32), build.weights_of(model), noise, 50
    for k in range(steps):  # Heun's rule by hand, on the flow itself
        t, h = np.full(len(x), k / steps, np.float32), np.float32(1 / steps)
        here = velocity(params, x, t, labels).numpy()
        x = x + h / 2 * (here + velocity(params, x + h * here, t + h, labels).numpy())
    assert process.prediction == "velocity"
    return float(x.std() / noise.std())


def test_gaussian_data_are_drawn_with_their_deviation(parse, tmp_path):
    """2 %: the fit of the gain and the norm's curvature; the flow's end is STD times its start."""
    assert drawn(parse, tmp_path, network(gain)) == pytest.approx(STD, rel=0.02)
    other = network(lambda s: -gain(1 - s))  # as REPA's programs train it
    assert drawn(parse, tmp_path, other, "--source_clock=noise_at_1") == pytest.approx(STD, rel=0.02)
    assert abs(drawn(parse, tmp_path, other) - STD) > 0.2
    assert drawn(parse, tmp_path, network(gain), "--source_clock=noise_at_0") == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("prediction, sign", [("velocity", -1), ("noise", 1), ("score", 1)])
def test_a_turned_network_gives_at_t_what_the_other_gave_at_one_minus_t(prediction, sign):
    """By the embedding's own formula in float64; only a velocity changes its sign. Twice turned it is the first."""
    state, rng = network(gain), np.random.default_rng(0)
    state["final_layer.linear.bias"] += np.float32(2)
    found, t = turned(state, prediction, sinusoid_frequencies()), rng.uniform(size=50)
    embedded = sinusoid(t) @ np.float64(found["t_embedder.mlp.0.weight"]).T
    expected = sinusoid(1 - t) @ np.float64(state["t_embedder.mlp.0.weight"]).T
    np.testing.assert_allclose(embedded, expected, atol=1e-5)  # the weights are rounded to float32
    np.testing.assert_array_equal(found["final_layer.linear.bias"], sign * state["final_layer.linear.bias"])
    back = turned(found, prediction, sinusoid_frequencies())
    for name, a in state.items():
        np.testing.assert_allclose(back[name], a, atol=1e-6)


