"""A trained model from wherever it lies."""

import os

from dit_tf import autoencoder_file, build
from dit_tf.inference.public_networks import Told, classes_of, network_of
from dit_tf.inference.trained_model import TrainedModel
from dit_tf.pretrained.published import PUBLISHED, fetch_published
from dit_tf.pretrained.weight_files import naming, read_weight_file

_USUAL_VAE = "sd-vae-ft-ema"  # of the published models


def load(source, vae=None, *, strategy=None):
    """A `TrainedModel`: draw with `.sample([3, 1, 4])`, see `help(model)`.

    source: a work directory of dit_tf.train, whose newest averaged weights are taken; a .keras file of train, convert
    or ema, on gs:// too; or a published name such as "dit-xl-2-256", which is downloaded once.
    vae: the autoencoder of a model of latents, what convert wrote, a published file or name; of a published model
    sd-vae-ft-ema, unless another is given. Without one such a model still computes and diffuses latents.
    strategy: a tf.distribute strategy, over whose replicas images are shared out.
    ValueError, one sentence that names the source, where it is none of these or is damaged.
    """
    source = os.path.expanduser(os.fspath(source))
    if source in PUBLISHED and not os.path.exists(source):
        return _published(source, vae or _USUAL_VAE, strategy)
    config, classes = build.load_config(source), build.load_classes(source)
    autoencoder = autoencoder_file.load_for(config, vae)
    return TrainedModel(config, classes, build.load_model(source), autoencoder, source, strategy)


def _published(name, vae, strategy):
    published = PUBLISHED[name]
    if published.kind != "dit":
        raise ValueError(f"{name} is an autoencoder, which goes to vae=: a model is needed here.")
    weights = read_weight_file(fetch_published(name), "dit")
    with naming(weights.path):
        config, network = network_of(weights, Told(), published)
    autoencoder = autoencoder_file.load_for(config, vae)
    return TrainedModel(config, classes_of(config.num_classes), network, autoencoder, name, strategy)
