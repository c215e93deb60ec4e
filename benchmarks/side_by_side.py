"""What both benchmarks need: two libraries in one process, timed in turns, beside what the machine can do at all.

Clock and load of a machine drift, so the programs take turns (A B C A B C ...), the median turn counts, and a ratio of
two programs is the median of the ratios within a turn. The limit is the fastest product of either library so far.

Run it on an idle machine. Where other programs want the same cores, torch's OpenMP loses far more than TensorFlow's
threads do; the ratio of the fastest turns stands beside that of the medians, and where they differ it was not idle.
"""

import dataclasses
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import tensorflow as tf
from absl import flags
from machine import print_machine

from dit_tf import build
from dit_tf.config import RunConfig
from dit_tf.runtime.processor import this_processor

_PRODUCTS = ["2048x2048x2048", "4096x768x3072"]  # M x K x N; the second is an MLP of DiT-B
_PAUSE = 0.05  # seconds before each measurement, in which the other library's threads stop spinning


def define_flags(values, repeats=5):
    """Which model, how often, and where to. The defaults are the table of the documentation."""
    flags.DEFINE_string("model", None, "One model instead of the default ones, e.g. DiT-S/2.", flag_values=values)
    flags.DEFINE_integer("image_size", 32, "With --model: side of its input.", flag_values=values)
    flags.DEFINE_integer("channels", 4, "With --model: channels of its input.", flag_values=values)
    flags.DEFINE_integer("num_classes", 1000, "With --model: classes of its input.", flag_values=values)
    flags.DEFINE_integer("batch_size", 8, "With --model: rows that the model sees at once.", flag_values=values)
    flags.DEFINE_integer("calls", 1, "With --model: calls or steps in one measurement.", flag_values=values)
    flags.DEFINE_integer("repeats", repeats, "Turns of every program; the median counts.", flag_values=values)
    flags.DEFINE_bool("torch", True, "Measure torch too; --notorch: ours alone.", flag_values=values)
    flags.DEFINE_bool("torch_compile", True, "Measure torch.compile too (a minute of compilation).", flag_values=values)
    flags.DEFINE_list("products", _PRODUCTS, "MxKxN of the products that set the limit.", flag_values=values)
    flags.DEFINE_string("json", None, "A file to write the table to.", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Case:
    """One model at one batch. `calls`: so many make one measurement, which should not be shorter than 0.1 seconds."""

    model: str
    image_size: int
    channels: int
    batch_size: int
    calls: int
    num_classes: int = 1000

    def config(self):
        return RunConfig(
            model=self.model,
            image_size=self.image_size,
            channels=self.channels,
            num_classes=self.num_classes,
            global_batch_size=self.batch_size,
        )

    def __str__(self):
        return f"{self.model}, {self.image_size}x{self.image_size}x{self.channels}, batch {self.batch_size}, float32"


@dataclasses.dataclass(frozen=True)
class Program:
    """run() does `calls` times what is measured, of `flops` each (None: not a matter of products)."""

    name: str
    run: Callable
    beside: str  # the program that its speed is given relative to, where that runs
    calls: int = 1
    flops: float | None = None
    warm: bool = False  # whether a program before it has compiled and loaded all that it needs


def cases_of(options, defaults):
    """The default cases, or the one that the flags ask for."""
    if options.repeats < 1 or options.calls < 1 or options.batch_size < 2:
        raise ValueError(
            f"--repeats and --calls must be at least 1 and --batch_size at least 2, got {options.repeats}, "
            f"{options.calls} and {options.batch_size}."
        )
    if options.model is None:
        return defaults
    o = options
    return [Case(o.model, o.image_size, o.channels, o.batch_size, o.calls, o.num_classes)]


def import_torch():
    """The torch module on all cores; one sentence and exit code 1 where the other side is not installed."""
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"Missing: {' and '.join(missing)}; install the extra `benchmark` (pip install '.[cpu,benchmark]').")
    import torch

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    return torch


def diffusers_dit(config):
    """diffusers' DiT of the same size. Unlike ours it has a time and label embedding in every block (few products)."""
    from diffusers import DiTTransformer2DModel

    size, process = build.size_of(config.model), build.make_process(config)
    return DiTTransformer2DModel(
        num_attention_heads=size["num_heads"],
        attention_head_dim=size["width"] // size["num_heads"],
        in_channels=config.channels,
        out_channels=config.channels * (2 if process.variance == "learned_range" else 1),
        num_layers=size["depth"],
        sample_size=config.image_size,
        patch_size=size["patch_size"],
        num_embeds_ada_norm=config.num_classes,
        norm_eps=1e-6,
    )


