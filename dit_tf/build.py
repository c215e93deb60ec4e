"""RunConfig -> the objects of a run. The one file that knows all rooms."""

import os
import zipfile

import keras
import tensorflow as tf

from dit_tf.config import RunConfig
from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.diffusion.schedules import linear_betas
from dit_tf.models.codec import PixelCodec
from dit_tf.models.costs import call_with
from dit_tf.models.dit import DiT, size_of
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.samplers.generate import image_sampler
from dit_tf.training.optimizer import AdamW
from dit_tf.training.train_step import TrainStep
from dit_tf.training.trainer import DiTTrainer


def make_codec(config):
    return PixelCodec(config.image_size, config.channels)


def make_model(config):
    """The network with fresh weights, drawn from the run's seed."""
    codec, size = make_codec(config), size_of(config.model)
    if config.image_size % size["patch_size"]:
        raise ValueError(
            f"--image_size must be divisible by the patch size of --model={config.model} ({size['patch_size']}), got "
            f"{config.image_size}."
        )
    keras.utils.set_random_seed(config.seed % 2**32)  # initialisers alone; training and sampling draw from RowSeeds
    return DiT(
        **size,
        input_size=codec.input_size,
        in_channels=codec.channels,
        num_classes=config.num_classes,
        class_dropout_prob=config.class_dropout_prob,
        learn_sigma=config.learn_sigma,
        block=config.block,
        dtype="float32" if config.precision == "float32" else "mixed_bfloat16",
    )


def make_process(config):
    return GaussianDiffusion(
        betas=linear_betas(config.num_timesteps), variance="learned_range" if config.learn_sigma else "fixed_large"
    )


def make_train_step(config, model):
    return TrainStep(
        model,
        call_with,
        make_process(config),
        make_codec(config),
        AdamW(learning_rate=config.learning_rate, weight_decay=config.weight_decay),
        config.ema_decay,
    )


def make_trainer(config, *, stop_step, steps_per_execution=1, jit=True):
    """Call it inside the strategy's scope."""
    step = make_train_step(config, make_model(config))
    return DiTTrainer(step, seed=config.seed, stop_step=stop_step, steps_per_execution=steps_per_execution, jit=jit)


def make_sampler(config, model, options, jit=True):
    """(params, labels, seed, row) -> uint8 images, see `image_sampler`."""

    def call(params, x, t, y):
        return call_with(model, params, (x, t, y))

    return image_sampler(call, make_process(config), make_codec(config), model.null_label, options, jit=jit)


def weights_of(model):
    return [tf.convert_to_tensor(v.value) for v in model.trainable_variables]


def load_config(path):
    """The RunConfig that a work directory or a .keras file carries."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "run.json" not in archive.namelist():
                raise ValueError(f"{path} is not a model that dit_tf wrote: it holds no run.json.")
            return RunConfig.from_json(archive.read("run.json").decode())
    text = Checkpoints(path).read_config() if tf.io.gfile.isdir(path) else None
    if text is None:
        raise ValueError(f"{path} holds no checkpoint: a work directory of dit_tf.train or a .keras file is needed.")
    return RunConfig.from_json(text)


def load_model(path):
    """The network with its averaged weights, from a work directory or a .keras file that train wrote.

    `model((x, t, y), training=False)`: x (N, H, W, C) float32, t (N,), y (N,) int32 -> (N, H, W, 2C or C) float32.
    """
    config = load_config(path)
    if zipfile.is_zipfile(path):
        return keras.saving.load_model(path)
    model = make_model(config)
    Checkpoints(path).restore({f"ema/{v.path}": v.value for v in model.trainable_variables}, partial=True)
    return model


def save_model(path, config, params):
    """Write a .keras file of these weights, which also carries the run's configuration."""
    model = make_model(config)
    for variable, value in zip(model.trainable_variables, params):
        variable.assign(value)
    temporary = os.path.join(os.path.dirname(path), f"unfinished-{os.getpid()}.keras")
    model.save(temporary)
    with zipfile.ZipFile(temporary, "a") as archive:
        archive.writestr("run.json", config.to_json())
    os.replace(temporary, path)
