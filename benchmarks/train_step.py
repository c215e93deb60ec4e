"""The train step beside diffusers' DiT in PyTorch, eager and compiled, at equal sizes in one run:

    python benchmarks/train_step.py --json=train_step.json
    python benchmarks/train_step.py --notorch                  # ours alone, which needs no extra

Both sides do the whole step: uint8 images, noise, forward, MSE and variational-bound loss, backward, AdamW, EMA. Ours
is the function that DiTTrainer.fit calls. AdamW is torch's fused one, the fastest that it has on a CPU.
"""

import math

import numpy as np
import side_by_side
import tensorflow as tf
from side_by_side import Case, Program

from dit_tf import build
from dit_tf.flags import run
from dit_tf.models.costs import training_flops

CASES = [
    Case("DiT-B/4", 32, 4, batch_size=8, calls=1),
    Case("DiT-Ti/2", 8, 1, batch_size=128, calls=20, num_classes=10),
]


def main(options):
    cases = side_by_side.cases_of(options, CASES)
    torch = side_by_side.import_torch() if options.torch else None

    def programs_of(case):
        rng, shape = np.random.default_rng(0), (case.batch_size, case.image_size, case.image_size, case.channels)
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        labels = rng.integers(0, case.num_classes, case.batch_size, dtype=np.int32)
        ours, flops = tensorflow_programs(case, images, labels)
        if torch is None:
            return ours
        return ours[:1] + torch_programs(torch, case, images, labels, flops, options.torch_compile) + ours[1:]

    side_by_side.run_cases(options, torch, cases, programs_of)


def tensorflow_programs(case, images, labels):
    """(programs, FLOPs of a step): the step that trains, and its two halves."""
    config = case.config()
    trainer = build.make_trainer(config, build.make_model(config), stop_step=2**31 - 1, steps_per_execution=case.calls)
    batch = tf.constant(images), tf.constant(labels), tf.range(case.batch_size)
    trainer.begin()
    train_function, batches = trainer.make_train_function(), iter(tf.data.Dataset.from_tensors(batch).repeat())
    flops = training_flops(trainer.model, case.batch_size)
    halves, seed, step = trainer.functions, tf.constant(0, tf.int64), tf.constant(0)
    compiled_gradients = tf.function(halves.loss_and_gradients, jit_compile=True, autograph=False)
    compiled_update = tf.function(halves.update, jit_compile=True, autograph=False)
    zeros, no_losses = [tf.zeros(v.shape) for v in trainer.variables_of.params], trainer.functions.zero_logs()
    no_losses.pop("grad_norm")  # update adds it

    def loop(body, start):
        """`calls` times body, in the graph as in training: from Python the call alone takes milliseconds."""

        @tf.function(autograph=False)
        def many(x):
            return tf.while_loop(lambda i, _: i < case.calls, body, (0, x), parallel_iterations=1)[1]

        return lambda: many(start())

    def weights(variables):
        return [tf.convert_to_tensor(v.value) for v in variables]

    def whole():
        float(train_function(batches)["loss"])

    loss_and_gradients = loop(
        lambda i, _: (i + 1, compiled_gradients(weights(trainer.variables_of.params), [], batch, seed, step + i)[1]),
        lambda: zeros,
    )
    apply = loop(
        lambda i, state: (i + 1, compiled_update(state, no_losses, zeros, step + i + 1)[0]),
        trainer.state,
    )

    def program(name, function, beside, flops=None):
        return Program(name, function, beside, case.calls, flops)

    return [
        program("dit_tf", whole, "torch eager", flops),
        program("dit_tf: loss and gradients", loss_and_gradients, "torch: loss and gradients", flops),
        program("dit_tf: AdamW and EMA", apply, "torch: AdamW and EMA"),
    ], flops


def torch_programs(torch, case, images, labels, flops, with_compiled):
    """The same step through diffusers' model."""
    config = case.config()
    model = side_by_side.diffusers_dit(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    ema = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema_decay)
    )
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(labels).long()
    process = build.make_process(config)

    def network(x_t, t):
        return model(x_t, t, labels, return_dict=False)[0]

    loss = diffusion_loss(torch, process.schedule)

    def backward(compute):
        optimizer.zero_grad()
        compute(network, images).backward()

    def update():
        optimizer.step()
        ema.update_parameters(model)

    def whole(compute):
        backward(compute)
        update()

    def program(name, function, beside, flops=None):
        return Program(name, lambda: [function() for _ in range(case.calls)], beside, case.calls, flops)

    programs = [program("torch eager", lambda: whole(loss), "torch eager", flops)]
    if with_compiled:
        compiled = torch.compile(loss)
        programs.append(program("torch.compile", lambda: whole(compiled), "torch eager", flops))
    return programs + [
        program("torch: loss and gradients", lambda: backward(loss), "torch: loss and gradients", flops),
        program("torch: AdamW and EMA", update, "torch: AdamW and EMA"),
    ]


def diffusion_loss(torch, schedule):
    """loss(network, images): `GaussianDiffusion.training_losses` in torch, for images (N, C, H, W) uint8."""
    s = schedule
    tables = [s.sqrt_alphas_cumprod, s.sqrt_one_minus_alphas_cumprod, s.sqrt_recip_alphas_cumprod, s.log_betas]
    tables += [s.sqrt_recipm1_alphas_cumprod, s.posterior_mean_coef1, s.posterior_mean_coef2]
    tables = [torch.tensor(table, dtype=torch.float32) for table in (*tables, s.posterior_log_variance_clipped)]

    def loss(network, images):
        x = images.float() / 127.5 - 1.0
        t = torch.randint(len(schedule.betas), (len(x),))
        return loss_at(network, x, t, torch.randn_like(x)).mean()

    def loss_at(network, x, t, noise):
        at_t = (table[t][:, None, None, None] for table in tables)
        sqrt_abar, sqrt_rest, recip, log_beta, recipm1, coef1, coef2, low = at_t
        x_t = sqrt_abar * x + sqrt_rest * noise
        eps, v = network(x_t, t).chunk(2, dim=1)
        mse = (noise - eps).square().mean((1, 2, 3))
        mean = coef1 * (recip * x_t - recipm1 * eps.detach()) + coef2 * x_t
        log_variance = low + 0.5 * (v + 1.0) * (log_beta - low)
        log_ratio = low - log_variance
        squares = (coef1 * x + coef2 * x_t - mean).square() * torch.exp(-log_variance)
        kl = 0.5 * (torch.expm1(log_ratio) - log_ratio + squares)
        above, below = (normal_cdf((x - mean + edge / 255.0) * torch.exp(-0.5 * log_variance)) for edge in (1, -1))
        inside = torch.where(x > 0.999, 1.0 - below, above - below)
        nll = -torch.where(x < -0.999, above, inside).clamp(min=1e-12).log()
        return mse + torch.where(t == 0, nll.mean((1, 2, 3)), kl.mean((1, 2, 3))) / math.log(2.0)

    def normal_cdf(x):
        x = x.clamp(-6.0, 6.0)
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    loss.at = loss_at
    return loss


if __name__ == "__main__":
    run(main, side_by_side.define_flags, resumes=False)
