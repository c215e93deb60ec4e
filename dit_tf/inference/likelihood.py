"""Bits per dimension of images by a model: which way there is to them, and a batch of them."""

import numpy as np
import tensorflow as tf

from dit_tf.samplers.likelihood import SOLVERS
from dit_tf.samplers.options import DEFAULT_STEPS

_TOLERANCE = 1e-5  # of dopri5, absolute and relative


def likelihood_method(config, num_steps=None, solver=None, atol=None, rtol=None):
    """The arguments of `build.make_likelihood`, None: its defaults; ValueError where they do not fit the model."""
    if config.objective == "ddpm":
        if solver is not None:
            raise ValueError(f"--solver goes with models trained with --objective=flow, got {solver!r}.")
        steps = config.num_timesteps if num_steps is None else num_steps
        if not 1 <= steps <= config.num_timesteps:
            raise ValueError(f"--num_steps must be from 1 to {config.num_timesteps}, got {steps}.")
        return dict(num_steps=steps)
    solver = solver or SOLVERS[0]
    if solver not in SOLVERS:
        raise ValueError(f"--solver must be one of {', '.join(SOLVERS)}, got {solver!r}.")
    if solver != "dopri5":
        steps = DEFAULT_STEPS["ode"] if num_steps is None else num_steps
        if steps < 1:
            raise ValueError(f"--num_steps must be at least 1, got {steps}.")
        return dict(solver=solver, num_steps=steps)
    if num_steps is not None:
        raise ValueError(f"--num_steps goes with --solver=heun or euler; dopri5 chooses, got {num_steps}.")
    atol, rtol = (_TOLERANCE if value is None else value for value in (atol, rtol))
    if not (atol > 0 and rtol > 0):
        raise ValueError(f"--atol and --rtol must be positive, got {atol} and {rtol}.")
    return dict(solver=solver, atol=atol, rtol=rtol)


def matched(title, classes, model_classes):
    """int64 (K,): the label that each class of a data set has in a model, see `ClassTable.labels_in`."""
    labels = classes.labels_in(model_classes, title)
    if model_classes.by_number and classes != model_classes:
        print(f"The model knows its classes by number alone: class i of {title} is taken for label i.")
    return labels


def evaluated(likelihood, shared, examples, labels, seed, size, first, wanted):
    """{"bits_per_dim", "evaluations"} of the first `wanted` images of a batch, filled up to its static size."""
    fill = np.arange(size) % len(examples)
    bits, evaluations, finished = likelihood(
        shared, tf.constant(examples[fill]), tf.constant(labels[fill], tf.int32), tf.constant(seed, tf.int64),
        tf.range(first, first + size),
    )  # fmt: skip
    if not finished.numpy()[:wanted].all():
        raise ValueError(
            "--solver=dopri5 did not reach the end: its steps became too many or too small; raise --atol and --rtol, "
            "or take --solver=heun."
        )
    return {"bits_per_dim": bits.numpy()[:wanted].tolist(), "evaluations": evaluations.numpy()[:wanted].tolist()}
