"""What a training costs, and whether it fits a TPU slice, before the slice is there:

    python -m dit_tf.preflight --model=DiT-XL/2 --topology=v4:2x2x1 --global_batch_size=256
    python -m dit_tf.preflight --flagfile=launch/flags/dit-s-2-imagenet256.flags --precision=bfloat16 --topology=v3:2x2
    python -m dit_tf.preflight --model=all
    python -m dit_tf.preflight --model=all --precision=bfloat16 --topology=v4:2x2x4 --output=v4.json

With --topology it compiles the step that train runs, with the mean over all cores of the slice, by Google's TPU
compiler: pip install '.[preflight]', Linux x86-64. Minutes each; no TPU is asked.
"""

if __name__ == "__main__":  # before TensorFlow is imported
    from dit_tf.runtime import log_filter

    log_filter.hide_remarks()

import dataclasses
import functools
import time

import tqdm

from dit_tf import flags
from dit_tf.flags.preflight import PROGRAMS
from dit_tf.preflight.analysis import ASSUMED, all_models, analysis, analytic_flops, configuration
from dit_tf.preflight.programs import Program, compile_alone, missing_compiler
from dit_tf.preflight.report import fits_record, lines_of, pace_of, remedies, size_text, too_large_record
from dit_tf.preflight.table import compiled_rows, compiled_table, count_table
from dit_tf.runtime.output_files import write_json
from dit_tf.runtime.tpu_chips import parse_topology
from dit_tf.runtime.tpu_compiler import TooLarge
from dit_tf.samplers.options import SamplerOptions
from dit_tf.train_options import check_parts

_MOST_PER_CORE = 1024  # examples; of --suggest_batch


def main(options):
    where = check_flags(options)
    if options.model == "all" and where is None:
        rows = all_models()
        print(*count_table(rows), sep="\n")
        return write(options.output, rows)
    config, encodes = configuration(options)
    if options.model == "all":
        print_compiled_table(where, options, config, encodes)
        return print(f"Written: {options.output}") if options.output else None
    programs = programs_of(options, config, encodes)
    report = analysis(config, encodes)
    print_analysis(config, report, encodes)
    if where is None:
        print("With --topology=KIND:SHAPE, such as v4:2x2x1, it is compiled for that slice.")
    elif missing_compiler():
        print_without_compiler(where, report)
    else:
        records = [compile_for(where, program, options, report) for program in programs]
        report |= records[0] | {"programs": {record["program"]: record for record in records}}
        if options.suggest_batch:
            report["suggested_batch_per_core"] = suggest_batch(where, programs[0], records[0], report["state_bytes"])
    write(options.output, report)


