"""Latents as fast-DiT's and LightningDiT's programs write them, and the x that those programs train on."""

import numpy as np
from safetensors.numpy import save_file

from dit_tf.pretrained.torch_pickle import write_torch

COUNT, SIDE = 11, 2  # images; 10.npy comes after 9.npy
LABELS = np.arange(COUNT) * 5 % 7  # int64, of 7 classes
_DRAWS = np.random.default_rng(0).normal(1.0, 5.5, (2, COUNT, 4, SIDE, SIDE)).astype(np.float32)
Z, FLIPS = _DRAWS  # of an autoencoder as they are, not scaled: 5.5 is Stable Diffusion's deviation
STATISTICS = {
    "mean": np.array([1.25, -0.5, 0.75, 2.0], np.float32).reshape(1, 4, 1, 1),
    "std": np.array([5.0, 5.5, 4.25, 6.0], np.float32).reshape(1, 4, 1, 1),
}
_SHARDS = {(0, 0): (0, 4), (0, 1): (4, 6), (1, 0): (6, 11)}  # (rank, shard): images


def write_fast_dit(directory, prefix="imagenet256_", z=Z):
    """-> the directory; a file for each image and for each label."""
    for kind in ("features", "labels"):
        (directory / f"{prefix}{kind}").mkdir(parents=True)
    for i in range(len(z)):
        np.save(directory / f"{prefix}features" / f"{i}.npy", z[i : i + 1] * np.float32(0.18215))
        np.save(directory / f"{prefix}labels" / f"{i}.npy", LABELS[i : i + 1])
    return directory


def write_lightning_dit(directory, flips=FLIPS, statistics=STATISTICS, dtype=np.float32):
    """-> the directory; two ranks, of which one has two shards. flips, statistics: None for none."""
    directory.mkdir(parents=True)
    for (rank, shard), (first, end) in _SHARDS.items():
        arrays = dict(latents=Z[first:end].astype(dtype), labels=LABELS[first:end])
        if flips is not None:
            arrays["latents_flip"] = flips[first:end].astype(dtype)
        save_file(arrays, directory / shard_name(rank, shard))
    if statistics is not None:
        write_torch(directory / "latents_stats.pt", statistics)
    return directory


def shard_name(rank, shard):
    return f"latents_rank{rank:02d}_shard{shard:03d}.safetensors"


def normalised(z, multiplier=1.0):
    """What LightningDiT's data set gives with latent_norm: float32 (N, 4, h, h)."""
    return (z - STATISTICS["mean"]) / STATISTICS["std"] * np.float32(multiplier)
