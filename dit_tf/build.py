"""RunConfig -> the objects of a run. The one file that knows all rooms."""

import dataclasses
import functools
import hashlib
import json

import keras
import tensorflow as tf

from dit_tf.config import POLICIES, RunConfig
from dit_tf.data.class_names import ClassTable, numbered
from dit_tf.diffusion import likelihood as variational
from dit_tf.diffusion.gaussian_diffusion import GaussianDiffusion
from dit_tf.diffusion.schedules import linear_betas
from dit_tf.models.codec import HaarCodec, PixelCodec, VaeCodec, tensors
from dit_tf.models.costs import call_with
from dit_tf.models.dit import DiT, size_of
from dit_tf.runtime import model_file
from dit_tf.runtime.bounded_file import is_zip, version_of
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.runtime.distribution import compiled_on
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.samplers import likelihood as flow
from dit_tf.samplers.generate import ImageSampler
from dit_tf.samplers.guidance import condition
from dit_tf.serving.rules import Rules
from dit_tf.serving.signatures import ServedModel
from dit_tf.serving.stored_weights import StoredWeights
from dit_tf.training.ema import Exponential, PowerFunction
from dit_tf.training.optimizer import AdamW
from dit_tf.training.schedule import Schedule
from dit_tf.training.train_step import TrainStep
from dit_tf.training.trainer import DiTTrainer
from dit_tf.transport.paths import PATHS
from dit_tf.transport.transport import Transport

# The texts that lie beside every checkpoint and inside every .keras file.
RUN, CLASSES, PROVENANCE = "run.json", "classes.json", "provenance.json"
AUTOENCODER = "autoencoder.json"  # in an autoencoder's file; a model's has none

_ANY_SCALE = 1.5  # of guidance, where it comes with each request: of a guided program it is an argument


def make_codec(config, vae=None):
    """vae: an `AutoencoderKL`, where the model works on latents and images must be encoded or decoded."""
    if config.codec == "vae":
        return VaeCodec(config.image_size, vae, config.latent_scale)
    if config.codec == "haar":
        return HaarCodec(config.image_size, config.channels)
    return PixelCodec(config.image_size, config.channels)


def check_size(config):
    """The keyword arguments of `DiT` for the model's size. ValueError unless its patches fit the images."""
    size = size_of(config.model)
    if config.image_size % size["patch_size"]:
        raise ValueError(
            f"--image_size must be divisible by the patch size of --model={config.model} ({size['patch_size']}), got "
            f"{config.image_size}."
        )
    return size


def make_model(config):
    """The network with fresh weights, drawn from the run's seed."""
    codec, size = make_codec(config), check_size(config)
    keras.utils.set_random_seed(config.seed % 2**32)  # initialisers alone; training and sampling draw from RowSeeds
    return DiT(
        **size,
        input_size=codec.input_size,
        in_channels=codec.channels,
        num_classes=config.num_classes,
        class_dropout_prob=config.class_dropout_prob,
        learn_sigma=config.learn_sigma,
        block=config.block,
        qk_norm=config.qk_norm,
        dtype=POLICIES[config.precision],
    )


def make_process(config):
    if config.objective == "flow":
        if config.path not in PATHS:
            raise ValueError(f"--path must be one of {', '.join(PATHS)}, got {config.path!r}.")
        return Transport(PATHS[config.path], config.prediction, config.loss_weight, config.time_distribution)
    return GaussianDiffusion(
        betas=linear_betas(config.num_timesteps), variance="learned_range" if config.learn_sigma else "fixed_large"
    )


def make_schedule(config):
    return Schedule(config.learning_rate, config.warmup_steps, config.schedule, config.schedule_steps)


def make_train_step(config, model, vae=None, *, remat=False, scan_blocks=False, accumulation_steps=1):
    """What saves memory or compilation and leaves the gradients what they are: remat (a third more FLOPs,
    `dit_tf.models.remat`), the blocks as one loop, which is remat too (`dit_tf.models.scan`), and the number of parts
    that a replica's batch is computed in."""
    return TrainStep(
        model,
        functools.partial(call_with, remat=remat, scan=scan_blocks),
        make_process(config),
        make_codec(config, vae),
        AdamW(make_schedule(config), weight_decay=config.weight_decay),
        config.ema_decay,
        averages=[*map(Exponential, config.ema_decays), *map(PowerFunction, config.ema_stds)],
        clip_norm=config.clip_norm,
        accumulation_steps=accumulation_steps,
    )


def make_trainer(
    config, model, vae=None, train_step=None, *, remat=False, scan_blocks=False, accumulation_steps=1, **options
):
    """Call it inside the strategy's scope, where model and vae must have been made too. options: of `DiTTrainer`.

    train_step: that of an earlier trainer, made of the same arguments but for the seed, where its compilation is to
    serve again; its network takes over the weights of `model`.
    """
    if train_step is None:
        saving = dict(remat=remat, scan_blocks=scan_blocks, accumulation_steps=accumulation_steps)
        train_step = make_train_step(config, model, vae, **saving)
    else:
        for variable, fresh in zip(train_step.model.trainable_variables, model.trainable_variables, strict=True):
            variable.assign(fresh)
    return DiTTrainer(train_step, seed=config.seed, **options)


def make_sampler(config, model, options, strategy=None, vae=None):
    """(params, labels, seed, row) -> `Drawn`, see `ImageSampler`."""
    codec = make_codec(config, vae)
    return ImageSampler(call_of(model), make_process(config), codec, model.null_label, options, strategy)


def call_of(model):
    """call(params, x, t, y): the network as a function of its weights."""
    return lambda params, x, t, y: call_with(model, params, (x, t, y))


