"""An autoencoder from a file, its own or a published one, and into a .keras file."""

import dataclasses
import json
import os

from dit_tf.build import AUTOENCODER, PROVENANCE
from dit_tf.config import POLICIES
from dit_tf.latent_scale import FIELDS, LatentScale
from dit_tf.models.autoencoder_kl import AutoencoderKL
from dit_tf.pretrained import vae_map
from dit_tf.pretrained.published import PUBLISHED, fetch_published
from dit_tf.pretrained.weight_files import naming, read_weight_file
from dit_tf.runtime import model_file
from dit_tf.runtime.bounded_file import is_zip, local_copy

_CLASS = "AutoencoderKL"  # as diffusers' config.json names it


def load(path, precision="float32", sha256="", scaling_factor=None):
    """The autoencoder, from what convert wrote, from a published file, or by a published name, which is downloaded.

    Its `latent_scale` is what the file says, or the config.json beside it; None where neither does. scaling_factor:
    instead of theirs. ValueError where its encoder is not the one that `sha256` names, the digest that a model carries;
    empty: any.
    """
    name, said = path, None
    if path in PUBLISHED and not os.path.exists(path):
        path = fetch_published(path)
    facts = model_file.read_text(path, AUTOENCODER) if is_zip(path) else None
    with naming(path):
        if facts is not None:
            facts = _facts(facts)
            vae = AutoencoderKL(POLICIES[precision], width=facts.get("width", vae_map.WIDTH))
            said = LatentScale.of(facts)
        else:
            with local_copy(path) as local:
                file = read_weight_file(local, "vae")
                vae, said = make(vae_map.convert(file.state), precision), scale_said(file, name)
    if facts is not None:
        model_file.load_weights(path, vae)
    if scaling_factor is not None:
        said = dataclasses.replace(said or LatentScale(), scaling_factor=scaling_factor)
    vae.latent_scale = said
    found = vae.encoder_sha256()
    if sha256 not in ("", found):
        raise ValueError(
            f"--vae={name} has another encoder than the one that these latents come from (SHA-256 {found[:16]}..., "
            f"needed is {sha256[:16]}...): give that one, or another decoder of it."
        )
    return vae


def load_for(config, path):
    """The autoencoder of a model, by its RunConfig; None where no path is given.

    ValueError where it is another than the model's: by its encoder, or, where the model does not know that, by how its
    latents are scaled.
    """
    if not path:
        return None
    vae = load(path, config.precision, config.vae_sha256)
    if not config.vae_sha256:
        check_scale(vae, path, config.latent_scale)
    return vae


def check_scale(vae, path, scale, whose="the model's"):
    """ValueError where its file says that its latents are scaled in another way than by `scale`.

    Those of a model may be normalised by the mean and deviation of its data, which no autoencoder's file knows.
    """
    said = vae.latent_scale
    by_data = scale.latents_std and said is not None and not said.latents_std
    if said not in (None, scale) and not by_data:
        raise ValueError(
            f"--vae={path} has latents of {said}, {whose} have {scale}: give the autoencoder that they come from."
        )


def scale_or_assumed(vae, path):
    """How its latents are scaled; where its file does not say so, a line does what is taken."""
    if vae.latent_scale is None:
        vae.latent_scale = LatentScale()
        assumed = f"{vae.latent_scale}, Stable Diffusion's, is assumed"
        print(f"{path} does not say how its latents are scaled: {assumed}; --scaling_factor=S says another.")
    return vae.latent_scale


def scale_said(file, name=""):
    """What a `WeightFile` has in its config.json, or its published name says; None where neither does."""
    fields = file.config
    if fields.get("_class_name", _CLASS) == _CLASS and ("_class_name" in fields or fields.keys() & set(FIELDS)):
        return LatentScale.of(fields)
    known = {published.file: published for published in PUBLISHED.values()} | PUBLISHED
    published = known.get(name) or known.get(os.path.basename(file.path))
    return LatentScale(published.scaling_factor) if published and published.kind == "vae" else None


def _facts(text):
    """autoencoder.json; what version 0.1.0 wrote has no width."""
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError(f"its {AUTOENCODER} must be a JSON object, got a {type(facts).__name__}")
    return facts


def make(arrays, precision="float32"):
    """The autoencoder with these weights, {name: array}, such as `vae_map.convert` gives."""
    vae = AutoencoderKL(POLICIES[precision], width=vae_map.width_of(arrays))
    vae.assign(arrays)
    return vae


def save(path, vae, provenance):
    """Write a .keras file of an autoencoder; provenance: a dict that says where it came from."""
    scale = vae.latent_scale or LatentScale()
    facts = dict(encoder_sha256=vae.encoder_sha256(), width=vae.width, **scale.fields)
    texts = {AUTOENCODER: json.dumps(facts, indent=1), PROVENANCE: json.dumps(provenance, indent=1)}
    model_file.save(path, vae, texts)
