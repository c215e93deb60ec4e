"""A trained model behind the page of dit_tf.app: its image of a request, and the way there.

The image is image 0 of the command on the page, by the program that `dit_tf.sample` compiles. The way is the same
sampler run once more, before it, with its loop outside of any program: its state at some moments, decoded as it is,
so still noisy. Arithmetic in another order may move the last of these states one grey level from the image.
"""

import functools
import shlex

import numpy as np
import tensorflow as tf

from dit_tf import build
from dit_tf.app.request import IMAGE, Progress, class_flag
from dit_tf.app.states import states_of
from dit_tf.models.codec import tensors
from dit_tf.sample import load_vae, model_path
from dit_tf.samplers.generate import ImageSampler, in_batches
from dit_tf.samplers.options import SAMPLERS_OF, SamplerOptions

_KEPT = 8  # compiled programs
_MOMENTS = 0.0, 0.5, 0.7, 0.85, 0.95  # of the way, whose states are shown: most becomes visible towards the end


class Checkpoint:
    """samplers: those that fit the training's objective. guided: whether there is a null class to guide away from.
    usual_scale: of guidance, in the model's paper."""

    def __init__(self, options):
        """options: of `flags.define_app`, with one of workdir and weights."""
        path = model_path(options)
        self._config, self.classes = build.load_config(path), build.load_classes(path)
        self._vae = load_vae(options, self._config)
        self._model = build.load_model(path)
        self._params = build.weights_of(self._model)
        self._codec = build.make_codec(self._config, self._vae)
        self._network = tf.function(build.call_of(self._model), autograph=False)
        self._sampler = functools.lru_cache(_KEPT)(self._make_sampler)
        given = {name: getattr(options, name) for name in ("workdir", "weights", "vae")}
        self._given = [f"--{name}={value}" for name, value in given.items() if value]

        size = "x".join(map(str, self._codec.image_shape[:2]))
        self.title = f"{self._config.model}, {size} pixels, {path}"
        self.samplers = SAMPLERS_OF[self._config.objective]
        self.guided = self._model.null_label is not None
        self.usual_scale = 4.0 if self._config.codec == "vae" else 1.5

    def command(self, request):
        """The command line that draws the same image."""
        how = [f"--{name}={getattr(request, name)}" for name in ("seed", "cfg_scale", "sampler", "num_steps")]
        flags = [*self._given, class_flag(self.classes, request.label), *how, "--output=image.png"]
        return shlex.join(["python", "-m", "dit_tf.sample", *flags])

    def draw(self, request):
        """Yields the `Progress` of each evaluation; the last one has the image. ValueError where the request does not
        fit the model."""
        options = options_of(request)
        sampler = self._sampler(request.sampler, request.num_steps, options.guided).with_options(options)
        total, captions, pictures = sampler.solver.evaluations, captions_of(sampler), {}
        for done, x in enumerate(states_of(functools.partial(self.stepwise, request), self._network)):
            if done in captions:
                pictures = pictures | {captions[done]: self._decode(x)}
            yield Progress("On the way to the image.", done, total, pictures)
        yield Progress("The same in one program, which is compiled the first time.", total, total, pictures)
        ((_, drawn),) = in_batches(sampler, self._params, np.array([request.label]), request.seed, batch_size=1)
        yield Progress("Drawn.", total, total, pictures | {IMAGE: drawn.images[0]})

    def stepwise(self, request, call):
        """The `Drawn` of the request by a loop outside of any program, which calls `call(params, x, t, y)`."""
        process, decoder = build.make_process(self._config), tensors(self._codec.decoder_variables)
        sampler = ImageSampler(call, process, self._codec, self._model.null_label, options_of(request))
        shared = self._params, decoder, tf.nest.map_structure(tf.constant, sampler.controls)
        label, seed = tf.constant([request.label]), tf.constant(request.seed, tf.int64)
        return sampler.draw(shared, label, seed, row=tf.constant([0]))

    def _make_sampler(self, name, num_steps, guided):
        options = SamplerOptions(name, num_steps, cfg_scale=self.usual_scale if guided else 1.0)
        return build.make_sampler(self._config, self._model, options, vae=self._vae)

    def _decode(self, x):
        return self._codec.decode(tensors(self._codec.decoder_variables), x)[0].numpy()


def options_of(request):
    return SamplerOptions(request.sampler, request.num_steps, cfg_scale=request.cfg_scale)


def captions_of(sampler):
    """{evaluation: caption} of the moments whose state is shown: the beginnings of whole steps."""
    num_steps = sampler.options.num_steps
    per_step = -(-sampler.solver.evaluations // num_steps)  # Heun's method also looks at trial points in between
    steps = (int(num_steps * moment) for moment in _MOMENTS)
    return {per_step * step: f"step {step}" if step else "noise" for step in steps}
