"""launch/flags/fid*: the paper's evaluations. Every file is what its name says, has the paper's numbers in its header
and none besides, and a command that can be typed."""

import pathlib
import re
import shutil
import subprocess

import pytest

from dit_tf import build, flags
from dit_tf.config import RunConfig
from dit_tf.pretrained.published import PUBLISHED
from dit_tf.samplers.options import SamplerOptions
from dit_tf.samplers.solvers import make_solver

_REPOSITORY = pathlib.Path(__file__).parents[1]
_FLAGS = _REPOSITORY / "launch" / "flags"
_FILES = sorted(path.stem for path in _FLAGS.glob("fid*.flags"))
_CITED = {"dit": "Peebles and Xie 2023", "sit": "Ma et al. 2024"}
_NAMES = ("FID", "sFID", "IS", "precision", "recall")
# Peebles and Xie 2023, tables 2 and 3: FID, sFID, IS, precision, recall of DiT-XL/2.
_TABLE = {
    "imagenet256-cfg1.0": (2, ("9.62", "6.85", "121.50", "0.67", "0.67")),
    "imagenet256-cfg1.25": (2, ("3.22", "5.28", "201.77", "0.76", "0.62")),
    "imagenet256-cfg1.5": (2, ("2.27", "4.60", "278.24", "0.83", "0.57")),
    "imagenet512-cfg1.0": (3, ("12.03", "7.12", "105.25", "0.75", "0.64")),
    "imagenet512-cfg1.25": (3, ("4.64", "5.77", "174.77", "0.81", "0.57")),
    "imagenet512-cfg1.5": (3, ("3.04", "5.02", "240.82", "0.84", "0.54")),
}
# Table 4, by steps of training; and those of SiT-XL/2 by sampler.
_FID_AFTER = {"400k": "19.47", "2352k": "10.67", "7M": "9.62"}
_SIT = {"ode": "2.15", "sde": "2.06"}
_STEPS = (16, 32, 64, 128, 256, 1000)  # figure 10


def header(name):
    """The lines before the flags: (prose in one line, address of the reference, shell commands)."""
    lines = [line[2:] for line in (_FLAGS / f"{name}.flags").read_text().splitlines() if line.startswith("# ")]
    (place,) = [i for i, line in enumerate(lines) if line.startswith("https://")]
    return " ".join(lines[:place]), lines[place], lines[place + 1 :]


def typed(name):
    """The arguments of every `python -m` that the shell starts when the header's commands are typed into it."""
    script = "\n".join(['python() { printf "%s\\t" "$@"; echo; }', *header(name)[2]])
    shell = subprocess.run([shutil.which("bash"), "-euc", script], capture_output=True, text=True, timeout=60)
    assert shell.returncode == 0, shell.stderr
    calls = [line.rstrip("\t").split("\t") for line in shell.stdout.splitlines()]
    assert all(call[0] == "-m" for call in calls)
    return [(call[1].removeprefix("dit_tf."), call[2:]) for call in calls]


def family(name):
    return "sit" if "-sit-" in name else "dit"


def size(name):
    return int(re.search(r"imagenet(\d+)", name)[1])


def options_of(parse, name):
    return parse(flags.define_evaluate, f"--flagfile={_FLAGS / name}.flags")


def sampler_of(options, name):
    """What is sampled with, as the trained model of that name resolves it."""
    config = RunConfig(
        objective="ddpm" if family(name) == "dit" else "flow", codec="vae", image_size=size(name), num_classes=1000
    )
    chosen = ("sampler", "num_steps", "solver", "diffusion", "last_step", "last_step_size", "cfg_scale")
    asked = SamplerOptions(**{field: getattr(options, field) for field in (*chosen, "guided_channels")})
    process = build.make_process(config)
    resolved = asked.resolved(process, build.make_codec(config), null_label=1000)
    return resolved, make_solver(process, resolved, clip_denoised=False)


def test_there_is_a_file_for_every_evaluation():
    others = ["fid10k-imagenet256-steps", "fid50k-imagenet256-ft-mse-cfg1.0"]
    others += [f"fid50k-imagenet256-sit-{kind}-cfg1.5" for kind in _SIT]
    assert _FILES == sorted([f"fid50k-{row}" for row in _TABLE] + others)


@pytest.mark.parametrize("name", _FILES)
def test_a_file_is_the_evaluation_of_its_name(parse, name):
    o = options_of(parse, name)
    assert o.num_samples == 1000 * int(re.match(r"fid(\d+)k-", name)[1])
    assert (o.label_policy, o.seed, o.features, o.precision_recall_dtype) == ("random", 0, "inception", "float16")
    assert not o.allow_few_samples and o.inception is None and o.samples is None
    assert o.vae == ("sd-vae-ft-mse" if "ft-mse" in name or "10k" in name else "sd-vae-ft-ema") and o.vae in PUBLISHED
    guidance = re.search(r"cfg([\d.]+)$", name)
    assert o.cfg_scale == (float(guidance[1]) if guidance else 1.0)
    assert o.guided_channels == (None if o.cfg_scale == 1.0 else 3)
    reference = {256: "VIRTUAL_imagenet256_labeled.npz", 512: "VIRTUAL_imagenet512.npz"}
    assert o.reference == reference[size(name)]
    assert o.num_reference_images == (1000 if size(name) == 512 else None)
    if "10k" not in name:
        assert o.output == f"{name}.json"  # one evaluation does not replace another


