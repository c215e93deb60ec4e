"""Shorter chains through a subset of the timesteps (Nichol & Dhariwal 2021, arXiv:2102.09672, section 4)."""

import itertools

import numpy as np


def space_timesteps(num_timesteps, respacing):
    """The timesteps to keep, ascending, as an int64 array.

    ""           all of them
    "250"        250, spread evenly from the first to the last: fractional strides, rounded
    "10,10,30"   as many sections of equal size (the first ones take the remainder), each spread evenly over itself
    "ddim50"     50 at an integer stride from 0 (Song et al. 2021, arXiv:2010.02502)

    ValueError where a section has fewer steps than are asked of it, no integer stride gives the number, or the text
    is none of these forms.
    """
    if not respacing:
        return np.arange(num_timesteps)
    if respacing.startswith("ddim"):
        return _integer_stride(num_timesteps, _count(respacing.removeprefix("ddim"), respacing))
    counts = [_count(text, respacing) for text in respacing.split(",")]
    size, remainder = divmod(num_timesteps, len(counts))
    kept, start = [], 0
    for i, count in enumerate(counts):
        section = size + (i < remainder)
        kept += [start + offset for offset in _fractional_stride(section, count)]
        start += section
    return np.array(kept)


def shifted_timesteps(num_timesteps, count, shift):
    """`count` timesteps, ascending, as an int64 array: evenly spread, then moved towards noise.

    Equation 23 of Esser et al. 2024 (arXiv:2403.03206) for u = t / (T - 1): u' = shift u / (1 + (shift - 1) u), which
    keeps both ends. Shift 1 is `space_timesteps`, above 1 the steps are denser at noise, below 1 at data.
    ValueError unless shift is positive and finite and the timesteps differ after rounding.
    """
    if not 0 < shift < np.inf:
        raise ValueError(f"--timestep_shift must be positive and finite, got {shift}.")
    if shift == 1:
        return space_timesteps(num_timesteps, str(count))  # it rounds what ends in .5 as DiT does
    u = np.linspace(0.0, 1.0, count)
    kept = np.rint((num_timesteps - 1) * shift * u / (1 + (shift - 1) * u)).astype(np.int64)
    if (np.diff(kept) < 1).any():
        raise ValueError(
            f"--timestep_shift must leave timesteps that differ: of {count} only {len(np.unique(kept))} do with a "
            f"shift of {shift} on {num_timesteps}."
        )
    return kept


def respaced_betas(alphas_cumprod, kept):
    """(K,) float64: the betas of the chain through `kept`, which has the same alpha-bar at every step it keeps."""
    alpha_bar = np.asarray(alphas_cumprod)[kept]
    return 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])


def _integer_stride(num_timesteps, count):
    for stride in range(1, num_timesteps):  # the last leaves two timesteps, so that ddim1 has none (matches DiT)
        kept = np.arange(0, num_timesteps, stride)
        if len(kept) == count:
            return kept
    raise ValueError(f"no integer stride gives {count} of {num_timesteps} timesteps, respacing 'ddim{count}'")


def _fractional_stride(size, count):
    if count > size:
        raise ValueError(f"cannot take {count} timesteps from a section of {size}")
    stride = (size - 1) / max(count - 1, 1)
    # Summed one by one, not i * stride: positions that end in .5 then round as they do in DiT (matches DiT).
    return [round(position) for position in itertools.accumulate([stride] * (count - 1), initial=0.0)]


def _count(text, respacing):
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"respacing is '', a count, counts with commas, or 'ddim' and a count, got {respacing!r}")
    return int(text)
