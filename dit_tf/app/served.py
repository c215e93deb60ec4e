"""A serving address behind the page of dit_tf.app: it gives images, and nothing of the way there."""

import shlex

from dit_tf.app.request import IMAGE, Progress, class_flag
from dit_tf.data.class_names import ClassTable
from dit_tf.serving.client import connect


class Served:
    """As `Checkpoint`; sampler and steps were fixed by `dit_tf.export`."""

    samplers = ()
    guided = True  # as far as an address tells: without a null class it refuses all scales but 1, in a sentence
    usual_scale = 1.5

    def __init__(self, server, model):
        self._served, self._server, self._model = connect(server, model), server, model
        self.classes = ClassTable(*self._served.classes())
        self.title = f"{model} at {server}"

    def command(self, request):
        where = [f"--server={self._server}", f"--model={self._model}"]
        how = [f"--seed={request.seed}", f"--cfg_scale={request.cfg_scale}", "--output=image.png"]
        return shlex.join(["python", "-m", "dit_tf.query", *where, class_flag(self.classes, request.label), *how])

    def draw(self, request):
        yield Progress("The server draws.", 0, 0, {})
        images = self._served.images([request.label], [request.seed], [request.cfg_scale])
        yield Progress("Drawn.", 0, 0, {IMAGE: images[0]})
