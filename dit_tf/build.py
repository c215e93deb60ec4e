"""RunConfig -> the objects of a run. The one file that knows all rooms."""

import functools
import hashlib
import os
import zipfile

import keras
import tensorflow as tf

from dit_tf.config import RunConfig
from dit_tf.diffusion import likelihood as variational
from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.diffusion.schedules import linear_betas
from dit_tf.models.codec import PixelCodec
from dit_tf.models.costs import call_with
from dit_tf.models.dit import DiT, size_of
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.runtime.distribution import is_tpu
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.samplers import likelihood as flow
from dit_tf.samplers.generate import ImageSampler, on_replicas
from dit_tf.samplers.guidance import condition
from dit_tf.training.optimizer import AdamW
from dit_tf.training.train_step import TrainStep
from dit_tf.training.trainer import DiTTrainer
from dit_tf.transport.paths import PATHS
from dit_tf.transport.transport import Transport


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
    if config.objective == "flow":
        if config.path not in PATHS:
            raise ValueError(f"--path must be one of {', '.join(PATHS)}, got {config.path!r}.")
        return Transport(PATHS[config.path], config.prediction, config.loss_weight, config.time_distribution)
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


def make_sampler(config, model, options, strategy=None):
    """(params, labels, seed, row) -> `Drawn`, see `ImageSampler`."""
    return ImageSampler(call_of(model), make_process(config), make_codec(config), model.null_label, options, strategy)


def call_of(model):
    """call(params, x, t, y): the network as a function of its weights."""
    return lambda params, x, t, y: call_with(model, params, (x, t, y))


def make_likelihood(config, model, strategy=None, *, num_steps=None, solver="dopri5", atol=1e-5, rtol=1e-5):
    """(params, images (N, H, W, C) uint8, labels (N,), seed, row (N,)) -> (bits per dimension, function evaluations,
    whether the end was reached), each (N,), of images given their labels.

    A DDPM model gives its variational bound over num_steps of its timesteps (None: all), a flow model the density that
    its probability flow carries, by the solver.
    """
    process, codec, call = make_process(config), make_codec(config), call_of(model)
    chain = process.respaced(str(num_steps or "")) if config.objective == "ddpm" else None

    def bits(params, images, labels, seed, row):
        x, seeds = codec.encode(images), RowSeeds(seed, row)
        model_fn = condition(functools.partial(call, params), labels)
        if chain is None:
            options = dict(solver=solver, num_steps=num_steps, atol=atol, rtol=rtol)
            return flow.bits_per_dim(process, model_fn, x, seeds, codec.bin_width, **options)
        total = variational.bits_per_dim(chain, model_fn, x, seeds, clip_denoised=codec.bounded).total_bpd
        return total, tf.fill(tf.shape(row), chain.num_timesteps), tf.fill(tf.shape(row), True)

    function = tf.function(bits, jit_compile=not is_tpu(strategy), autograph=False)
    return function if strategy is None else on_replicas(function, strategy)


def weights_of(model):
    return [tf.convert_to_tensor(v.value) for v in model.trainable_variables]


def weights_digest(params):
    """The SHA-256 of weights, in hexadecimal: which model a number belongs to."""
    digest = hashlib.sha256()
    for value in params:
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


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