def make_likelihood(config, model, strategy=None, vae=None, *, num_steps=None, solver="dopri5", atol=1e-5, rtol=1e-5):
    """((params, encoder), examples (N, ...), labels (N,), seed, row (N,)) -> (bits per dimension, function evaluations,
    whether the end was reached), each (N,), of images given their labels; those of the model's input, which may be
    latents.

    A DDPM model gives its variational bound over num_steps of its timesteps (None: all), a flow model the density that
    its probability flow carries, by the solver.
    """
    process, codec, call = make_process(config), make_codec(config, vae), call_of(model)
    chain = process.respaced(str(num_steps or "")) if config.objective == "ddpm" else None

    def bits(shared, examples, labels, seed, row):
        (params, encoder), seeds = shared, RowSeeds(seed, row)
        x = codec.encode(encoder, examples, seeds)
        model_fn = condition(functools.partial(call, params), labels)
        if chain is None:
            options = dict(solver=solver, num_steps=num_steps, atol=atol, rtol=rtol)
            return flow.bits_per_dim(process, model_fn, x, seeds, codec.bin_width, **options)
        total = variational.bits_per_dim(chain, model_fn, x, seeds, clip_denoised=codec.bounded).total_bpd
        return total, tf.fill(tf.shape(row), chain.num_timesteps), tf.fill(tf.shape(row), True)

    return compiled_on(bits, strategy)


def make_served_model(config, model, options, classes, *, vae=None, dtype="float32", max_batch_size=1):
    """What `dit_tf.export` saves. options: of the sampler, fixed but for the guidance scale, which each request brings;
    dtype: of the weights, see `StoredWeights`; max_batch_size: rows of one request."""
    guided = dataclasses.replace(options, cfg_scale=1.0 if model.null_label is None else _ANY_SCALE)
    sampler, process = make_sampler(config, model, guided, vae=vae), make_process(config)
    last_time = 1.0 if config.objective == "flow" else process.num_timesteps - 1
    rules = Rules(config.num_classes, model.null_label, max_batch_size, last_time)
    weights = StoredWeights(weights_of(model), dtype)
    decoder_weights = StoredWeights(tensors(make_codec(config, vae).decoder_variables), dtype)
    return ServedModel(sampler, call_of(model), weights, decoder_weights, rules, classes)


def weights_of(model):
    return tensors(model.trainable_variables)


def encoder_of(vae):
    """The weights that a codec encodes with; none without an autoencoder."""
    return [] if vae is None else tensors(vae.variables_of("encoder"))


def weights_digest(params):
    """The SHA-256 of weights, in hexadecimal: which model a number belongs to."""
    digest = hashlib.sha256()
    for value in params:
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def read_text(path, name):
    """A text beside the newest checkpoint of a work directory, or inside a .keras file; None where there is none."""
    if is_zip(path):
        return model_file.read_text(path, name)
    return Checkpoints(path).read_text(name) if tf.io.gfile.isdir(path) else None


def load_config(path):
    """The RunConfig that a work directory or a .keras file carries."""
    text = read_text(path, RUN)
    if text is not None:
        try:
            return RunConfig.from_json(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} has no configuration that can be read: {error}") from error
    if read_text(path, AUTOENCODER) is not None:
        raise ValueError(f"{path} is an autoencoder, which goes to --vae: a model is needed here.")
    if is_zip(path):
        raise ValueError(f"{path} is not a model that dit_tf wrote: it holds no {RUN}.")
    raise ValueError(f"{path} holds no checkpoint: a work directory of dit_tf.train or a .keras file is needed.")


def load_classes(path):
    """The ClassTable that lies with a model."""
    text, config = read_text(path, CLASSES), load_config(path)
    classes = numbered(config.num_classes) if text is None else ClassTable.from_json(text)
    if len(classes) != config.num_classes:
        raise ValueError(f"{path} has {config.num_classes} classes, and names for {len(classes)}.")
    return classes


def load_model(path):
    """The network with its averaged weights, from a work directory or a .keras file that train or convert wrote.

    `model((x, t, y), training=False)`: x (N, H, W, C) float32, t (N,), y (N,) int32 -> (N, H, W, 2C or C) float32.
    """
    config = load_config(path)
    if is_zip(path):
        _check_size(path, config)
    model = make_model(config)
    if is_zip(path):
        model_file.load_weights(path, model)
    else:
        Checkpoints(path).restore({f"ema/{v.path}": v.value for v in model.trainable_variables}, partial=True)
    return model


def _check_size(path, config):
    """ValueError where the configuration asks for a network or an image far larger than the file: before it is made."""
    size, length = size_of(config.model), version_of(path)[0]
    tokens = (make_codec(config).input_size[0] // size["patch_size"]) ** 2
    least = 4 * 6 * size["width"] ** 2 * size["depth"]  # bytes: the leanest block has 6 D^2 weights
    if least > length or tokens > length:
        raise ValueError(f"{path} has {length} bytes, too few for the {config.model} that it claims to be.")


def save_model(path, config, classes, params, provenance=None):
    """Write a .keras file of these weights with the run's configuration and class table."""
    model = make_model(config)
    for variable, value in zip(model.trainable_variables, params):
        variable.assign(value)
    model_file.save(path, model, model_texts(config, classes, provenance))


def model_texts(config, classes, provenance=None):
    """{file name: text} of what lies with a model. provenance: a dict, where the weights came from elsewhere."""
    texts = {RUN: config.to_json(), CLASSES: classes.to_json()}
    return texts if provenance is None else texts | {PROVENANCE: json.dumps(provenance, indent=1)}
