"""An autoencoder from a file, its own or a published one, and into a .keras file."""

import json
import os
import zipfile

from dit_tf.build import AUTOENCODER, PROVENANCE
from dit_tf.config import POLICIES
from dit_tf.models.autoencoder_kl import SCALING_FACTOR, AutoencoderKL
from dit_tf.pretrained import vae_map
from dit_tf.pretrained.published import PUBLISHED, fetch_published
from dit_tf.pretrained.weight_files import naming, read_weight_file
from dit_tf.runtime import model_file


def load(path, precision="float32", sha256=""):
    """The autoencoder, from what convert wrote, from a published file, or by a published name, which is downloaded.

    ValueError where its encoder is not the one that `sha256` names, the digest that a model carries; empty: any.
    """
    if path in PUBLISHED and not os.path.exists(path):
        path = fetch_published(path)
    facts = model_file.read_text(path, AUTOENCODER) if zipfile.is_zipfile(path) else None
    if facts is not None:
        with naming(path):
            vae = AutoencoderKL(POLICIES[precision], width=_width(facts))
        model_file.load_weights(path, vae)
    else:
        with naming(path):
            vae = make(vae_map.convert(read_weight_file(path, "vae").state), precision)
    found = vae.encoder_sha256()
    if sha256 not in ("", found):
        raise ValueError(
            f"--vae={path} has another encoder than the one that these latents come from (SHA-256 {found[:16]}..., "
            f"needed is {sha256[:16]}...): give that one, or another decoder of it."
        )
    return vae


def _width(text):
    """Of the network, by autoencoder.json; version 0.1.0 wrote none, and knew one."""
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError(f"its {AUTOENCODER} must be a JSON object, got a {type(facts).__name__}")
    return facts.get("width", vae_map.WIDTH)


def make(arrays, precision="float32"):
    """The autoencoder with these weights, {name: array}, such as `vae_map.convert` gives."""
    vae = AutoencoderKL(POLICIES[precision], width=vae_map.width_of(arrays))
    vae.assign(arrays)
    return vae


def save(path, vae, provenance):
    """Write a .keras file of an autoencoder; provenance: a dict that says where it came from."""
    facts = dict(encoder_sha256=vae.encoder_sha256(), scaling_factor=SCALING_FACTOR, width=vae.width)
    texts = {AUTOENCODER: json.dumps(facts, indent=1), PROVENANCE: json.dumps(provenance, indent=1)}
    model_file.save(path, vae, texts)
