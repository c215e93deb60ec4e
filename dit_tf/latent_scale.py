"""How an autoencoder's latents are brought to a deviation near 1, which is what a model diffuses."""

import dataclasses
import math

FIELDS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")  # as diffusers' config.json has them
STABLE_DIFFUSION = 0.18215
CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class LatentScale:
    """x = (z - shift_factor - latents_mean) scaling_factor / latents_std, for latents z; the names and the formula are
    those of diffusers' pipelines. latents_mean, latents_std: one number a channel, or empty: 0 and 1.

    ValueError for numbers that are not finite, factors that are not positive, and lists of another length.
    """

    scaling_factor: float = STABLE_DIFFUSION
    shift_factor: float = 0.0
    latents_mean: tuple = ()
    latents_std: tuple = ()

    def __post_init__(self):
        for name in FIELDS:
            value = getattr(self, name)
            numbers = value if isinstance(value, (list, tuple)) else (value,)
            if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
                raise ValueError(f"{name} must be finite, got {value!r:.80}")
            if name in ("scaling_factor", "latents_std") and not all(number > 0 for number in numbers):
                raise ValueError(f"{name} must be positive, got {value!r:.80}")
            is_list, for_channels = isinstance(value, (list, tuple)), name.startswith("latents")
            if for_channels and not (is_list and len(numbers) in (0, CHANNELS)) or is_list and not for_channels:
                wanted = f"{CHANNELS} numbers" if for_channels else "one"
                raise ValueError(f"{name} must be {wanted}, got {value!r:.80}")
            object.__setattr__(self, name, tuple(map(float, value)) if for_channels else float(value))

    @classmethod
    def of(cls, fields):
        """From a mapping that may have some of FIELDS, and others; None there is the default."""
        return cls(**{name: fields[name] for name in FIELDS if fields.get(name) is not None})

    @property
    def fields(self):
        """{name: value} of all four, as JSON holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @property
    def offset(self):
        """Of latents: a number, or one for each channel."""
        if not self.latents_mean:
            return self.shift_factor
        return tuple(self.shift_factor + mean for mean in self.latents_mean)

    @property
    def factor(self):
        """By which latents less their offset are multiplied: a number, or one for each channel."""
        if not self.latents_std:
            return self.scaling_factor
        return tuple(self.scaling_factor / std for std in self.latents_std)

    def __str__(self):
        """"scaling_factor 0.13025", and the others where they change something."""
        shown = [f"{n} {getattr(self, n)}" for n in FIELDS if n == FIELDS[0] or getattr(self, n) != getattr(_PLAIN, n)]
        return ", ".join(shown)


_PLAIN = LatentScale()
