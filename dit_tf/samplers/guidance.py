"""From a model of labelled images to the denoiser that a sampler calls: with and without guidance."""

import tensorflow as tf


def condition(model, labels):
    """`model(x, t, y)` with its labels (N,) filled in: a `model_fn(x, t)`."""
    labels = tf.cast(labels, tf.int32)
    return lambda x, t: model(x, t, labels)


def guide(model, labels, null_label, scale, channels=None, active=None):
    """Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) around `model(x, t, y)`: a `model_fn(x, t)`.

    guided = null + scale (conditional - null), from one evaluation of a doubled batch: conditional rows, then the
    same rows with the null label. 1 is no guidance, 0 is the null half in every channel.

    labels: (N,) integers.
    null_label: the label row that stands for no label; None where the model has none, which is refused.
    scale: a number, or (N,).
    channels: how many of the C channels of x are guided; None is all. The released DiT models are sampled with the
        first 3 of 4 (matches DiT). Unguided and variance channels are those of the conditional half, unless the scale
        is 0, where DiT mixes the two.
    active: a function of times t (N,) -> (N,) bool, where to guide (`within`); None is everywhere. Where no row is to
        be guided, the batch is not doubled.
    """
    if null_label is None:
        raise ValueError("guidance needs a model trained with label dropout: null_label is None")
    if channels is not None and channels < 1:
        raise ValueError(f"at least one channel must be guided, got channels={channels}")
    labels = tf.cast(labels, tf.int32)
    doubled_labels = tf.concat([labels, tf.fill(tf.shape(labels), null_label)], axis=0)
    scale = tf.reshape(tf.cast(scale, tf.float32), (-1, 1, 1, 1))

    def guided(x, t, scale):
        guided_channels = x.shape[-1] if channels is None else channels
        if guided_channels > x.shape[-1]:
            raise ValueError(f"cannot guide {guided_channels} channels of {x.shape[-1]}")
        output = model(tf.concat([x, x], axis=0), tf.concat([t, t], axis=0), doubled_labels)
        conditional, null = tf.split(tf.cast(output, tf.float32), 2, axis=0)
        rest = tf.where(scale == 0.0, null[..., guided_channels:], conditional[..., guided_channels:])
        conditional, null = conditional[..., :guided_channels], null[..., :guided_channels]
        return tf.concat([null + scale * (conditional - null), rest], axis=-1)

    def model_fn(x, t):
        if active is None:
            return guided(x, t, scale)
        here = active(t)
        return tf.cond(
            tf.reduce_any(here),
            lambda: guided(x, t, tf.where(here[:, None, None, None], scale, 1.0)),
            lambda: tf.cast(model(x, t, labels), tf.float32),
        )

    return model_fn


def within(low, high, clock):
    """`active` for `guide`: whether low <= clock(t) <= high (Kynkaanniemi et al. 2024, arXiv:2404.07724: guidance helps
    in the middle of the way only). clock: from what the model is shown to the place between noise, 0, and data, 1."""

    def active(t):
        place = clock(tf.cast(t, tf.float32))
        return (place >= low) & (place <= high)

    return active
