"""Weights that their authors publish: what they are, where, under which licence. None of them come with dit_tf."""

import os
from typing import NamedTuple

from dit_tf.latent_scale import STABLE_DIFFUSION
from dit_tf.pretrained.download import download

DOWNLOADS = "~/.cache/dit_tf"

_DIT = "https://dl.fbaipublicfiles.com/DiT/models/"
_HUGGING_FACE = "https://huggingface.co/"
_CC_BY_NC = "CC-BY-NC 4.0 (no commercial use)"


class Published(NamedTuple):
    what: str
    kind: str  # "dit" or "vae", as in `weight_files`
    objective: str | None  # of a "dit": what the weights were trained for, which no file says
    address: str
    file: str  # its name on disk
    licence: str
    size: int | None  # bytes, as stated in public, rounded where only that is; None: nowhere stated
    scaling_factor: float = STABLE_DIFFUSION  # of a "vae"


PUBLISHED = {
    "dit-xl-2-256": Published(
        "DiT-XL/2 for ImageNet at 256x256, 7M steps (Peebles and Xie 2023; FID 2.27)",
        "dit", "ddpm", _DIT + "DiT-XL-2-256x256.pt", "DiT-XL-2-256x256.pt", _CC_BY_NC, 2_700_611_775,
    ),
    "dit-xl-2-512": Published(
        "DiT-XL/2 for ImageNet at 512x512, 3M steps (Peebles and Xie 2023; FID 3.04)",
        "dit", "ddpm", _DIT + "DiT-XL-2-512x512.pt", "DiT-XL-2-512x512.pt", _CC_BY_NC, None,
    ),
    "sit-xl-2-256": Published(
        "SiT-XL/2 for ImageNet at 256x256, linear path, velocity (Ma et al. 2024; FID 2.06)",
        "dit", "flow", "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/SiT-XL-2-256.pt"
        "?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=0", "SiT-XL-2-256.pt", "MIT", None,
    ),
    "sd-vae-ft-ema": Published(
        "autoencoder of Stable Diffusion, decoder fine-tuned, ft-EMA (the paper's tables 2 and 3)",
        "vae", None, _HUGGING_FACE + "stabilityai/sd-vae-ft-ema/resolve/main/diffusion_pytorch_model.safetensors",
        "sd-vae-ft-ema.safetensors", "MIT", 335_000_000,
    ),
    "sd-vae-ft-mse": Published(
        "autoencoder of Stable Diffusion, decoder fine-tuned, ft-MSE (the paper's table 4)",
        "vae", None, _HUGGING_FACE + "stabilityai/sd-vae-ft-mse/resolve/main/diffusion_pytorch_model.safetensors",
        "sd-vae-ft-mse.safetensors", "MIT", 335_000_000,
    ),
    "sd-vae": Published(
        "autoencoder of Stable Diffusion 1.4, the original decoder",
        "vae", None,
        _HUGGING_FACE + "CompVis/stable-diffusion-v1-4/resolve/main/vae/diffusion_pytorch_model.safetensors",
        "sd-vae.safetensors", "CreativeML OpenRAIL-M", 335_000_000,
    ),
    "sdxl-vae": Published(
        "autoencoder of Stable Diffusion XL; its latents are others than Stable Diffusion's",
        "vae", None, _HUGGING_FACE + "stabilityai/sdxl-vae/resolve/main/diffusion_pytorch_model.safetensors",
        "sdxl-vae.safetensors", "MIT", 335_000_000, 0.13025,
    ),
}  # fmt: skip


def fetch_published(name, directory=DOWNLOADS, sha256=None):
    """The path of a published file, which is downloaded if it is not in the directory yet; see `download`."""
    print(described(name), flush=True)
    published = PUBLISHED[name]
    return download(published.address, os.path.join(os.path.expanduser(directory), published.file), sha256)


def described(name):
    """One line for people, to be read before anything is fetched."""
    row = PUBLISHED[name]
    size = f", {row.size / 1e6:,.0f} MB" if row.size else ""
    return f"{name}: {row.what}; licence: {row.licence}{size}; {row.address}"
