"""A trained model as a tf.Module that is saved and served: weights, sampler, guidance, decoder, class table.

It loads with TensorFlow alone. Every input and every output has a row for each image, so that a server may put requests
together and take them apart; image i follows from row i alone.

    serving_default   label int64, seed int64, cfg_scale float32, (N,) each -> image uint8 (N, H, W, C)
    serving_xla       the same, compiled once for each N (with --xla)
    png               the same -> image_bytes (N,), PNG files
    denoise           x (N, h, w, c) float32, t (N,) float32, label (N,) int64 -> output (N, h, w, c or 2c): one step of
                      an external sampler; the label may be the null class
    classes           label (N,) int64 -> name, id (N,) strings and num_classes (N,) int64
"""

import tensorflow as tf

DEFAULT, XLA, PNG, DENOISE, CLASSES = "serving_default", "serving_xla", "png", "denoise", "classes"


class ServedModel(tf.Module):
    """Inputs out of range are an InvalidArgumentError with the rule (see `rules`)."""

    def __init__(self, sampler, call, weights, decoder_weights, rules, classes):
        """sampler: `ImageSampler` of the options that are fixed. call(params, x, t, y): the network. weights,
        decoder_weights: `StoredWeights`. classes: `ClassTable`."""
        super().__init__(name="dit_tf")
        self.sampler, self._call, self._rules = sampler, call, rules
        self.weights, self.decoder_weights = weights, decoder_weights
        self._names, self._ids = list(classes.names), list(classes.ids or [""] * len(classes))

    def signatures(self, xla=False):
        """{name: concrete function}; xla: with `serving_xla`."""
        row, scale = tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None,), tf.float32)
        request = dict(label=_named(row, "label"), seed=_named(row, "seed"), cfg_scale=_named(scale, "cfg_scale"))
        x = tf.TensorSpec((None, *self.sampler.input_shape), tf.float32, "x")
        found = {
            DEFAULT: _function(self.draw, **request),
            PNG: _function(self.draw_png, **request),
            DENOISE: _function(self.denoise, x=x, t=_named(scale, "t"), label=request["label"]),
            CLASSES: _function(self.describe, label=request["label"]),
        }
        if xla:
            found[XLA] = _function(self.draw_compiled, **request)
        return found

    def draw(self, label, seed, cfg_scale):
        return {"image": self._draw(self.sampler.draw, label, seed, cfg_scale)}

    def draw_compiled(self, label, seed, cfg_scale):
        compiled = tf.function(self.sampler.draw, jit_compile=True, autograph=False)
        return {"image": self._draw(compiled, label, seed, cfg_scale)}

    def draw_png(self, label, seed, cfg_scale):
        images = self._draw(self.sampler.draw, label, seed, cfg_scale)
        encoded = tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.TensorSpec((), tf.string))
        return {"image_bytes": encoded}  # a name that ends in _bytes is sent in base64 by REST

    def denoise(self, x, t, label):
        x, t, label = self._rules.check_rows(x=x, t=t, label=label)
        x, t = self._rules.check_finite(x), self._rules.check_time(t)
        label = self._rules.check_label(label, null=True)
        return {"output": self._call(self.weights.tensors(), x, t, tf.cast(label, tf.int32))}

    def describe(self, label):
        (label,) = self._rules.check_rows(label=label)
        label = self._rules.check_label(label)
        count = tf.fill(tf.shape(label), tf.constant(len(self._names), tf.int64))
        return {"name": tf.gather(self._names, label), "id": tf.gather(self._ids, label), "num_classes": count}

    def _draw(self, draw, label, seed, cfg_scale):
        """uint8 (N, H, W, C): of each row the image 0 of the run of its seed."""
        rules = self._rules
        label, seed, cfg_scale = rules.check_rows(label=label, seed=seed, cfg_scale=cfg_scale)
        label, seed, cfg_scale = rules.check_label(label), rules.check_seed(seed), rules.check_scale(cfg_scale)
        values, _, interval = self.sampler.controls
        values, interval = tf.nest.map_structure(tf.constant, (values, interval))
        shared = self.weights.tensors(), self.decoder_weights.tensors(), (values, cfg_scale, interval)
        label = tf.cast(label, tf.int32)
        return draw(shared, label, seed, tf.zeros_like(label)).images


def _named(spec, name):
    return tf.TensorSpec(spec.shape, spec.dtype, name)


def _function(method, **specs):
    return tf.function(method, autograph=False).get_concrete_function(**specs)
