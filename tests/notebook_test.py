"""docs/digits.ipynb runs from top to bottom, and is committed as it ran."""

import os
import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "docs" / "digits.ipynb"


def assert_complete(notebook):
    """Two pictures, the scores, and a last cell that has found the served image to be the sampled one."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    said = "".join(output.get("text", "") for output in outputs)
    assert "FD-pixels-500" in said and "signatures serving_default" in said
    assert outputs[-1]["data"]["text/plain"] in ("0", "np.int64(0)", "1", "np.int64(1)")


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3")
    assert_complete(client.execute(cwd=str(tmp_path)))


def test_it_is_committed_as_it_ran():
    """In order, once, without an error: what a reader sees is what the cells gave."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert_complete(nbformat.read(NOTEBOOK, as_version=4))
