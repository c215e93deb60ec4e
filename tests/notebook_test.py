"""docs/digits.ipynb runs from top to bottom."""

import os
import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "docs" / "digits.ipynb"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """execute(old, new, ...) -> the notebook with its outputs, run after each `old` in its code became `new`."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))

    def run(**changes):
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            for old, new in changes.items():
                cell.source = cell.source.replace(old, new)
        return nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute(cwd=str(tmp_path))

    return run


def assert_complete(notebook):
    """Two pictures, the scores, and a last cell that has found the served image to be the sampled one."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    said = "".join(output.get("text", "") for output in outputs)
    assert "FD-pixels-500" in said and "signatures serving_default" in said
    assert outputs[-1]["data"]["text/plain"] in ("0", "np.int64(0)", "1", "np.int64(1)")


def test_it_runs_from_top_to_bottom_with_fewer_steps_of_a_smaller_model(execute):
    assert_complete(execute(**{"steps = 1500": "steps = 100", "DiT-Ti/2": "DiT-Mi/4", "num_steps=50": "num_steps=5"}))


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_as_it_is(execute):
    assert_complete(execute())


def test_it_is_committed_as_it_ran():
    """In order, once, without an error: what a reader sees is what the cells gave."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert_complete(nbformat.read(NOTEBOOK, as_version=4))
