"""The examples of docs/serving.md, run as they stand there."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import textwrap

import numpy as np
import pytest
from PIL import Image

_PAGE = pathlib.Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def images(clients):
    """Those that the examples ask for."""
    return clients["grpc"].images(labels=[3, 1], seeds=[0, 1], cfg_scales=[1.5, 1.5])


def blocks(beginning):
    """The page's blocks of code that begin so."""
    found = re.findall(r"(?:^    .*\n|^\n)+", _PAGE.read_text(), re.M)
    return [code for code in (textwrap.dedent(block).strip() for block in found) if re.match(beginning, code)]


_EXAMPLES = {code.split("\n")[0]: code for code in blocks("(import|from) ")}


@pytest.mark.parametrize("first", _EXAMPLES)
def test_the_pages_examples_draw_as_they_stand_there(first, exported, server, images, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "dit").symlink_to(pathlib.Path(exported).parent)
    monkeypatch.chdir(tmp_path)
    assert pathlib.Path(exported).name == "1" and len(_EXAMPLES) == 3
    scope = {}
    exec(_EXAMPLES[first].replace("grpc://localhost:8500", server.addresses["grpc"]), scope)
    assert np.abs(np.asarray(scope["images"]).astype(int) - images).max() <= 1


def test_the_pages_questions_by_curl_are_answered_as_they_stand_there(server, images, tmp_path):
    if missing := [program for program in ("bash", "curl", "jq", "base64") if shutil.which(program) is None]:
        pytest.skip(f"the page's commands need {' and '.join(missing)}")
    (commands,) = blocks("model=http")
    commands = commands.replace("http://localhost:8501", server.addresses["http"])
    bash = ["bash", "-euo", "pipefail", "-c", f"{{ {commands}\n}} | jq --slurp"]
    done = subprocess.run(bash, cwd=tmp_path, env=os.environ | {"no_proxy": "*"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn, classes, denoised, states, metadata = json.loads(done.stdout)
    assert np.abs(np.array(drawn["outputs"]) - images.astype(int)).max() <= 1
    assert classes["outputs"] == {"name": ["3", "1"], "id": ["", ""], "num_classes": [10, 10]}
    assert np.shape(denoised["outputs"]) == (1, 8, 8, 2)
    assert [version["state"] for version in states["model_version_status"]] == ["AVAILABLE"]
    assert "serving_default" in metadata["metadata"]["signature_def"]["signature_def"]
    png = np.asarray(Image.open(tmp_path / "3.png"))
    assert np.abs(png.astype(int) - images[0, ..., 0]).max() <= 1
