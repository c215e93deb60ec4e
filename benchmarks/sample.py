"""The forward pass and a guided DDIM sampler beside diffusers' DiT in PyTorch, eager and compiled, in one run:

    python benchmarks/sample.py --json=sample.json

Guidance doubles the rows, so the sampler draws half as many images as the batch has rows, and every program sees the
network at one batch size. Ours is the function that dit_tf.sample calls, from labels to uint8 images.
"""

import numpy as np
import side_by_side
import tensorflow as tf
from absl import flags
from side_by_side import Case, Program

from dit_tf import build
from dit_tf.flags import run
from dit_tf.models.costs import call_with, count_macs
from dit_tf.samplers.options import SamplerOptions

CASES = [
    Case("DiT-B/4", 32, 4, batch_size=16, calls=1),
    Case("DiT-Ti/2", 8, 1, batch_size=128, calls=20, num_classes=10),
]
CFG_SCALE = 4.0


def define_flags(values):
    side_by_side.define_flags(values, repeats=3)
    flags.DEFINE_integer("num_steps", 10, "Steps of the DDIM sampler.", flag_values=values)


def main(options):
    cases = side_by_side.cases_of(options, CASES)
    torch = side_by_side.import_torch() if options.torch else None

    def programs_of(case):
        ours, flops = tensorflow_programs(case, options.num_steps)
        if torch is None:
            return ours
        return ours + torch_programs(torch, case, options.num_steps, flops, options.torch_compile)

    side_by_side.run_cases(options, torch, cases, programs_of)


def tensorflow_programs(case, num_steps):
    """(programs, FLOPs of one forward pass)."""
    config = case.config()
    model = build.make_model(config)
    params = build.weights_of(model)
    flops = 2 * case.batch_size * count_macs(model)
    forward = tf.function(lambda params, *inputs: call_with(model, params, inputs), jit_compile=True, autograph=False)
    sample = build.make_sampler(config, model, SamplerOptions("ddim", num_steps, cfg_scale=CFG_SCALE))
    x, t, y = inputs(case)
    x, t, y = tf.constant(x), tf.constant(t), tf.constant(y)
    images = case.batch_size // 2

    def forwards():
        for _ in range(case.calls):
            forward(params, x, t, y)[0, 0, 0, 0].numpy()

    def samples():
        sample(params, y[:images], tf.constant(0, tf.int64), tf.range(images)).images.numpy()

    return [
        Program("dit_tf: forward", forwards, "torch eager: forward", case.calls, flops),
        Program(f"dit_tf: {images} images", samples, f"torch eager: {images} images", 1, num_steps * flops),
    ], flops


def torch_programs(torch, case, num_steps, flops, with_compiled):
    """The same through diffusers' model, in a loop over the same steps."""
    config = case.config()
    model = side_by_side.diffusers_dit(config).eval()
    x, t, y = (torch.from_numpy(array) for array in inputs(case))
    x, t, y = x.permute(0, 3, 1, 2).contiguous(), t.long(), y.long()
    images = case.batch_size // 2
    chain = build.make_process(config).respaced(str(num_steps))
    labels = torch.cat([y[:images], torch.full((images,), config.num_classes)])

    def programs(name, network):
        @torch.no_grad()
        def forwards():
            for _ in range(case.calls):
                network(x, t, y, return_dict=False)

        @torch.no_grad()
        def samples():
            x_t = torch.randn(x[:images].shape)
            ddim(torch, lambda x, t: network(x, t, labels, return_dict=False)[0], chain, x_t)

        drawn, flops_drawn = f"{images} images", num_steps * flops
        return [
            Program(f"{name}: forward", forwards, "torch eager: forward", case.calls, flops),
            Program(f"{name}: {drawn}", samples, f"torch eager: {drawn}", 1, flops_drawn, warm=True),
        ]

    return programs("torch eager", model) + (programs("torch.compile", torch.compile(model)) if with_compiled else [])


def ddim(torch, network, chain, x):
    """`samplers.ddim` with guidance in torch: x_T (N, C, H, W) -> uint8 images. network(x, t): doubled rows."""
    s = chain.schedule
    for i in reversed(range(chain.num_timesteps)):
        t = torch.full((2 * len(x),), int(chain.timestep_map[i]))
        conditional, null = network(torch.cat([x, x]), t).chunk(2, dim=1)[0].chunk(2)
        eps = null + CFG_SCALE * (conditional - null)
        recip, recipm1 = s.sqrt_recip_alphas_cumprod[i], s.sqrt_recipm1_alphas_cumprod[i]
        x_start = (recip * x - recipm1 * eps).clamp(-1.0, 1.0)
        eps = (recip * x - x_start) / recipm1
        before = s.alphas_cumprod_prev[i]
        x = before**0.5 * x_start + (1.0 - before) ** 0.5 * eps
    return (127.5 * x + 128.0).clamp(0.0, 255.0).to(torch.uint8)


def inputs(case):
    """(x (N, H, W, C) float32, t (N,), y (N,) int32) as NumPy arrays, the same for both sides."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.batch_size, case.image_size, case.image_size, case.channels)).astype(np.float32)
    t = rng.integers(0, 1000, case.batch_size, dtype=np.int32)
    return x, t, rng.integers(0, case.num_classes, case.batch_size, dtype=np.int32)


if __name__ == "__main__":
    run(main, define_flags, resumes=False)
