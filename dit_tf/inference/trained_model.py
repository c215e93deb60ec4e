"""A trained diffusion transformer as one object: draw, encode, score, export."""

import contextlib

import numpy as np
import tensorflow as tf
import tqdm

import dit_tf
from dit_tf import build
from dit_tf.data.class_names import UNLABELLED
from dit_tf.inference import likelihood as likelihoods
from dit_tf.inference.averages import Average, averaged
from dit_tf.inference.exporting import check_export, make_served, save
from dit_tf.inference.scoring import Scoring, make_evaluator
from dit_tf.inference.states import states_of_image
from dit_tf.models.codec import tensors
from dit_tf.runtime.image_files import grid
from dit_tf.runtime.seeds import RowSeeds
from dit_tf.samplers.drawn_images import DrawnImages
from dit_tf.samplers.labels import chosen_labels
from dit_tf.samplers.options import SamplerOptions

_BATCH = 100  # images of a call


class TrainedModel:
    """What `dit_tf.load` gives.

    config: `RunConfig`, what it was trained as. classes: `ClassTable`. network: the Keras model, whose weights are the
    averaged ones. process, codec: between images and noise, between images and what is diffused. source: where it is
    from. A label is a number, a name or an id of a class.
    """

    def __init__(self, config, classes, network, vae=None, source=None, strategy=None):
        """vae: `AutoencoderKL`, where the model works on latents and images are wanted. strategy: over whose replicas
        images are shared out; None: the default device."""
        self.config, self.classes, self.network, self.source = config, classes, network, source
        self.process, self.codec = build.make_process(config), build.make_codec(config, vae)
        self.vae, self.strategy = vae, strategy
        self._samplers = []  # whose programs are compiled
        self._call = tf.function(build.call_of(network), autograph=False)

    def __repr__(self):
        height, width, channels = self.codec.image_shape
        return f"<{self.config.model}, {height}x{width}x{channels}, {len(self.classes)} classes, from {self.source}>"

    def __call__(self, inputs):
        """((x, t, y)): x (N, h, w, c) float32, t (N,), y (N,) int32 -> the prediction (N, h, w, c or 2c) float32."""
        x, t, y = inputs
        given = tf.convert_to_tensor(x, tf.float32), tf.convert_to_tensor(t), tf.convert_to_tensor(y, tf.int32)
        return self.network(given, training=False)

    def denoise(self, x, t, y):
        """As a call, for samplers of one's own: compiled once for a shape; `y` as labels of `sample`, or None for no
        class. t: timesteps 0 to 999 of DDPM, times 0 (noise) to 1 of flow matching; one for all rows or (N,)."""
        x = tf.convert_to_tensor(x, tf.float32)
        labels = [self.config.num_classes] * len(x) if y is None else self.labels(y, len(x))
        return self._call(build.weights_of(self.network), x, tf.zeros(len(x)) + t, tf.constant(labels, tf.int32))

    def labels(self, labels, count=None):
        """Class numbers int64 (N,) of one label or a list of them, repeated up to `count`."""
        single = isinstance(labels, (str, int, np.integer))
        texts = [str(label) for label in ([labels] if single else labels)]
        null_label = self.network.null_label
        if self.classes == UNLABELLED and set(texts) == {"0"}:  # the label that its images have
            return np.zeros(count or len(texts), np.int64)
        found = [self.classes.find(text, flag="labels", null_label=null_label) for text in texts]
        return np.resize(np.array(found, np.int64), count or len(found))

    def images(self, labels=None, *, num_samples=None, seed=0, label_policy="random", **options):
        """`DrawnImages`: a set that is drawn when it is read, batch by batch; arguments as of `sample`."""
        given = None if labels is None else self.labels(labels)
        found, policy = chosen_labels(given, num_samples, label_policy, seed, len(self.classes))
        return self.images_of(SamplerOptions(**options), found, seed, policy)

    def images_of(self, options, labels, seed, label_policy):
        """`DrawnImages` of `SamplerOptions` and class numbers (N,); label_policy: what chose these, for provenance."""
        self._need_vae("sample")
        sampler, params = self._sampler(options), build.weights_of(self.network)
        facts = dict(
            dit_tf=dit_tf.__version__, model=self.source, weights_sha256=build.weights_digest(params),
            vae_sha256=None if self.vae is None else build.weights_digest(self.vae.by_name.values()),  # the decoder too
            objective=self.config.objective, label_policy=label_policy,
        )  # fmt: skip
        return DrawnImages(sampler, params, labels, seed, facts)

    def sample(
        self, labels=None, *, num_samples=None, seed=0, label_policy="random", batch_size=_BATCH, progress=True,
        **options,
    ):  # fmt: skip
        """Draw images: uint8 (N, H, W, C). Image i follows from (seed, i) and its label alone.

        labels: one or a list, repeated up to num_samples; None: those of label_policy, "random" or "balanced".
        options: fields of `SamplerOptions`, such as sampler="ddim", num_steps=50, cfg_scale=1.5. ValueError where they
        do not fit the model, in the words of the command's flags.
        """
        given = dict(num_samples=num_samples, seed=seed, label_policy=label_policy)
        return self.images(labels, **given, **options).read(batch_size, progress)

    def grid(self, labels=None, *, columns=None, **options):
        """A PIL image of drawn images, each under its class; arguments as of `sample`."""
        reading = {name: options.pop(name) for name in ("batch_size", "progress") if name in options}
        drawn = self.images(labels, **options)
        images = drawn.read(**dict(batch_size=_BATCH, progress=True) | reading)
        captions = [self.classes.caption(label) for label in drawn.labels()]
        return grid(images, captions, columns, drawn.labels())

    def states(self, label, *, seed=0, **options):
        """Yields x (1, h, w, c), what image 0 of `sample` is at each evaluation of the network: from noise on; see
        `decode`. One evaluation at a time, outside of any program."""
        asked, labels = SamplerOptions(**options), self.labels(label)[:1]
        return states_of_image(self, asked, labels, seed, self._call)

    def encode(self, images, seed=0):
        """uint8 (N, H, W, C) -> x (N, h, w, c) float32, what the model diffuses; latents are drawn from the encoder's
        posterior, of image i by (seed, i)."""
        self._need_vae("encode")
        rows = RowSeeds(tf.constant(seed, tf.int64), tf.range(len(images)))
        return self.codec.encode(tensors(self.codec.encoder_variables), tf.constant(images, tf.uint8), rows).numpy()

    def decode(self, x):
        """x (N, h, w, c) -> uint8 (N, H, W, C)."""
        self._need_vae("decode")
        return self.codec.decode(tensors(self.codec.decoder_variables), tf.convert_to_tensor(x, tf.float32)).numpy()

    def likelihood(
        self, images, labels, *, seed=0, batch_size=_BATCH, progress=True, num_steps=None, solver=None, atol=None,
        rtol=None,
    ):  # fmt: skip
        """Bits per dimension (N,) float64 of images, uint8 (N, H, W, C), given their labels: a bound over all timesteps
        (DDPM) or the density of the probability flow (flow matching)."""
        self._need_vae("likelihood")
        method = likelihoods.likelihood_method(self.config, num_steps, solver, atol, rtol)
        size, labels = min(batch_size, len(images)), self.labels(labels, len(images))
        bits = build.make_likelihood(self.config, self.network, self.strategy, self.vae, **method)
        shared, found = (build.weights_of(self.network), build.encoder_of(self.vae)), []
        with tqdm.tqdm(total=len(images), unit="image", desc="likelihood", disable=not progress) as bar:
            for first in range(0, len(images), size):
                batch = np.asarray(images[first : first + size])
                row = slice(first, first + size)
                result = likelihoods.evaluated(bits, shared, batch, labels[row], seed, size, first, len(batch))
                found += result["bits_per_dim"]
                bar.update(len(batch))
        return np.array(found)

    def score(
        self, reference, num_samples=50_000, *, partial="metrics.json", batch_size=_BATCH, seed=0,
        label_policy="random", scoring=None, **options,
    ):  # fmt: skip
        """`Scores` of images that are drawn: FID and the rest, as `python -m dit_tf.evaluate` has them.

        reference: an .npz of ADM's, a folder, or a data set. scoring: fields of `Scoring`, such as
        dict(features="pixels"). partial: what the files begin with in which features are kept until all are there.
        """
        drawn = self.images(num_samples=num_samples, seed=seed, label_policy=label_policy, **options)
        asked = Scoring(reference=reference, **(scoring or {}))
        strategy = self.strategy or tf.distribute.get_strategy()
        evaluator, _ = make_evaluator(asked, strategy, drawn.shape, batch_size, partial)
        scores = evaluator(drawn)
        evaluator.remove()
        return scores

    def with_average(self, *, std=None, decay=None, step=None):
        """The same model with weights averaged over another length, of the work directory that it was loaded from: see
        `python -m dit_tf.ema`."""
        network, _, _ = averaged(Average(self.source, std, decay, step))
        return TrainedModel(self.config, self.classes, network, self.vae, self.source, self.strategy)

    def export(self, path, *, weights_dtype="float32", xla=False, batch_sizes=(1, 2, 4, 8), **options):
        """Write a SavedModel for TensorFlow Serving, as `python -m dit_tf.export` does: path ends in a version number,
        such as models/dit/1. options: of the sampler, fixed but for the guidance scale, which each request brings."""
        self._need_vae("export")
        asked = SamplerOptions(**options)
        sizes = check_export(path, weights_dtype, asked.cfg_scale, batch_sizes)
        served = make_served(self, asked, weights_dtype, sizes)
        save(self, served, served.signatures(xla), path, sizes, asked.cfg_scale, weights_dtype)

    def save(self, path):
        """Write a .keras file, which `dit_tf.load` and the commands read."""
        build.save_model(path, self.config, self.classes, build.weights_of(self.network))

    def _sampler(self, options):
        """One whose program is compiled already, where its options need no other."""
        for sampler in self._samplers:
            with contextlib.suppress(ValueError):
                return sampler.with_options(options)
        sampler = build.make_sampler(self.config, self.network, options, self.strategy, self.vae)
        self._samplers.append(sampler)
        return sampler

    def _need_vae(self, what):
        if self.config.codec == "vae" and self.vae is None:
            raise ValueError(f"{what} needs the autoencoder of this model's latents: load it with vae='sd-vae-ft-ema'.")
