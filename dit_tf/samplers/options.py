"""What a user may ask of a sampler, what is chosen where nothing is asked, and what does not go together."""

import dataclasses
import math

from dit_tf.samplers.sde import DIFFUSIONS, LAST_STEPS
from dit_tf.transport.transport import SAMPLE_EPS

SAMPLERS_OF = {"ddpm": ("ddpm", "ddim", "dpmpp", "ode"), "flow": ("ode", "sde")}  # by the objective of the training
SOLVERS_OF = {"ode": ("heun", "euler", "dopri5"), "sde": ("euler", "heun")}  # the first is the default
DEFAULT_STEPS = {"ddpm": 250, "ddim": 250, "dpmpp": 20, "ode": 125, "sde": 250}  # the paper's 250 evaluations
SAMPLERS = tuple(DEFAULT_STEPS)
_NORMED = tuple(form for form in DIFFUSIONS if form not in ("kl", "kl_eta"))
_OF_SDE = ("diffusion", "diffusion_norm", "diffusion_eta", "last_step", "last_step_size")


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
    sampler: str | None = None  # None: ddpm, or ode where the model was trained with --objective=flow
    num_steps: int | None = None  # None: DEFAULT_STEPS; dopri5 chooses its own
    solver: str | None = None  # of ode and sde; None: Heun and Euler-Maruyama
    eta: float = 0.0  # DDIM: 0 is deterministic, 1 has DDPM's noise
    diffusion: str = "sigma"  # of sde: its coefficient w(t)
    diffusion_norm: float = 1.0
    diffusion_eta: float = 0.01  # of --diffusion=kl_eta
    last_step: str = "mean"  # of sde
    last_step_size: float = 0.04
    timestep_shift: float = 1.0  # above 1: more of the steps near noise
    atol: float = 1e-6  # of dopri5, per row
    rtol: float = 1e-3
    cfg_scale: float = 1.0  # 1: no guidance, and half the work
    guided_channels: int | None = None  # None: 3 of the 4 channels of latents, all of pixels
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # from noise, 0, to data, 1

    def __post_init__(self):
        if self.sampler is not None:
            _one_of("sampler", self.sampler, SAMPLERS)
        _one_of("diffusion", self.diffusion, DIFFUSIONS)
        _one_of("last_step", self.last_step, LAST_STEPS)
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{name} must be a finite number, got {value}.")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"--eta must be from 0 to 1, got {self.eta}.")
        for name in ("cfg_scale", "diffusion_norm"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}.")
        for name in ("timestep_shift", "atol", "rtol", "diffusion_eta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be positive, got {getattr(self, name)}.")
        for name, forms in (("diffusion_norm", _NORMED), ("diffusion_eta", ("kl_eta",))):
            if self.diffusion not in forms:
                self._refuse([name], f"--diffusion={' or '.join(forms)}", f"--diffusion={self.diffusion}")
        longest = 1.0 - SAMPLE_EPS  # other steps may have to start this far from the end
        if not 0.0 < self.last_step_size < longest:
            raise ValueError(f"--last_step_size must be above 0 and below {longest}, got {self.last_step_size}.")
        low, high = self.guidance_interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"--guidance_interval must be LOW,HIGH with 0 <= LOW < HIGH <= 1, got {low},{high}.")

    @property
    def guided(self):
        return self.cfg_scale != 1.0

    @property
    def guided_all_the_way(self):
        return self.guidance_interval == (0.0, 1.0)

    def resolved(self, process, codec, null_label):
        """These options with every None filled in; ValueError where the trained model cannot be sampled like this."""
        sampler = self.sampler or SAMPLERS_OF[process.objective][0]
        if sampler not in SAMPLERS_OF[process.objective]:
            raise ValueError(
                f"--sampler must be one of {', '.join(SAMPLERS_OF[process.objective])} for a model trained with "
                f"--objective={process.objective}, got {sampler!r}."
            )
        for names, samplers in ((["eta"], ("ddim",)), (_OF_SDE, ("sde",)), (["solver"], tuple(SOLVERS_OF))):
            if sampler not in samplers:
                self._refuse(names, f"--sampler={' or '.join(samplers)}", f"--sampler={sampler}")
        solver = self._solver_of(sampler)
        num_steps = self._num_steps_of(sampler, solver, process)
        if self.guided and null_label is None:
            raise ValueError(
                f"--cfg_scale={self.cfg_scale} needs a model trained with label dropout; this one has no null class, "
                "so only --cfg_scale=1 is possible."
            )
        if self.guided_channels is not None and not 1 <= self.guided_channels <= codec.channels:
            raise ValueError(f"--guided_channels must be from 1 to {codec.channels}, got {self.guided_channels}.")
        guided_channels = self.guided_channels or codec.guided_channels
        return dataclasses.replace(
            self, sampler=sampler, solver=solver, num_steps=num_steps, guided_channels=guided_channels
        )

    def _refuse(self, names, needed, given):
        """ValueError where one of these options, which go with `needed`, is asked for beside `given`."""
        for name in names:
            value = getattr(self, name)
            if value != getattr(SamplerOptions, name):
                raise ValueError(f"--{name} goes with {needed}, got --{name}={value} with {given}.")

    def _solver_of(self, sampler):
        if sampler not in SOLVERS_OF:
            return None
        if self.solver is None:
            return SOLVERS_OF[sampler][0]
        if self.solver not in SOLVERS_OF[sampler]:
            known = ", ".join(SOLVERS_OF[sampler])
            raise ValueError(f"--solver must be one of {known} for --sampler={sampler}, got {self.solver!r}.")
        return self.solver

    def _num_steps_of(self, sampler, solver, process):
        if solver == "dopri5":
            chosen = "--solver=dopri5, which chooses its own by --atol and --rtol"
            self._refuse(["num_steps", "timestep_shift"], "solvers of fixed steps", chosen)
            return None
        self._refuse(["atol", "rtol"], "--solver=dopri5", f"--solver={solver}" if solver else f"--sampler={sampler}")
        num_steps = DEFAULT_STEPS[sampler] if self.num_steps is None else self.num_steps
        least = 2 if sampler == "sde" and self.last_step != "none" else 1
        if process.objective == "ddpm" and not 1 <= num_steps <= process.num_timesteps:
            raise ValueError(f"--num_steps must be from 1 to {process.num_timesteps}, got {num_steps}.")
        if num_steps < least:
            raise ValueError(f"--num_steps must be at least {least}, got {num_steps}.")
        return num_steps


def _one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"--{name} must be one of {', '.join(allowed)}, got {value!r}.")
