"""What preflight takes besides the flags of train."""

from dit_tf.samplers.options import DEFAULT_STEPS, SAMPLERS

PROGRAMS = ("train", "sample", "vae", "inception", "all")


def define_compilation(define):
    define.string("topology", None, "TPU slice to compile for, e.g. v3:8x16, v4:2x2x1, v5e:4x4; default: none.")
    define.string("program", PROGRAMS[0], f"What is compiled: {', '.join(PROGRAMS)}.")
    define.bool("suggest_batch", False, "Find the largest power of two of examples per core with which training fits.")
    define.integer("images_per_core", 8, "Of the programs other than train.")
    define.string("sampler", None, f"Of --program=sample: {', '.join(SAMPLERS)}; default: ddpm, of a flow model ode.")
    steps = ", ".join(f"{name} {count}" for name, count in DEFAULT_STEPS.items())
    define.integer("num_steps", None, f"Steps of the sampler; default: {steps}.")
    define.float("cfg_scale", 1.5, "Guidance of the sampler; 1: none.")
    define.string("output", None, "A .json file for the numbers; with --model=all an interrupted table goes on there.")
