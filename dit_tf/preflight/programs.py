"""The programs of a run, compiled for a TPU that is not there, each in a process of its own.

A process each, because a compilation takes gigabytes that stay, and because the compiler's settings must be made before
jax is imported.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import multiprocessing

import tensorflow as tf
import tqdm

from dit_tf import build
from dit_tf.config import POLICIES, RunConfig
from dit_tf.evaluation.inception import full_precision, load_inception
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.models.costs import abstract
from dit_tf.runtime import tpu_compiler
from dit_tf.runtime.preemption import end_with_parent
from dit_tf.runtime.tpu_compiler import TooLarge
from dit_tf.samplers.options import SamplerOptions


@dataclasses.dataclass(frozen=True)
class Program:
    """What to compile, by itself: it goes to another process.

    name: train, sample, encode, decode or inception; batch_size: of train over all cores, of the others of one core.
    encodes: whether the train step begins with images that the autoencoder encodes. remat, scan_blocks and
    accumulation_steps: of it.
    """

    name: str
    config: RunConfig
    batch_size: int
    encodes: bool = False
    remat: bool = False
    scan_blocks: bool = False
    accumulation_steps: int = 1
    sampler: SamplerOptions | None = None
    inception: str | None = None  # file of the network


def missing_compiler():
    """The names of what must be installed to compile, which comes for Linux x86-64 only."""
    return [name for name in ("jax", "libtpu") if importlib.util.find_spec(name) is None]


def compile_alone(program, topology, title):
    """`compile_program` in a process of its own, with the time that it takes on a line with this title.

    (Report, text). `TooLarge`, or ValueError where the compiler refuses or is killed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, program, topology), daemon=True)
    process.start()
    sender.close()
    try:
        with tqdm.tqdm(desc=title, bar_format="{desc}: {elapsed}", mininterval=0) as bar:
            while not receiver.poll(1.0):
                bar.refresh()
        result = receiver.recv()
    except EOFError as error:
        process.join()
        raise ValueError(
            f"The compiler ended without a word (exit code {process.exitcode}), as it does where memory runs out: "
            "DiT-XL/2 takes 8 to 14 GB of this machine's."
        ) from error
    finally:
        process.kill()
        process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _send(sender, program, topology):
    end_with_parent()
    try:
        result = compile_program(program, topology)
    except (TooLarge, ValueError) as error:
        result = error
    except Exception as error:  # whatever jax raises may not survive the way to another process
        result = RuntimeError(f"{type(error).__name__}: {error}")
    sender.send(result)


def compile_program(program, topology):
    """(Report, the optimised text). To be called in a process that has not imported jax yet."""
    tpu_compiler.prepare_environment()
    if program.name == "train":
        return _compile_train(program, topology)
    if program.name == "sample":
        import jax

        jax.config.update("jax_enable_x64", True)  # seeds have 64 bits
    function, specs = traceable(program)
    compiled = tf.function(function, jit_compile=True, autograph=False)
    with full_precision() if program.name == "inception" else contextlib.nullcontext():
        return tpu_compiler.compile_function(compiled, specs, topology=topology)


def traceable(program):
    """Of a program for one core: (a function that captures nothing, its arguments as TensorSpecs)."""
    config, batch_size = program.config, program.batch_size
    if program.name == "inception":
        network = load_inception(program.inception)
        images = tf.TensorSpec((batch_size, config.image_size, config.image_size, 3), tf.uint8)
        return network.features_with, (_specs(network.variables), images)
    vae = abstract(functools.partial(AutoencoderKL, POLICIES[config.precision]))
    codec = build.make_codec(config, vae)
    if program.name == "encode":
        images = tf.TensorSpec((batch_size, *codec.image_shape), tf.uint8)
        return codec.moments, (_specs(codec.encoder_variables), images)
    if program.name == "decode":
        latents = tf.TensorSpec((batch_size, *codec.input_size, codec.channels), tf.float32)
        return codec.decode, (_specs(codec.decoder_variables), latents)
    model = abstract(lambda: build.make_model(config))
    sampler = build.make_sampler(config, model, program.sampler, vae=vae if config.codec == "vae" else None)
    controls = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), sampler.controls)
    row, seed = tf.TensorSpec((batch_size,), tf.int32), tf.TensorSpec((), tf.int64)
    shared = _specs(model.trainable_variables), _specs(codec.decoder_variables), controls
    return sampler.program.python_function, (shared, row, seed, row)


def _compile_train(program, topology):
    config = program.config
    model = abstract(lambda: build.make_model(config))
    vae = abstract(functools.partial(AutoencoderKL, POLICIES[config.precision])) if program.encodes else None
    codec = build.make_codec(config, vae)
    stored = config.codec == "vae" and not program.encodes
    saving = {name: getattr(program, name) for name in ("remat", "scan_blocks", "accumulation_steps")}
    return tpu_compiler.compile_train_step(
        build.make_train_step(config, model, vae, **saving),
        topology=topology,
        global_batch_size=program.batch_size,
        example_shape=(*codec.input_size, 2 * codec.channels) if stored else codec.image_shape,
        example_dtype="bfloat16" if stored else "uint8",
    )


def _specs(variables):
    return [tf.TensorSpec(v.shape, v.dtype) for v in variables]
