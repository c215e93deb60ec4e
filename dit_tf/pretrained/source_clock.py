"""Flow models whose time runs the other way, made into SiT's: noise at time 0, data at 1.

Where a file's time s is 1 at noise, s = 1 - t, and its velocity, noise less data, has the other sign. Both are linear
in weights: the sinusoid of 1 - t is that of t, turned by each frequency's angle, and the last layer is negated. So the
turned network needs no word about clocks; sampling, likelihood and further training are those of any SiT.
"""

import numpy as np

from dit_tf.pretrained.dit_map import Lazy, as_official

CLOCKS = ("noise_at_0", "noise_at_1")
_EXPAND, _LAST = "t_embedder.mlp.0.weight", ("final_layer.linear.weight", "final_layer.linear.bias")


def turned(state, prediction, frequencies):
    """A state of either layout whose time is 1 at noise -> the official state of the same network by SiT's clock.

    prediction: what it gives; a velocity changes its sign, noise and score do not. frequencies: (half,), those of the
    timestep's sinusoid, cosines first.
    """
    official = as_official(state)
    arrays = {name: lambda name=name: official[name] for name in official}
    arrays[_EXPAND] = lambda: _of_one_minus(np.asarray(official[_EXPAND]), frequencies)
    if prediction == "velocity":
        for name in _LAST:
            arrays[name] = lambda name=name: -np.asarray(official[name])
    return Lazy(arrays)


def _of_one_minus(weight, frequencies):
    """W (D, 2 half) -> V with V [cos wt, sin wt] = W [cos w(1 - t), sin w(1 - t)]."""
    half = len(frequencies)
    if weight.ndim != 2 or weight.shape[1] != 2 * half:
        raise ValueError(f"{_EXPAND} must have shape (D, {2 * half}), got {weight.shape}.")
    cosine, sine = np.cos(frequencies, dtype=np.float64), np.sin(frequencies, dtype=np.float64)
    of_cos, of_sin = weight[:, :half].astype(np.float64), weight[:, half:].astype(np.float64)
    both = np.concatenate([of_cos * cosine + of_sin * sine, of_cos * sine - of_sin * cosine], axis=1)
    return both.astype(np.float32)
