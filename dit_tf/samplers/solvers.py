"""From options to a solver: the function that runs in the compiled program, and the numbers that it runs on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dit_tf.diffusion.respace import shifted_timesteps
from dit_tf.samplers import dpm_solver, ode, probability_flow, sde
from dit_tf.samplers.ddim import ddim
from dit_tf.samplers.ddpm import ddpm
from dit_tf.samplers.dopri5 import dopri5
from dit_tf.samplers.loop import run_recurrence


class Work(NamedTuple):
    """What a row's image has cost: function evaluations and rejected steps, (N,) int32, and whether it was reached,
    (N,) bool; only an adaptive solver rejects or gives up."""

    evaluations: tf.Tensor
    rejected: tf.Tensor
    finished: tf.Tensor


class Solver(NamedTuple):
    """run(values, model_fn, x, seeds) -> (x, Work), from noise x to data.

    values: arrays that enter the compiled program as arguments; others of the same shapes need no compilation.
    evaluations: of the model per image, or None where it is known only afterwards.
    """

    run: Callable
    values: Any
    evaluations: int | None


def make_solver(process, options, clip_denoised):
    """options: resolved. clip_denoised: hold a DDPM model's clean images inside [-1, 1]."""
    if options.solver == "dopri5":
        return _adaptive(process, options, clip_denoised)
    if process.objective == "flow":
        table = _flow_table(process, options)

        def derivative_of(model_fn):
            return ode.velocity_table(process, model_fn)

        return _tabled(derivative_of, table, stochastic=options.sampler == "sde")
    kept = shifted_timesteps(process.num_timesteps, options.num_steps, options.timestep_shift)
    chain = process.keeping(kept)
    if options.sampler in ("ddpm", "ddim"):
        return _chained(chain, options, clip_denoised)

    def derivative_of(model_fn):
        return probability_flow.denoise(chain, model_fn, clip_denoised)

    return _tabled(derivative_of, _chain_table(chain, options), stochastic=False)


def _chain_table(chain, options):
    if options.sampler == "dpmpp":
        return dpm_solver.dpm_solver_pp(chain)
    return (probability_flow.euler if options.solver == "euler" else probability_flow.heun)(chain)


def _flow_table(transport, options):
    if options.sampler == "ode":
        t = ode.time_grid(transport.ode_interval, options.num_steps, options.timestep_shift)
        return (ode.euler if options.solver == "euler" else ode.heun)(transport, t)

    def w(t):
        return sde.diffusion(options.diffusion, transport.path, t, options.diffusion_norm, options.diffusion_eta)

    last = options.last_step, options.last_step_size
    t = sde.sde_times(transport, options.diffusion, options.num_steps, *last, options.timestep_shift)
    return (sde.euler_maruyama if options.solver == "euler" else sde.heun)(transport, t, w, *last)


def _tabled(derivative_of, table, stochastic):
    def run(values, model_fn, x, seeds):
        x = run_recurrence(derivative_of(model_fn), x, values, seeds if stochastic else None)
        return x, _fixed(x, values.evaluations)

    return Solver(run, table.cast(), table.evaluations)


def _chained(chain, options, clip_denoised):
    def run(values, model_fn, x, seeds):
        if options.sampler == "ddpm":
            x = ddpm(chain, model_fn, x, seeds, clip_denoised=clip_denoised)
        else:
            x = ddim(chain, model_fn, x, seeds, eta=options.eta, clip_denoised=clip_denoised)
        return x, _fixed(x, chain.num_timesteps)

    return Solver(run, (), chain.num_timesteps)


def _adaptive(process, options, clip_denoised):
    tolerances = np.float32([options.atol, options.rtol])

    def run(values, model_fn, x, seeds):
        def solve(derivative, x, start, end):
            return dopri5(derivative, x, start, end, atol=values[0], rtol=values[1])

        if process.objective == "flow":
            solution = solve(ode.velocity(process, model_fn), x, *process.ode_interval)
            return solution.x, Work(solution.evaluations, solution.rejected, solution.finished)
        x, solution = probability_flow.adaptive_flow(process, model_fn, x, solve, clip_denoised)
        return x, Work(solution.evaluations + 1, solution.rejected, solution.finished)  # one more for the last step

    return Solver(run, tolerances, None)


def _fixed(x, evaluations):
    rows = tf.shape(x)[:1]
    return Work(tf.fill(rows, evaluations), tf.zeros(rows, tf.int32), tf.fill(rows, True))
