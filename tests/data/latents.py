"""The specification of latents that tests begin with: 45 records in 5 shards."""

from dit_tf.data import latent_spec
from dit_tf.data.class_names import numbered

SPEC = latent_spec.LatentSpec(
    dataset="folder:photos",
    split="train",
    num_examples=45,
    classes=numbered(3),
    image_size=16,
    crop="fast",
    vae_sha256="ab" * 32,
    precision="float32",
    scaling_factor=0.18215,
    moments_shape=(2, 2, 8),
    moments_dtype="bfloat16",
    mirrored=True,
    examples_per_shard=10,
)
