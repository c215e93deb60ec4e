"""Each program of benchmarks/ still finds in the package what it asks of it."""

import importlib.util
import pathlib
import sys

import absl.flags
import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))
OTHERS = {"matplotlib", "psutil", "torch", "diffusers"}  # of the extra `benchmark`


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_imports_and_defines_its_flags(file, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # they import each other, as programs do
    spec = importlib.util.spec_from_file_location(f"benchmarks_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        if error.name not in OTHERS:
            raise
        pytest.skip(f"{error.name} comes with the extra benchmark")
    finally:
        sys.modules.pop("side_by_side", None)
    define = getattr(module, "define_flags", None) or module.side_by_side.define_flags
    values = absl.flags.FlagValues()
    define(values)
    values(["program"])
    assert len(list(values)) >= 3
