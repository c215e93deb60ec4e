"""From (labels, seed, image index) to uint8 images: noise, sampler, guidance and codec in one compiled function."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from dit_tf.runtime.seeds import RowSeeds, Stream
from dit_tf.samplers import guidance
from dit_tf.samplers.ddim import ddim
from dit_tf.samplers.ddpm import ddpm

SAMPLERS = ("ddpm", "ddim")


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
    sampler: str = "ddpm"
    num_steps: int = 250  # at most the timesteps that the model was trained on
    eta: float = 0.0  # DDIM: 0 is deterministic, 1 has DDPM's noise
    cfg_scale: float = 1.0  # 1: no guidance, and half the work
    guided_channels: int | None = None  # None: all

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"--sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}.")
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"--eta goes with --sampler=ddim, got --eta={self.eta} with --sampler={self.sampler}.")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"--eta must be from 0 to 1, got {self.eta}.")
        if self.cfg_scale < 0:
            raise ValueError(f"--cfg_scale must not be negative, got {self.cfg_scale}.")

    def check_fits(self, process, codec, null_label):
        """ValueError where the trained model cannot be sampled like this."""
        if not 1 <= self.num_steps <= process.num_timesteps:
            raise ValueError(f"--num_steps must be from 1 to {process.num_timesteps}, got {self.num_steps}.")
        if self.cfg_scale != 1.0 and null_label is None:
            raise ValueError(
                f"--cfg_scale={self.cfg_scale} needs a model trained with label dropout; this one has no null class, "
                "so only --cfg_scale=1 is possible."
            )
        if self.guided_channels is not None and not 1 <= self.guided_channels <= codec.channels:
            raise ValueError(f"--guided_channels must be from 1 to {codec.channels}, got {self.guided_channels}.")


def image_sampler(call, process, codec, null_label, options, jit=True):
    """A function (params, labels (N,) int32, seed, row (N,) int32) -> images (N, H, W, C) uint8.

    call(params, x, t, y): the model as a function of its weights. Image i of a run has row i, and depends on (seed, i)
    and its label alone: not on N, not on its neighbours.
    """
    options.check_fits(process, codec, null_label)
    chain = process.respaced(str(options.num_steps))
    shape = (*codec.input_size, codec.channels)

    def sample(params, labels, seed, row):
        seeds = RowSeeds(seed, row)
        model = functools.partial(call, params)
        if options.cfg_scale == 1.0:
            model_fn = guidance.condition(model, labels)
        else:
            model_fn = guidance.guide(model, labels, null_label, options.cfg_scale, options.guided_channels)
        x = seeds.normal(Stream.START, shape)
        if options.sampler == "ddpm":
            x = ddpm(chain, model_fn, x, seeds, clip_denoised=codec.bounded)
        else:
            x = ddim(chain, model_fn, x, seeds, eta=options.eta, clip_denoised=codec.bounded)
        return codec.decode(x)

    return tf.function(sample, jit_compile=jit, autograph=False)


def on_replicas(sample, strategy):
    """The same function of whole batches, its rows shared out in order over the replicas of a strategy."""

    def distributed(params, labels, seed, row):
        def share(rows):
            parts = tf.split(rows, strategy.num_replicas_in_sync)
            return strategy.experimental_distribute_values_from_function(lambda c: parts[c.replica_id_in_sync_group])

        images = strategy.run(sample, args=(params, share(labels), seed, share(row)))
        return tf.concat(strategy.experimental_local_results(images), axis=0)

    return distributed


def in_batches(sample, params, labels, seed, batch_size):
    """Yields (labels, images) until all labels (N,) have their image, in calls of one static batch size.

    The last batch is filled up with rows that are thrown away, so that one compilation serves them all.
    """
    for first in range(0, len(labels), batch_size):
        rows = np.arange(first, first + batch_size, dtype=np.int32)
        padded = np.resize(labels[first : first + batch_size], batch_size).astype(np.int32)
        images = sample(params, tf.constant(padded), tf.constant(seed, tf.int64), tf.constant(rows)).numpy()
        count = min(batch_size, len(labels) - first)
        yield labels[first : first + count], images[:count]


def random_labels(seed, count, num_classes):
    """(N,) int64: the uniform label of image i, a function of (seed, i), as the paper's 50,000 samples have."""
    rows = tf.range(count, dtype=tf.int32)
    return RowSeeds(tf.constant(seed, tf.int64), rows).integers(Stream.LABEL, num_classes).numpy().astype(np.int64)
