"""DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): two steps' clean images, one evaluation a step."""

import numpy as np

from dit_tf.samplers.loop import Recurrence


def dpm_solver_pp(process):
    """`Recurrence` of T = process.num_timesteps evaluations, from chain index T - 1 to the clean image; k = D.

    With alpha = sqrt(abar), sigma = sqrt(1 - abar), lambda = log(alpha / sigma), and D predicted at the step's start a,

        x_b = (sigma_b / sigma_a) x_a - alpha_b (e^-h - 1) ((1 + 1 / (2 r)) D - 1 / (2 r) D_before)
        h = lambda_b - lambda_a        r = h_before / h

    The first step has no D_before and takes D alone (first order, as DDIM), and so does the last, where h is infinite:
    it gives D itself. The memory is D_before. Run it with `probability_flow.denoise`.
    """
    s, T = process.schedule, process.num_timesteps
    at, below = s.alphas_cumprod[::-1], s.alphas_cumprod_prev[::-1]
    shrink = np.sqrt((1 - below) / (1 - at))
    gain = np.sqrt(below) - np.sqrt(at) * shrink  # -alpha_b (e^-h - 1), finite where h is not
    h = np.diff(0.5 * np.log(at / (1 - at)))
    half = np.zeros(T)  # 1 / (2 r)
    half[1:-1] = h[1:] / (2 * h[:-1])

    zero, one = np.zeros(T), np.ones(T)
    x = [shrink, -gain * half, gain * (1 + half), zero]
    memory = [zero, zero, one, zero]
    return Recurrence(
        time=np.arange(T - 1.0, -1.0, -1.0),
        field=np.stack([zero, one], axis=-1),
        update=np.moveaxis(np.array([x, memory]), -1, 0),
        draw=np.zeros(T, np.int32),
        kick=np.zeros(()),
    )
