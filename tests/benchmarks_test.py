"""Each program of benchmarks/ runs, in its smallest case; what it measures there means nothing."""

import importlib
import pathlib
import sys

import absl.flags
import pytest

from dit_tf.runtime.processor import this_processor

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
SHARED = ("machine", "side_by_side")  # which the programs import from beside them
_SMALL = ["--model=DiT-16x1x1/4", "--image_size=8", "--channels=1", "--num_classes=10", "--batch_size=2", "--repeats=1"]
_SMALL += ["--products=64x64x64"]


@pytest.fixture
def run(monkeypatch, capsys):
    """run("train_step", "--name=value", ...) -> what the program printed, after its first lines were checked."""

    def printed(name, *arguments):
        monkeypatch.syspath_prepend(FOLDER)
        module = importlib.import_module(name)
        define = getattr(module, "define_flags", None) or module.side_by_side.define_flags
        values = absl.flags.FlagValues()
        define(values)
        values([name, *arguments])
        module.main(values)
        output = capsys.readouterr().out
        processor, avx512 = this_processor().name, "with AVX-512" if this_processor().has_avx512 else "without AVX-512"
        assert output.startswith(processor) and avx512 in output.splitlines()[0]
        return output

    yield printed
    for file in FOLDER.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_every_program_is_run_below():
    programs = {file.stem for file in FOLDER.glob("*.py")} - set(SHARED)
    assert programs == {"evaluate", "host_overhead", "input", "sample", "samplers", "serving", "train_step"}


@pytest.mark.parametrize("name, programs", [
    ("train_step", ["dit_tf", "dit_tf: loss and gradients", "dit_tf: AdamW and EMA"]),
    ("sample", ["dit_tf: forward", "dit_tf: 1 images"]),
])  # fmt: skip
def test_ours_alone(run, name, programs, tmp_path):
    output = run(name, *_SMALL, "--notorch", f"--json={tmp_path}/table.json")
    assert all(f"\n{program} " in output for program in programs)
    assert (tmp_path / "table.json").exists() and "torch" not in (tmp_path / "table.json").read_text()


@pytest.mark.parity
@pytest.mark.parametrize("name", ["train_step", "sample"])
def test_beside_torch(run, name):
    pytest.importorskip("diffusers", reason="it comes with the extra benchmark")
    assert "\ntorch eager" in run(name, *_SMALL, "--notorch_compile")


def test_host_overhead(run):
    small = ["--model=DiT-16x1x1/4", "--global_batch_size=2", "--steps_per_execution=2", "--executions=1", "--turns=1"]
    assert "compilations of the train function: 1\n" in run("host_overhead", *small)


def test_input(run):
    small = ["--files=2", "--batch_size=8", "--batches=1", "--turns=1", "--workers=1", "--latents=80"]
    assert "| dit_tf, crop pil | " in run("input", *small, "--notorch")
    assert run("input", *small, "--simulate_hosts=2").count("\n| latents | ") == 2


@pytest.mark.parity
def test_input_beside_torch(run):
    pytest.importorskip("torch", reason="it comes with the extra benchmark")
    small = ["--files=2", "--batch_size=8", "--batches=1", "--turns=1", "--latents=80"]
    assert "| torch DataLoader, PIL | " in run("input", *small)


def test_evaluate(run):
    small = ["--images=1000", "--features=64,63", "--turns=1", "--programs=dit_tf: FID + sFID,formula: FID + sFID"]
    assert "| dit_tf: FID + sFID | " in run("evaluate", *small)


def test_samplers(run, trained, trained_flow, tmp_path):
    """With models that are trained already."""
    for name, workdir in (("ddpm-0", trained), ("flow-0", trained_flow)):
        (tmp_path / name).symlink_to(workdir)
    small = ["--seeds=0", "--num_samples=80", "--rows=DDIM-20,ODE-Heun-6", f"--output={tmp_path}/samplers"]
    assert run("samplers", f"--workdir={tmp_path}", *small).count("| 1 |\n") == 2
    assert {file.name for file in tmp_path.glob("samplers*")} == {"samplers.md", "samplers.png", "samplers-digits.png"}


def test_serving(run, trained):
    output = run("serving", f"--workdir={trained}", "--num_steps=2", "--rows=2", "--weights_dtypes=int8", "--turns=1")
    assert "| serving_xla | 2 | " in output and "| int8 | " in output and "| serving_default, int8 | 2 | " in output
