"""The two functions of the step against two steps that the public training script took, weights and draws recorded."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.models.costs import call_with
from dit_tf.models.dit import DiT
from dit_tf.pretrained.dit_map import load_weights, to_ours, weights_by_path
from dit_tf.runtime.seeds import Stream
from dit_tf.training import train_step
from dit_tf.training.optimizer import AdamW
from dit_tf.training.train_step import State, TrainStep

_GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "dit"


class Latents:
    """The recorded steps begin at latents."""

    @staticmethod
    def encode(weights, x, seeds):
        return x


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(_GOLDENS / "tiny_train_steps.npz"))


@pytest.fixture(scope="module")
def model():
    model = DiT(input_size=8, patch_size=2, in_channels=4, width=64, depth=2, num_heads=4, num_classes=10)
    load_weights(model, np.load(_GOLDENS / "tiny_bare.npz"))
    return model


@pytest.fixture(scope="module")
def steps(model, recorded):
    """[(logs, gradients, state after)] of both recorded steps, in the program's own functions, compiled."""
    functions = TrainStep(model, call_with, GaussianDiffusion(), Latents, AdamW(), ema_decay=0.9999)
    params = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]
    zeros = [tf.zeros_like(p) for p in params]

    @tf.function(jit_compile=True, autograph=False)
    def compute(params, batch, step, draws):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train_step, "RowSeeds", lambda *_: Recorded(draws))
            return functions.loss_and_gradients(params, [], batch, tf.constant(0, tf.int64), step)

    update = tf.function(functions.update, jit_compile=True, autograph=False)
    state, taken = State(params, zeros, zeros, params), []
    for k in range(2):
        draws = {name: tf.constant(recorded[f"step{k}/{name}"]) for name in ("x", "y", "t", "noise", "drop_rand")}
        batch = (_nhwc(draws["x"]), tf.cast(draws["y"], tf.int32), tf.range(16))
        losses, gradients = compute(state.params, batch, tf.constant(k), draws)
        state, logs = update(state, losses, gradients, tf.constant(k + 1))
        taken.append((logs, gradients, state))
    return taken


class Recorded:
    """Stands in for RowSeeds."""

    def __init__(self, draws):
        self.draws = draws

    def uniform(self, stream):
        assert stream is Stream.LABEL_DROPOUT
        return self.draws["drop_rand"]

    def integers(self, stream, bound):
        assert stream is Stream.TIME and bound == 1000
        return tf.cast(self.draws["t"], tf.int32)

    def normal(self, stream, shape):
        assert stream is Stream.NOISE and shape == (8, 8, 4)
        return _nhwc(self.draws["noise"])


def _nhwc(array):
    return tf.transpose(array, (0, 2, 3, 1))


def test_some_labels_were_dropped(recorded):
    assert any(recorded[f"step{k}/dropped"].any() for k in range(2))


@pytest.mark.parametrize("k", [0, 1])
def test_losses_are_those_of_the_reference(steps, recorded, k):
    """The second step's loss also needs the first update to be right."""
    losses = steps[k][0]
    np.testing.assert_allclose(losses["loss"], recorded[f"step{k}/loss"], rtol=1e-5)
    for name in ("mse", "vb"):
        np.testing.assert_allclose(losses[name], recorded[f"step{k}/losses/{name}"].mean(), rtol=1e-5)


def test_every_gradient_is_that_of_the_reference(steps, recorded, model):
    theirs = {name[len("grad0/") :]: array for name, array in recorded.items() if name.startswith("grad0/")}
    theirs.pop("pos_embed", None)
    expected = dict(to_ours(theirs))
    actual = dict(zip(weights_by_path(model), steps[0][1]))
    assert actual.keys() == expected.keys()
    for path, gradient in actual.items():
        # float32 sums over 256 tokens in another order.
        np.testing.assert_allclose(
            gradient, expected[path], atol=2e-5 * np.abs(expected[path]).max() + 1e-8, err_msg=path
        )


@pytest.mark.parametrize("k", [0, 1])
def test_the_gradient_norm_is_that_of_the_reference(steps, recorded, k):
    np.testing.assert_allclose(steps[k][0]["grad_norm"], recorded[f"step{k}/grad_norm"], rtol=1e-5)