def check_flags(options):
    """The slice that is asked for, or None."""
    if options.program not in PROGRAMS:
        raise ValueError(f"--program must be one of {', '.join(PROGRAMS)}, got {options.program!r}.")
    for name in ("images_per_core", "global_batch_size", "train_steps"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if options.topology is None:
        for name, asked in (("--suggest_batch", options.suggest_batch), ("--program", options.program != PROGRAMS[0])):
            if asked:
                raise ValueError(f"{name} needs a slice to compile for: add --topology, such as --topology=v4:2x2x1.")
        return None
    where = parse_topology(options.topology)
    if options.model == "all" and (options.suggest_batch or options.program != "train"):
        raise ValueError(
            f"--model=all goes with --program=train and without --suggest_batch, got --program={options.program}: name "
            "one model for these."
        )
    if options.model == "all" and missing_compiler():
        raise ValueError(
            f"--model=all with --topology needs {' and '.join(missing_compiler())}: pip install '.[preflight]' (Linux "
            "x86-64), or leave --topology out."
        )
    if options.suggest_batch and options.program not in ("train", "all"):
        raise ValueError(f"--suggest_batch goes with --program=train, got --program={options.program}.")
    rest = options.global_batch_size % where.cores
    if options.program in ("train", "all") and rest:
        near = max(options.global_batch_size - rest, where.cores)
        raise ValueError(
            f"--global_batch_size must be divisible by the {where.cores} cores of --topology={options.topology}, got "
            f"{options.global_batch_size}: take {near}."
        )
    check_parts(options, where.cores)
    return where


def print_compiled_table(where, options, config, encodes):
    """--model=all with --topology: minutes for each size, and the same command again goes on where it stopped."""

    def compile_one(config):
        (program,), report = programs_of(options, config, encodes), analysis(config, encodes)
        return report | compile_for(where, program, options, report)

    more = dict(remat=options.remat, accumulation_steps=options.accumulation_steps)
    rows = compiled_rows(config, where.topology, more, compile_one, options.output)
    print(*compiled_table(rows), sep="\n")


def print_analysis(config, report, encodes):
    print(f"{config.model} ({config.block}) at {config.image_size} pixels, {config.codec}, {config.precision}")
    if config.vae_sha256 == ASSUMED:
        print(f"  {config.dataset} is not here: moments of ImageNet's 1000 classes are assumed, as encode stores them")
    print(f"  parameters       {report['parameters']:>20,} trained, {report['parameters_frozen']:,} fixed")
    print(f"  multiply-adds    {report['macs']:>20,} a forward pass of one image")
    if encodes:
        print(f"  encoder          {report['encoder_macs']:>20,} multiply-adds besides; --dataset=latents:DIR has none")
    print(f"  FLOPs of a step  {report['flops_analytic']:>20,} for {config.global_batch_size} images, 3 forward passes")
    print(f"  state            {report['state_bytes']:>20,} bytes a core: weights, two moments, averages, in float32")


def print_without_compiler(where, report):
    seconds = report["flops_analytic"] / where.cores / where.chip.peak_flops
    print(
        f"{where.topology}: {where.cores} cores of {size_text(where.chip.usable_bytes)}; the state takes "
        f"{size_text(report['state_bytes'])}. A step takes {1e3 * seconds:.3g} ms or more, by its FLOPs alone."
    )
    print(f"The rest needs {' and '.join(missing_compiler())}: pip install '.[preflight]' (Linux x86-64).")


def programs_of(options, config, encodes):
    """What --program asks for."""
    if options.program == "vae" and config.codec != "vae":
        raise ValueError("--program=vae goes with a model of latents: add --vae, or --dataset=latents:DIR.")
    if options.program == "inception" and not options.inception:
        raise ValueError("--program=inception needs --inception=FILE, of classify_image_graph_def.pb.")
    images = functools.partial(Program, config=config, batch_size=options.images_per_core)
    train = Program(
        "train", config, config.global_batch_size, encodes,
        remat=options.remat, scan_blocks=options.scan_blocks, accumulation_steps=options.accumulation_steps,
    )  # fmt: skip
    sampler = SamplerOptions(sampler=options.sampler, num_steps=options.num_steps, cfg_scale=options.cfg_scale)
    available = {
        "train": [train],
        "sample": [images("sample", sampler=sampler)],
        "vae": [images("encode"), images("decode")] if config.codec == "vae" else [],
        "inception": [images("inception", inception=options.inception)] if options.inception else [],
    }
    return sum(available.values(), []) if options.program == "all" else available[options.program]


def compile_for(where, program, options, report):
    """Compile a program, say what came of it -> its record."""
    analytic, note = analytic_flops(where, program, report)
    title = f"compiling {program.name} for {where.topology} (1 to 7 minutes from DiT-S/2 to DiT-XL/2)"
    began = time.perf_counter()
    try:
        compiled = compile_alone(program, where.topology, title)
        least = report["flops_analytic"] / where.cores if program.name == "train" else 0.0
        record = fits_record(where, program.name, analytic, *compiled, least_flops=least)
    except TooLarge as error:
        record = too_large_record(where, program.name, analytic, error, time.perf_counter() - began)
    print(*lines_of(record, note), sep="\n")
    per_core = program.batch_size // where.cores if program.name == "train" else program.batch_size
    record["batch_per_core"] = per_core
    if program.name == "train" and record["flops"] is not None:
        fields, line = pace_of(record, options.train_steps)
        record |= fields
        print(line)
    if program.name == "train" and not record["fits"]:
        print("What would make it fit:", *remedies(program, report["state_bytes"], record, per_core), sep="\n  ")
    return record


def suggest_batch(where, program, record, state_bytes):
    """The largest power of two of examples per core with which the step fits, 0 where not even one does; by bisection,
    so that at most four are compiled. record: of the batch that was compiled already."""

    def fits(per_core):
        if state_bytes > where.chip.usable_bytes:
            return False
        if per_core == record["batch_per_core"]:
            return record["fits"]
        other = dataclasses.replace(program, batch_size=per_core * where.cores)
        try:
            report, _ = compile_alone(other, where.topology, f"compiling for {per_core} examples per core")
        except TooLarge:
            return False
        return report.total_bytes <= where.chip.usable_bytes

    best = largest_power_of_two(fits, _MOST_PER_CORE)
    if best == 0:
        print("Not even one example per core fits.")
    else:
        more = " or more" if best == _MOST_PER_CORE else ""
        print(f"The largest batch that fits: {best}{more} per core, --global_batch_size={best * where.cores}.")
    return best


def largest_power_of_two(holds, most):
    """The largest 2^k <= most for which holds(2^k), of a property that smaller numbers keep; 0 where 1 has it not."""
    low, high = -1, most.bit_length()  # holds(2^low), not holds(2^high)
    with tqdm.tqdm(desc="batch sizes tried", bar_format="{desc}: {n}, {elapsed}") as bar:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(2**middle) else (low, middle)
            bar.update()
    return 2**low if low >= 0 else 0


def write(path, report):
    """Nothing is written where no --output is given."""
    if path:
        write_json(path, report)
        print(f"Written: {path}")


if __name__ == "__main__":
    flags.run(main, flags.define_preflight, resumes=False)
