"""A trained model behind the page of dit_tf.app: its image of a request, and the way there.

The image is image 0 of the command on the page, by the program that `dit_tf.sample` compiles. The way is the same
sampler run once more, before it, with its loop outside of any program: its state at some moments, decoded as it is,
so still noisy. Arithmetic in another order may move the last of these states one grey level from the image.
"""

import functools
import shlex

from dit_tf import build
from dit_tf.app.request import IMAGE, Progress, class_flag
from dit_tf.sample import load_model
from dit_tf.samplers.drawn_images import DrawnImages
from dit_tf.samplers.options import SAMPLERS_OF, SamplerOptions

_KEPT = 8  # compiled programs
_MOMENTS = 0.0, 0.5, 0.7, 0.85, 0.95  # of the way, whose states are shown: most becomes visible towards the end


class Checkpoint:
    """samplers: those that fit the training's objective. guided: whether there is a null class to guide away from.
    usual_scale: of guidance, in the model's paper."""

    def __init__(self, options):
        """options: of `flags.define_app`, with one of workdir and weights."""
        self._model = model = load_model(options)
        self._sampler = functools.lru_cache(_KEPT)(self._make_sampler)
        given = {name: getattr(options, name) for name in ("workdir", "weights", "vae")}
        self._given = [f"--{name}={value}" for name, value in given.items() if value]

        size = "x".join(map(str, model.codec.image_shape[:2]))
        self.title, self.classes = f"{model.config.model}, {size} pixels, {model.source}", model.classes
        self.samplers = SAMPLERS_OF[model.config.objective]
        self.guided = model.network.null_label is not None
        self.usual_scale = 4.0 if model.config.codec == "vae" else 1.5

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
        way = self._model.states(request.label, seed=request.seed, **keywords_of(request))
        for done, x in enumerate(way):
            if done in captions:
                pictures = pictures | {captions[done]: self._model.decode(x)[0]}
            yield Progress("On the way to the image.", done, total, pictures)
        yield Progress("The same in one program, which is compiled the first time.", total, total, pictures)
        drawn = DrawnImages(sampler, build.weights_of(self._model.network), [request.label], request.seed, {})
        yield Progress("Drawn.", total, total, pictures | {IMAGE: drawn.read(1)[0]})

    def _make_sampler(self, name, num_steps, guided):
        options = SamplerOptions(name, num_steps, cfg_scale=self.usual_scale if guided else 1.0)
        return build.make_sampler(self._model.config, self._model.network, options, vae=self._model.vae)


def keywords_of(request):
    return dict(sampler=request.sampler, num_steps=request.num_steps, cfg_scale=request.cfg_scale)


def options_of(request):
    return SamplerOptions(**keywords_of(request))


def captions_of(sampler):
    """{evaluation: caption} of the moments whose state is shown: the beginnings of whole steps."""
    num_steps = sampler.options.num_steps
    per_step = -(-sampler.solver.evaluations // num_steps)  # Heun's method also looks at trial points in between
    steps = (int(num_steps * moment) for moment in _MOMENTS)
    return {per_step * step: f"step {step}" if step else "noise" for step in steps}
