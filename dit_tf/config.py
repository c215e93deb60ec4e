"""RunConfig: what a training is, as opposed to how long or where it runs. It lies beside every checkpoint."""

import dataclasses
import json
import math
import re

from dit_tf.latent_scale import STABLE_DIFFUSION, LatentScale

OBJECTIVES = ("ddpm", "flow")
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # --precision -> Keras' name for it
PRECISIONS = tuple(POLICIES)
CODECS = ("pixels", "haar", "vae")
CROPS = ("fast", "pil")
FOLDER_READINGS = (1, 2)
SCHEDULES = ("constant", "linear", "cosine")
RESUMABLE = (  # what --resume_with may name
    "learning_rate", "weight_decay", "clip_norm", "ema_decay", "ema_decays", "ema_stds", "global_batch_size",
)  # fmt: skip
FORMAT = 2  # of run.json; 1 is that of version 0.1.0, which has no number
MOST_SEED = 2**63 - 1  # of the flags; version 0.1.0 took those below 0 too
_LISTS = ("ema_decays", "ema_stds")
_LARGEST_STD = 12**-0.5  # of the mean of all steps, each with the same share
_FLOW_FIELDS = ("path", "prediction", "loss_weight", "time_distribution")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    dataset: str = "digits"
    split: str = "train"
    data_digest: str = ""  # SHA-256 of what the split holds (`Source.digest`); empty: not recorded, as in format 1
    folder_reading: int = 1  # of folder:DIR, how its images are found and decoded: 1 as in version 0.1.0, see `folder`
    image_size: int = 8  # pixels; images are square
    channels: int = 1
    num_classes: int = 10
    horizontal_flip: bool = False
    crop: str = "fast"
    codec: str = "pixels"  # what the model diffuses: pixels, their Haar bands, or latents of the autoencoder
    vae_sha256: str = ""  # of its encoder; empty: not known, as with published weights
    scaling_factor: float = STABLE_DIFFUSION  # of latents, like the three below: see `LatentScale`
    shift_factor: float = 0.0
    latents_mean: tuple = ()
    latents_std: tuple = ()
    init_from: str = ""  # SHA-256 of the weights that training began with; empty: random ones

    model: str = "DiT-Ti/2"
    block: str = "adaln_zero"
    qk_norm: bool = False  # of every attention
    class_dropout_prob: float = 0.1
    learn_sigma: bool = True  # with --objective=flow the doubled channels are unused, as in the released SiTs
    precision: str = "float32"  # of the products; weights, norms, softmax, loss and EMA are float32 in any case

    objective: str = "ddpm"
    num_timesteps: int = 1000
    path: str = "linear"  # of --objective=flow, like the three below
    prediction: str = "velocity"
    loss_weight: str = "none"
    time_distribution: str = "uniform"

    global_batch_size: int = 256
    learning_rate: float = 1e-4  # the highest, where there is a schedule
    warmup_steps: int = 0
    schedule: str = "constant"
    schedule_steps: int = 0  # the step at which linear and cosine have come down to 0; of constant 0
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # of the gradients of all weights together; 0: not clipped
    ema_decay: float = 0.9999  # of the average that samples are drawn from
    ema_decays: tuple = ()  # of exponential averages beside it
    ema_stds: tuple = ()  # relative widths of power-function averages beside it
    seed: int = 0

    def __post_init__(self):
        _one_of("objective", self.objective, OBJECTIVES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("codec", self.codec, CODECS)
        _one_of("crop", self.crop, CROPS)
        _one_of("schedule", self.schedule, SCHEDULES)
        _inside("class_dropout_prob", self.class_dropout_prob, 0.0, 1.0)
        _inside("ema_decay", self.ema_decay, 0.0, 1.0)
        for name in _LISTS:
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        for decay in self.ema_decays:
            _inside("ema_decays", decay, 0.0, 1.0)
        if self.ema_decay in self.ema_decays:
            raise ValueError(f"--ema_decays has {self.ema_decay}, which is --ema_decay: leave it out.")
        for std in self.ema_stds:
            if not 0.0 < std < _LARGEST_STD:
                raise ValueError(f"--ema_stds must be above 0 and below {_LARGEST_STD:.4f}, got {std}.")
        if self.objective != "flow":
            for name in _FLOW_FIELDS:
                if getattr(self, name) != getattr(RunConfig, name):
                    raise ValueError(
                        f"--{name} goes with --objective=flow, got --{name}={getattr(self, name)} with "
                        f"--objective={self.objective}."
                    )
        for name, value in dataclasses.asdict(self.latent_scale).items():
            object.__setattr__(self, name, value)
        if self.learning_rate <= 0:
            raise ValueError(f"--learning_rate must be positive, got {self.learning_rate}.")
        if self.warmup_steps < 0:
            raise ValueError(f"--warmup_steps must be at least 0, got {self.warmup_steps}.")
        if self.schedule == "constant" and self.schedule_steps:
            raise ValueError(f"--schedule_steps goes with --schedule=linear or cosine, got {self.schedule_steps}.")
        if self.schedule != "constant" and self.schedule_steps <= self.warmup_steps:
            raise ValueError(
                f"--schedule_steps must be more than --warmup_steps ({self.warmup_steps}), got {self.schedule_steps}."
            )
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{name} must be a finite number, got {value}.")
        if self.data_digest and not re.fullmatch("[0-9a-f]{64}", self.data_digest):
            raise ValueError(f"data_digest must be 64 hexadecimal digits, got {self.data_digest[:80]!r}.")
        if self.folder_reading not in FOLDER_READINGS:
            raise ValueError(f"folder_reading must be one of {FOLDER_READINGS}, got {self.folder_reading}.")
        if self.clip_norm < 0:
            raise ValueError(f"--clip_norm must be positive, or 0 for none, got {self.clip_norm}.")
        if self.image_size < 1:
            raise ValueError(f"--image_size must be at least 1, got {self.image_size}.")

    @property
    def latent_scale(self):
        return LatentScale(self.scaling_factor, self.shift_factor, self.latents_mean, self.latents_std)

    def to_json(self):
        return json.dumps({"format": FORMAT} | dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text):
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"A configuration must be a JSON object, got a {type(fields).__name__}.")
        version = fields.pop("format", 1)
        if type(version) is not int or not 1 <= version <= FORMAT:
            raise ValueError(f"The configuration has format {version!r}; this version reads 1 to {FORMAT}.")
        unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"The configuration has fields that this version does not know: {', '.join(unknown)}.")
        for name, value in fields.items():
            kinds = {float: (int, float), tuple: (list,)}.get(type(getattr(cls, name)), (type(getattr(cls, name)),))
            if type(value) not in kinds:
                raise ValueError(f"{name} of the configuration must be of type {kinds[-1].__name__}, got {value!r}.")
        return cls(**fields)

    def differences(self, other):
        """["--name is a here and b there", ...] over the fields in which two configurations differ."""
        mine, theirs = ({n: _as_flag(v) for n, v in dataclasses.asdict(c).items()} for c in (self, other))
        return [f"--{name}={mine[name]} here, {theirs[name]} there" for name in self.changed(other)]

    def changed(self, other):
        """The names of the fields in which two configurations differ."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [name for name in mine if mine[name] != theirs[name]]


def kind_of(dataset):
    """What follows --dataset=, without the path of folder: and latents:, which says where the data lie, not what."""
    prefix, colon, _ = dataset.partition(":")
    return f"{prefix}:" if colon and prefix in ("folder", "latents") else dataset


def _numbers(name, values):
    """Of a flag's texts or JSON's numbers, ascending, so that their order does not matter."""
    try:
        numbers = tuple(sorted(float(value) for value in values or ()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--{name} must be numbers with commas between them, got {_as_flag(values)!r}.") from error
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"--{name} must be different numbers, got {_as_flag(values)}.")
    return numbers


def _as_flag(value):
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {value!r}.")


def _inside(name, value, low, high):
    if not low <= value < high:
        raise ValueError(f"--{name} must be at least {low} and below {high}, got {value}.")