@pytest.mark.parametrize("field, part, rate", [("params", "model", 1e-4), ("ema", "ema", 1e-8)])
def test_weights_after_both_steps_are_those_of_the_reference(steps, model, field, part, rate):
    """Adam's first steps are signs: where a gradient is rounding alone (K's bias) they go either way, by `rate`."""
    with np.load(_GOLDENS / "tiny_train_ckpt.npz") as arrays:
        theirs = {name.split("/")[1]: arrays[name] for name in arrays.files if name.startswith(f"{part}/")}
    theirs.pop("pos_embed")
    expected = dict(to_ours(theirs))
    for path, value in zip(weights_by_path(model), getattr(steps[-1][2], field)):
        difference = np.abs(value - expected[path])
        assert np.median(difference) <= 1e-6, path
        assert difference.max() <= 4.1 * rate + 1e-6, path


def test_no_gradient_is_sparse_and_none_is_missing(steps, model):
    gradients = steps[0][1]
    assert len(gradients) == len(model.trainable_variables)
    for gradient, variable in zip(gradients, model.trainable_variables):
        assert isinstance(gradient, tf.Tensor) and gradient.shape == variable.shape
        assert np.abs(gradient).max() > 0, variable.path


@pytest.mark.parametrize("clip_norm, length", [(2.0, 2.0), (6.0, 5.0), (0.0, 5.0)])
def test_a_gradient_that_is_too_long_is_shortened_and_keeps_its_direction(clip_norm, length):
    """The gradient (3), (4) has the length 5; from nothing, AdamW's m is a tenth of what it is given."""
    functions = TrainStep(None, None, None, None, AdamW(), 0.9, clip_norm=clip_norm)
    gradients, zeros = [tf.constant([3.0]), tf.constant([4.0])], [tf.zeros(1)] * 2
    new, logs = functions.update(State(zeros, zeros, zeros, zeros), {"loss": tf.constant(1.0)}, gradients, 1)
    np.testing.assert_allclose(logs["grad_norm"], 5.0, rtol=1e-6)  # as it was
    np.testing.assert_allclose(np.concatenate(new.m), 0.1 * length * np.array([0.6, 0.8]), rtol=1e-6)


def test_a_batch_in_four_parts_has_the_losses_and_gradients_of_the_whole(model):
    """From the golden weights, 4 x 8 against 32: every row keeps its place, hence its noise, time and dropout."""
    rng = np.random.default_rng(0)
    batch = tf.constant(rng.standard_normal((32, 8, 8, 4)), tf.float32), tf.range(32) % 10, tf.range(32)
    params = [tf.convert_to_tensor(v.value) for v in model.trainable_variables]

    def computed(parts):
        functions = TrainStep(
            model, call_with, GaussianDiffusion(), Latents, AdamW(), ema_decay=0.9999, accumulation_steps=parts
        )
        compute = functions.loss_and_gradients
        compute = tf.function(compute, autograph=False) if parts > 1 else compute  # the loop in the graph
        return compute(params, [], batch, tf.constant(0, tf.int64), tf.constant(5))

    (losses, gradients), (whole_losses, whole_gradients) = computed(4), computed(1)
    assert losses.keys() == whole_losses.keys()
    for name, value in whole_losses.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5)
    for gradient, whole in zip(gradients, whole_gradients):
        # float32 sums in another order; the K part of the qkv bias, truly zero, is within the whole bias.
        np.testing.assert_allclose(gradient, whole, atol=1e-5 * np.abs(whole).max())


def test_parts_that_do_not_divide_the_batch_are_refused(model):
    functions = TrainStep(model, call_with, GaussianDiffusion(), Latents, AdamW(), 0.9999, accumulation_steps=3)
    batch = tf.zeros((16, 8, 8, 4)), tf.range(16), tf.range(16)
    with pytest.raises(ValueError, match="--accumulation_steps must divide the 16 examples of a replica, got 3"):
        functions.loss_and_gradients([], [], batch, tf.constant(0, tf.int64), tf.constant(0))
