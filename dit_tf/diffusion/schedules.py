"""The noise schedule of DDPM (Ho et al. 2020, arXiv:2006.11239) as float64 NumPy tables.

    q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t)        alpha-bar_t = prod_{s <= t} (1 - beta_s)

Steps are counted from 0, as arrays are: index t here is t + 1 in the paper, and alpha-bar before step 0 is 1.
"""

import dataclasses

import numpy as np


def linear_betas(num_timesteps=1000):
    """(T,) float64: from 1e-4 to 2e-2 in 1000 steps; other T scale both ends by 1000 / T, so that the sum stays."""
    if num_timesteps <= 20:
        raise ValueError(f"the linear schedule needs more than 20 timesteps to keep betas below 1, got {num_timesteps}")
    scale = 1000 / num_timesteps
    return np.linspace(scale * 1e-4, scale * 2e-2, num_timesteps)


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Everything that follows from the betas; every field is (T,) float64, indexed by t.

    posterior_*: q(x_{t-1} | x_t, x_0) = N(coef1 x_0 + coef2 x_t, variance), equations 6 and 7 of the paper.
    """

    betas: np.ndarray
    log_betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray  # starts with 1: x_0 itself
    alphas_cumprod_next: np.ndarray  # ends with 0: nothing but noise
    sqrt_alphas_cumprod: np.ndarray
    sqrt_one_minus_alphas_cumprod: np.ndarray
    log_one_minus_alphas_cumprod: np.ndarray
    sqrt_recip_alphas_cumprod: np.ndarray
    sqrt_recipm1_alphas_cumprod: np.ndarray
    posterior_variance: np.ndarray  # 0 at t = 0
    posterior_log_variance_clipped: np.ndarray  # the entry of t = 1 stands in at t = 0, where the logarithm is -inf
    posterior_mean_coef1: np.ndarray
    posterior_mean_coef2: np.ndarray

    @classmethod
    def from_betas(cls, betas):
        """The tables of a schedule. ValueError unless betas are one-dimensional and inside (0, 1)."""
        betas = np.asarray(betas, np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise ValueError(f"betas must be a vector of at least one step, got shape {betas.shape}")
        if not ((betas > 0) & (betas < 1)).all():
            raise ValueError(f"betas must lie inside (0, 1), got {betas.min()} to {betas.max()}")
        alpha_bar = np.cumprod(1 - betas)
        before, after = np.append(1.0, alpha_bar[:-1]), np.append(alpha_bar[1:], 0.0)
        variance = betas * (1 - before) / (1 - alpha_bar)
        # A chain of one step has no second entry; its only positive variance is beta itself.
        positive = np.append(variance[1:2] if betas.size > 1 else betas, variance[1:])
        return cls(
            betas=betas,
            log_betas=np.log(betas),
            alphas_cumprod=alpha_bar,
            alphas_cumprod_prev=before,
            alphas_cumprod_next=after,
            sqrt_alphas_cumprod=np.sqrt(alpha_bar),
            sqrt_one_minus_alphas_cumprod=np.sqrt(1 - alpha_bar),
            log_one_minus_alphas_cumprod=np.log(1 - alpha_bar),
            sqrt_recip_alphas_cumprod=np.sqrt(1 / alpha_bar),
            sqrt_recipm1_alphas_cumprod=np.sqrt(1 / alpha_bar - 1),
            posterior_variance=variance,
            posterior_log_variance_clipped=np.log(positive),
            posterior_mean_coef1=betas * np.sqrt(before) / (1 - alpha_bar),
            posterior_mean_coef2=np.sqrt(1 - betas) * (1 - before) / (1 - alpha_bar),
        )

    @property
    def num_timesteps(self):
        return len(self.betas)