class Products:
    """The machine's matrix products in float32: GFLOP/s of the fastest so far, for either library and each shape."""

    def __init__(self, torch, shapes):
        """torch: None where TensorFlow runs alone. shapes: of "MxKxN"."""
        self.fastest, self._products = {}, []
        for shape in shapes:
            m, k, n = map(int, shape.split("x"))
            a, b, flops = tf.random.normal((m, k)), tf.random.normal((k, n)), 2.0 * m * k * n
            self._products.append((f"TensorFlow {m}x{k}x{n}", lambda a=a, b=b: tf.matmul(a, b)[0, 0].numpy(), flops))
            if torch is not None:
                c, d = torch.randn(m, k), torch.randn(k, n)
                self._products.append((f"torch {m}x{k}x{n}", lambda c=c, d=d: torch.mm(c, d), flops))
        self.measure()

    def measure(self):
        for name, run, flops in self._products:
            time.sleep(_PAUSE)
            run()  # the first after a pause is slow
            speed = max(flops / _seconds(run) / 1e9 for _ in range(3))
            self.fastest[name] = max(self.fastest.get(name, 0.0), speed)

    @property
    def peak(self):
        return max(self.fastest.values())


def take_turns(programs, repeats, products):
    """{name: [seconds of one call, a turn each]}; the first call of each program compiles and is not counted."""
    for program in programs:
        if not program.warm:
            print(f"  {program.name}: first call {_seconds(program.run):.1f} s", flush=True)
    seconds = {program.name: [] for program in programs}
    for turn in range(repeats):
        for program in programs:
            time.sleep(_PAUSE)
            seconds[program.name].append(_seconds(program.run) / program.calls)
            print(f"  turn {turn + 1}/{repeats}, {program.name}: {seconds[program.name][-1]:.4g} s", flush=True)
        products.measure()
    return seconds


def rows_of(programs, seconds, peak):
    """The table as a list of records; speed: how many times as fast as the program beside it; peak in GFLOP/s."""
    rows = []
    for program in programs:
        own, other = seconds[program.name], seconds.get(program.beside, seconds[program.name])
        median = statistics.median(own)
        rows.append(
            dict(
                program=program.name,
                seconds=median,
                turns=own,
                beside=program.beside if program.beside in seconds else program.name,
                speed=statistics.median(b / a for a, b in zip(own, other)),
                fastest=min(own),
                speed_of_fastest=min(other) / min(own),
                gflops=program.flops / median / 1e9 if program.flops else None,
                of_peak=program.flops / median / 1e9 / peak if program.flops else None,
            )
        )
    return rows


def print_table(title, rows, products):
    speeds = ", ".join(f"{name} {speed:.0f}" for name, speed in products.fastest.items())
    print(f"\n{title}\nproducts in GFLOP/s: {speeds}")
    header = f"{'program':28} {'median s':>9} {'speed':>6} {'fastest s':>10} {'speed':>6}  {'beside':28}"
    print(f"{header} {'GFLOP/s':>8} {'of peak':>8}")
    for row in rows:
        flops = f"{row['gflops']:8.1f} {row['of_peak']:8.0%}" if row["gflops"] else f"{'-':>8} {'-':>8}"
        print(
            f"{row['program']:28} {row['seconds']:9.4f} {row['speed']:6.2f} {row['fastest']:10.4f} "
            f"{row['speed_of_fastest']:6.2f}  {row['beside']:28} {flops}"
        )
    print(flush=True)


def run_cases(options, torch, cases, programs_of):
    """Measure programs_of(case) for every case; print each table, and write it to --json, as soon as it is known."""
    versions, machine = dict(tensorflow=tf.__version__), this_processor()
    if torch is not None:
        versions["torch"] = torch.__version__
    print_machine()
    products, tables = Products(torch, options.products), []
    for case in cases:
        print(case, flush=True)
        programs = programs_of(case)
        rows = rows_of(programs, take_turns(programs, options.repeats, products), products.peak)
        print_table(str(case), rows, products)
        tables.append(dict(case=str(case), rows=rows))
        if options.json:
            record = dict(versions=versions, processor=machine.name, avx512=machine.has_avx512, cores=machine.cores)
            record |= dict(products=products.fastest, tables=tables)
            with open(options.json, "w") as file:
                json.dump(record, file, indent=1)


def _seconds(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
