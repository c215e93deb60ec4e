"""A sampler's states one by one, while it runs."""

import functools
import queue
import threading

import tensorflow as tf

from dit_tf.models.codec import tensors
from dit_tf.samplers.generate import ImageSampler


class _Abandoned(Exception):
    """Nobody looks any more."""


def states_of_image(model, options, labels, seed, network):
    """Yields x (1, h, w, c): what image 0 of a run of these `SamplerOptions` and labels (1,) is at each evaluation.

    model: a `TrainedModel`. network: as of `states_of`.
    """
    return states_of(functools.partial(stepwise, model, options, labels, seed), network)


def stepwise(model, options, labels, seed, call):
    """The `Drawn` of image 0 by a loop outside of any program, which calls `call(params, x, t, y)`."""
    sampler = ImageSampler(call, model.process, model.codec, model.network.null_label, options)
    decoder, params = tensors(model.codec.decoder_variables), tensors(model.network.trainable_variables)
    shared = params, decoder, tf.nest.map_structure(tf.constant, sampler.controls)
    return sampler.draw(shared, tf.constant(labels, tf.int32), tf.constant(seed, tf.int64), row=tf.constant([0]))


def states_of(draw, network):
    """Yields x (1, H, W, C), what the first row is at each evaluation of the network, in order.

    draw(call): a sampler's run, not compiled, that calls `call(params, x, t, y)` for `network`. It has a thread of its
    own, since a loop that calls cannot yield; it ends with the generator, and what it raises is raised here.
    """
    seen, abandoned = queue.SimpleQueue(), threading.Event()

    def call(params, x, t, y):
        if abandoned.is_set():
            raise _Abandoned
        seen.put(x[:1])  # guidance doubles the rows: first those with their label
        return network(params, x, t, y)

    def run():
        try:
            draw(call)
            seen.put(None)
        except Exception as error:  # whatever it is, it belongs to whom waits for a state
            seen.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while (state := seen.get()) is not None:
            if isinstance(state, Exception):
                raise state
            yield state
    finally:
        abandoned.set()
