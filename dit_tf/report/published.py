"""The numbers of the paper (Peebles and Xie 2023, arXiv:2212.09748) and of SiT (Ma et al. 2024, arXiv:2401.08740) that
a report shows beside its own. The paper's "Gflops" are multiply-adds of one forward pass of one image.
"""

from typing import NamedTuple


class Trained(NamedTuple):
    model: str
    image_size: int
    gflops: float
    parameters: int  # millions
    steps: int  # thousands
    block: str
    fid: float  # FID-50K without guidance, ft-MSE decoder


class Scored(NamedTuple):
    model: str
    fid: float
    sfid: float | None
    inception_score: float
    precision: float | None
    recall: float | None


class Unet(NamedTuple):
    model: str
    image_size: int
    base: int  # G multiply-adds
    upsampler: int | None
    total: int


# ImageNet 256 x 256, ft-EMA decoder
TABLE_2 = (
    Scored("BigGAN-deep", 6.95, 7.36, 171.4, 0.87, 0.28),
    Scored("StyleGAN-XL", 2.30, 4.02, 265.12, 0.78, 0.53),
    Scored("ADM", 10.94, 6.02, 100.98, 0.69, 0.63),
    Scored("ADM-U", 7.49, 5.13, 127.49, 0.72, 0.63),
    Scored("ADM-G", 4.59, 5.25, 186.70, 0.82, 0.52),
    Scored("ADM-G, ADM-U", 3.94, 6.14, 215.84, 0.83, 0.53),
    Scored("CDM", 4.88, None, 158.71, None, None),
    Scored("LDM-8", 15.51, None, 79.03, 0.65, 0.63),
    Scored("LDM-8-G", 7.76, None, 209.52, 0.84, 0.35),
    Scored("LDM-4", 10.56, None, 103.49, 0.71, 0.62),
    Scored("LDM-4-G (cfg=1.25)", 3.95, None, 178.22, 0.81, 0.55),
    Scored("LDM-4-G (cfg=1.50)", 3.60, None, 247.67, 0.87, 0.48),
    Scored("DiT-XL/2", 9.62, 6.85, 121.50, 0.67, 0.67),
    Scored("DiT-XL/2-G (cfg=1.25)", 3.22, 5.28, 201.77, 0.76, 0.62),
    Scored("DiT-XL/2-G (cfg=1.50)", 2.27, 4.60, 278.24, 0.83, 0.57),
)

# ImageNet 512 x 512, ft-EMA decoder; precision and recall from 1,000 real images
TABLE_3 = (
    Scored("BigGAN-deep", 8.43, 8.13, 177.90, 0.88, 0.29),
    Scored("StyleGAN-XL", 2.41, 4.06, 267.75, 0.77, 0.52),
    Scored("ADM", 23.24, 10.19, 58.06, 0.73, 0.60),
    Scored("ADM-U", 9.96, 5.62, 121.78, 0.75, 0.64),
    Scored("ADM-G", 7.72, 6.57, 172.71, 0.87, 0.42),
    Scored("ADM-G, ADM-U", 3.85, 5.86, 221.72, 0.84, 0.53),
    Scored("DiT-XL/2", 12.03, 7.12, 105.25, 0.75, 0.64),
    Scored("DiT-XL/2-G (cfg=1.25)", 4.64, 5.77, 174.77, 0.81, 0.57),
    Scored("DiT-XL/2-G (cfg=1.50)", 3.04, 5.02, 240.82, 0.84, 0.54),
)

TABLE_4 = (
    Trained("DiT-S/8", 256, 0.36, 33, 400, "adaln_zero", 153.60),
    Trained("DiT-S/4", 256, 1.41, 33, 400, "adaln_zero", 100.41),
    Trained("DiT-S/2", 256, 6.06, 33, 400, "adaln_zero", 68.40),
    Trained("DiT-B/8", 256, 1.42, 131, 400, "adaln_zero", 122.74),
    Trained("DiT-B/4", 256, 5.56, 130, 400, "adaln_zero", 68.38),
    Trained("DiT-B/2", 256, 23.01, 130, 400, "adaln_zero", 43.47),
    Trained("DiT-L/8", 256, 5.01, 459, 400, "adaln_zero", 118.87),
    Trained("DiT-L/4", 256, 19.70, 458, 400, "adaln_zero", 45.64),
    Trained("DiT-L/2", 256, 80.71, 458, 400, "adaln_zero", 23.33),
    Trained("DiT-XL/8", 256, 7.39, 676, 400, "adaln_zero", 106.41),
    Trained("DiT-XL/4", 256, 29.05, 675, 400, "adaln_zero", 43.01),
    Trained("DiT-XL/2", 256, 118.64, 675, 400, "adaln_zero", 19.47),
    Trained("DiT-XL/2", 256, 119.37, 449, 400, "in_context", 35.24),
    Trained("DiT-XL/2", 256, 137.62, 598, 400, "cross_attention", 26.14),
    Trained("DiT-XL/2", 256, 118.56, 600, 400, "adaln", 25.21),
    Trained("DiT-XL/2", 256, 118.64, 675, 2352, "adaln_zero", 10.67),
    Trained("DiT-XL/2", 256, 118.64, 675, 7000, "adaln_zero", 9.62),
    Trained("DiT-XL/2", 512, 524.60, 675, 1301, "adaln_zero", 13.78),
    Trained("DiT-XL/2", 512, 524.60, 675, 3000, "adaln_zero", 11.93),
)

TABLE_6 = (
    Unet("ADM", 128, 307, None, 307),
    Unet("ADM", 256, 1120, None, 1120),
    Unet("ADM", 512, 1983, None, 1983),
    Unet("ADM-U", 256, 110, 632, 742),
    Unet("ADM-U", 512, 307, 2506, 2813),
    Unet("LDM-4", 256, 104, None, 104),
    Unet("LDM-8", 256, 57, None, 57),
)

SIT_XL_2_ODE, SIT_XL_2_SDE = 2.15, 2.06  # FID-50K of SiT-XL/2 at 256 x 256, guidance 1.5


def counts():
    """{(model, block, image_size): (parameters in millions, Gflops)} of table 4."""
    return {(row.model, row.block, row.image_size): (row.parameters, row.gflops) for row in TABLE_4}


def twelve():
    """The rows of table 4 that figure 8 draws: every size and patch at 400k steps."""
    return [row for row in TABLE_4 if (row.block, row.image_size, row.steps) == ("adaln_zero", 256, 400)]
