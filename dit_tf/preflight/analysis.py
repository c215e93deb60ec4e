"""What is known of a training without a compiler: its configuration, parameters, multiply-adds, FLOPs, state."""

import dataclasses
import os

import tensorflow as tf
import tqdm

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.data.class_names import UNLABELLED, imagenet, numbered
from dit_tf.data.pipeline import open_dataset
from dit_tf.data.source import DatasetSpec
from dit_tf.latent_scale import LatentScale
from dit_tf.models.costs import abstract, count_macs, count_macs_of, count_parameters
from dit_tf.models.dit import BLOCKS, SIZES, name_of, size_of
from dit_tf.preflight.programs import Program, traceable
from dit_tf.train_options import run_config

_STATE_COPIES = 4  # weights, both moments of AdamW, EMA, and the averages beside it: float32 all of them
ASSUMED = "0" * 64  # the encoder's digest of latents that are not there
_PUBLISHED = ("S", "B", "L", "XL")


def configuration(options):
    """Flags -> (the RunConfig that train would have, whether its step encodes images with the autoencoder)."""
    spec = data_of(options)
    config = run_config(options, spec, _Unread() if options.vae else None)
    return config, bool(options.vae) and not spec.is_latents


class _Unread:
    """Stands in for the autoencoder, whose weights no compiler needs."""

    latent_scale = None

    def encoder_sha256(self):
        return ""


def data_of(options):
    """What train would know of the data set, without it where it is a known one."""
    name, size = options.dataset, options.image_size
    directory = name.removeprefix("latents:")
    if name == "digits":
        spec = DatasetSpec(1797, 8, 1, numbered(10), horizontal_flip=False)
    elif name == "imagenet2012":
        spec = DatasetSpec(1_281_167, None, 3, imagenet(), horizontal_flip=True)
    elif directory != name and not tf.io.gfile.exists(os.path.expanduser(directory)):
        latents = dict(vae_sha256=ASSUMED, latent_scale=LatentScale())
        spec = DatasetSpec(1_281_167, size or 256, 3, imagenet(), horizontal_flip=True, **latents)
    else:
        spec = open_dataset(name, options.data_dir).spec(options.split)
    return dataclasses.replace(spec, classes=UNLABELLED) if options.unconditional else spec


def analysis(config, encodes):
    """The part that needs no compiler, as fields of report.json."""
    parameters, frozen, macs = counts_of(config)
    encoder = count_macs_of(*unbatched("encode", config)) if encodes else 0
    return dict(
        model=config.model,
        block=config.block,
        image_size=config.image_size,
        precision=config.precision,
        global_batch_size=config.global_batch_size,
        parameters=parameters,
        parameters_frozen=frozen,
        macs=macs,
        encoder_macs=encoder,
        flops_analytic=2 * config.global_batch_size * (3 * macs + encoder),  # the encoder is not trained
        state_bytes=(_STATE_COPIES + len(config.ema_decays) + len(config.ema_stds)) * 4 * parameters,
    )


def unbatched(name, config, **more):
    """(function, *specs) of one of the programs for one image."""
    function, specs = traceable(Program(name, config, 1, **more))
    return function, *specs


def analytic_flops(where, program, report):
    """(FLOPs of one core by count, what to say of the compiler's beside them)."""
    if program.name == "train":
        return _counted_flops(program, report) / where.cores, _note(program)
    if program.name == "sample":
        rows = program.batch_size * (2 if program.sampler.guided else 1)
        return 2 * rows * report["macs"], " of one evaluation: the loop's body is counted once, decoding besides"
    more = dict(inception=program.inception) if program.name == "inception" else {}
    return 2 * program.batch_size * count_macs_of(*unbatched(program.name, program.config, **more)), ""


def _counted_flops(program, report):
    """Of a train step what a compiler counts, which sees the body of a loop once: one part of the batch, and with
    --scan_blocks one of the blocks."""
    flops, config = report["flops_analytic"], program.config
    if program.scan_blocks:
        one = dataclasses.replace(config, model=name_of(**size_of(config.model) | dict(depth=1)))
        others = report["macs"] - counts_of(one)[2]
        flops -= 3 * 2 * config.global_batch_size * others
    return flops / program.accumulation_steps


def _note(program):
    parts, depth = program.accumulation_steps, size_of(program.config.model)["depth"]
    once = [f"one part of {parts}"] * (parts > 1) + [f"one block of {depth}"] * program.scan_blocks
    note = f" of {' and '.join(once)}, since a loop's body is counted once" if once else ""
    for name in ("scan_blocks", "remat"):
        if getattr(program, name):
            return note + f", to which --{name} adds a forward pass of the blocks"
    return note


def all_models():
    """The rows of --model=all: the published sizes in the four designs at 256 and 512 pixels, and the ladder of small
    ones on digits."""
    latents = dict(codec="vae", channels=3, num_classes=1000)
    large, small = (
        [(s, p) for s, row in SIZES.items() for p in row.patch_sizes if (s in _PUBLISHED) is published]
        for published in (True, False)
    )
    pixels = (256, 512)
    asked = [(size, block, dict(latents, image_size=p)) for p in pixels for block in BLOCKS for size in large]
    asked += [(size, "adaln_zero", dict(image_size=8)) for size in small]
    return [
        row_of(size, patch_size, block, fields)
        for (size, patch_size), block, fields in tqdm.tqdm(asked, desc="models", dynamic_ncols=True)
    ]


def row_of(size, patch_size, block, fields):
    depth, width, num_heads, _ = SIZES[size]
    name = name_of(width, depth, num_heads, patch_size)
    parameters, _, macs = counts_of(RunConfig(model=name, block=block, **fields))
    return dict(
        model=name, block=block, image_size=fields["image_size"], parameters=parameters, macs=macs, flops=2 * macs
    )


def counts_of(config):
    """(trained parameters, fixed ones, multiply-adds of one image's forward pass). Each is a + b x depth, and so
    follows from networks of one block and of two, which are made sooner."""
    size = size_of(config.model)
    one, two = (_counted(dataclasses.replace(config, model=name_of(**size | dict(depth=depth)))) for depth in (1, 2))
    return tuple(a + (size["depth"] - 1) * (b - a) for a, b in zip(one, two))


def _counted(config):
    model = abstract(lambda: build.make_model(config))
    return *count_parameters(model), count_macs(model)