@pytest.mark.parametrize("name", _FILES)
def test_an_image_takes_250_evaluations_of_the_network(parse, name):
    resolved, solver = sampler_of(options_of(parse, name), name)
    wanted = {"-ode-": ("ode", "heun", 125), "-sde-": ("sde", "euler", 250), "": ("ddpm", None, 250)}
    kind = next(part for part in wanted if part in name)
    assert (resolved.sampler, resolved.solver, resolved.num_steps) == wanted[kind]
    assert solver.evaluations == 250
    if kind == "-sde-":
        assert (resolved.diffusion, resolved.last_step, resolved.last_step_size) == ("sigma", "mean", 0.04)


@pytest.mark.parametrize("name", _FILES)
def test_the_header_says_what_is_evaluated(parse, name):
    prose, o = header(name)[0], options_of(parse, name)
    what = "of flow matching on" if family(name) == "sit" else "on"
    assert prose.startswith(f"FID-{o.num_samples // 1000}K {what} ImageNet at {size(name)} pixels, ")
    assert f"{o.num_samples:,} random labels" in prose and _CITED[family(name)] in prose
    assert {"sd-vae-ft-ema": "ft-EMA", "sd-vae-ft-mse": "ft-MSE"}[o.vae] in prose
    guided = f"guided by {o.cfg_scale} on {o.guided_channels} channels"
    assert ("without guidance" if o.cfg_scale == 1.0 else guided) in prose
    assert ("1,000 real images for precision and recall" in prose) == (o.num_reference_images == 1000)


@pytest.mark.parametrize("name", [name for name in _FILES if "50k" in name])
def test_the_header_says_what_it_costs(parse, name):
    o = options_of(parse, name)
    millions, macs = re.search(r"([\d.]+) million network evaluations of ([\d.]+) G", header(name)[0]).groups()
    rows = sampler_of(o, name)[1].evaluations * (1 if o.cfg_scale == 1.0 else 2)
    assert float(millions) * 1e6 == o.num_samples * rows
    assert macs == {256: "118.64", 512: "524.60"}[size(name)]  # table 4


@pytest.mark.parametrize("name", _FILES)
def test_the_header_has_the_papers_numbers_and_no_others(name):
    prose = header(name)[0]
    found = re.findall(r"\b(FID|sFID|IS|precision|recall) ([\d.]+\d)", prose)
    if name.removeprefix("fid50k-") in _TABLE:
        table, numbers = _TABLE[name.removeprefix("fid50k-")]
        assert found == list(zip(_NAMES, numbers)) and f"table {table}" in prose
        assert f"DiT-XL/2 after {'7M' if size(name) == 256 else '3M'} steps" in prose
    elif "ft-mse" in name:
        after = re.findall(r"FID ([\d.]+) after (\w+)", prose)
        assert {steps: fid for fid, steps in after} == _FID_AFTER and len(found) == 3 and "table 4" in prose
    elif family(name) == "sit":
        assert found == [("FID", _SIT[name.split("-")[3]])]
    else:
        assert not found and "figure 10" in prose


@pytest.mark.parametrize("name", _FILES)
def test_the_header_says_where_the_reference_is_to_be_had(parse, name):
    assert header(name)[1] == (
        "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/"
        f"{size(name)}/{options_of(parse, name).reference}"
    )


@pytest.mark.parametrize("name", [name for name in _FILES if "50k" in name])
def test_the_header_has_commands_that_parse(parse, name, monkeypatch):
    monkeypatch.chdir(_REPOSITORY)
    *before, (command, arguments) = typed(name)
    typed_options = parse(flags.define_evaluate, *arguments)
    assert command == "evaluate" and f"--flagfile=launch/flags/{name}.flags" in arguments
    assert typed_options.output == f"{name}.json"
    assert bool(typed_options.weights) != bool(typed_options.workdir) and bool(before) == bool(typed_options.weights)
    for other, converted in before:  # the published weights of the model, as what is evaluated
        convert = parse(flags.define_convert, *converted)
        assert other == "convert" and convert.output == typed_options.weights
        assert convert.source == f"{family(name)}-xl-2-{size(name)}" and convert.source in PUBLISHED


def test_the_loop_over_steps_evaluates_each_number_into_a_file_of_its_own(parse, monkeypatch):
    monkeypatch.chdir(_REPOSITORY)
    calls = typed("fid10k-imagenet256-steps")
    runs = [parse(flags.define_evaluate, *arguments) for command, arguments in calls if command == "evaluate"]
    assert tuple(run.num_steps for run in runs) == _STEPS and len(calls) == len(_STEPS)
    assert [run.output for run in runs] == [f"fid10k-{steps}.json" for steps in _STEPS]
    assert all((run.num_samples, run.vae, run.workdir) == (10_000, "sd-vae-ft-mse", "W") for run in runs)
    for run in runs:
        assert sampler_of(run, "fid10k-imagenet256-steps")[1].evaluations == run.num_steps
