"""The layout of the package: imports among rooms go down only, files stay short, names say what a file holds."""

import ast
import pathlib

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

# A room is a folder of dit_tf or one of the modules named here; each may import itself and the rooms in its row.
GROUND = ("runtime", "config", "latent_scale")
ROOMS = {
    "__init__": ("runtime", "inference"),  # inside functions: setup.cfg reads the version without importing TensorFlow
    "runtime": (),
    "latent_scale": (),
    "config": ("latent_scale",),
    "data": GROUND,
    "models": GROUND,
    "diffusion": GROUND,
    "transport": GROUND,
    "pretrained": GROUND,
    "samplers": (*GROUND, "diffusion", "transport"),
    "training": ("runtime",),  # model and process come as arguments
    "evaluation": ("runtime",),
    "serving": (*GROUND, "samplers"),
    "report": (*GROUND, "evaluation"),
}
ROOMS["build"] = tuple(room for room in ROOMS if room != "__init__")
ROOMS["train_history"] = ("training",)
ROOMS["autoencoder_file"] = (*ROOMS["build"], "build")
ROOMS["inference"] = (*ROOMS["build"], "build", "autoencoder_file", "train_history")
ROOMS["flags"] = (*ROOMS["build"], "build")
# Every other module directly in dit_tf is an entry, and so is a folder that has a __main__.py: it may import anything,
# and nothing above imports it.

FORBIDDEN_NAMES = {"utils", "common", "misc", "helpers", "base"}
MAXIMUM_LINES = 300


def room_of(path):
    """The room of a file, given relative to the package: ("models/dit.py") -> "models", ("train.py") -> "train"."""
    return pathlib.PurePath(path).with_suffix("").parts[0]


def is_entry(path, package_root):
    alone = len(path.parts) == 1 or (package_root / path.parts[0] / "__main__.py").exists()
    return alone and room_of(path) not in ROOMS


def imported_modules(tree, package):
    """Absolute dotted names of everything that a file imports; `package` is the dotted name of the folder it is in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def mentions_flags(tree, modules):
    """Whether a file imports absl's flags or app, or names FLAGS."""
    names = {getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)}
    return "FLAGS" in names or any((m + ".").startswith(("absl.flags.", "absl.app.")) for m in modules)


def import_violations(package_root):
    """One sentence per import that goes up or across, and per room that reads the command line."""
    found = []
    for file in sorted(package_root.rglob("*.py")):
        path = file.relative_to(package_root)
        room = room_of(path)
        if is_entry(path, package_root):
            continue
        if room not in ROOMS:
            found.append(f"{path}: the room {room} is not in the table")
            continue
        tree = ast.parse(file.read_text())
        modules = list(imported_modules(tree, ".".join([package_root.name, *path.parts[:-1]])))
        for module in modules:
            parts = module.split(".")
            if parts[0] == package_root.name and len(parts) > 1 and parts[1] not in (room, *ROOMS[room], "__version__"):
                found.append(f"{path}: {room} may not import {parts[1]}")
        if room != "flags" and mentions_flags(tree, modules):
            found.append(f"{path}: only entries and flags.py may know absl's flags")
    return found


def file_violations(root):
    """One sentence per source file that is too long or has a name that says nothing."""
    found = []
    for file in sorted(f for f in root.rglob("*") if f.suffix in (".py", ".sh")):
        lines = len(file.read_text().splitlines())
        if lines > MAXIMUM_LINES:
            found.append(f"{file.relative_to(root)}: {lines} lines, more than {MAXIMUM_LINES}")
        unclear = FORBIDDEN_NAMES & {
            part.removesuffix("_test") for part in file.relative_to(root).with_suffix("").parts
        }
        found += [f"{file.relative_to(root)}: the name {name} says nothing" for name in sorted(unclear)]
    return found


def test_imports_among_rooms_go_down_only():
    assert not import_violations(REPOSITORY / "dit_tf")


@pytest.mark.parametrize("folder", ["dit_tf", "tests", "launch", "benchmarks"])
def test_files_are_short_and_named_after_what_they_hold(folder):
    assert not file_violations(REPOSITORY / folder)


def plant(tmp_path, path, source):
    file = tmp_path / "dit_tf" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return tmp_path / "dit_tf"


@pytest.mark.parametrize(
    "path, source, culprit",
    [
        ("models/dit.py", "import dit_tf.training.ema", "training"),
        ("models/dit.py", "from dit_tf.diffusion import schedules", "diffusion"),
        ("models/dit.py", "from ..data import digits", "data"),
        ("models/dit.py", "from .. import transport", "transport"),
        ("models/dit.py", "def f():\n    from dit_tf import samplers", "samplers"),
        ("models/deeper/dit.py", "from ...pretrained import torch_pickle", "pretrained"),
        ("models/dit.py", "import importlib\nimportlib.import_module('dit_tf.serving.client')", "serving"),
        ("runtime/seeds.py", "from dit_tf import config", "config"),
        ("config.py", "from .runtime import seeds", "runtime"),
        ("training/trainer.py", "from dit_tf.models import dit", "models"),
        ("evaluation/frechet.py", "from dit_tf import config", "config"),
        ("samplers/ddim.py", "from dit_tf.models import dit", "models"),
        ("serving/client.py", "from dit_tf import build", "build"),
        ("build.py", "from dit_tf import flags", "flags"),
        ("flags.py", "from dit_tf import train", "train"),
        ("__init__.py", "from dit_tf import build", "build"),
        ("kitchen/sink.py", "", "kitchen"),
        ("data/digits.py", "from absl import flags", "flags"),
        ("data/digits.py", "import absl.app", "flags"),
        ("build.py", "from dit_tf import config\nconfig.FLAGS.seed", "flags"),
    ],
)
def test_a_planted_import_is_caught(tmp_path, path, source, culprit):
    violations = import_violations(plant(tmp_path, path, source))
    assert len(violations) == 1 and violations[0].startswith(path) and culprit in violations[0].split(": ")[1]


@pytest.mark.parametrize(
    "path, source",
    [
        ("models/dit.py", "from . import blocks\nfrom dit_tf.runtime import seeds\nfrom .. import config"),
        ("samplers/ddim.py", "from dit_tf.diffusion import respace\nimport dit_tf.transport.paths"),
        ("build.py", "from dit_tf import config, models, training, samplers, serving, __version__"),
        ("flags.py", "from absl import flags\nfrom dit_tf import build\nFLAGS = flags.FLAGS"),
        ("train.py", "from absl import app, flags\nfrom dit_tf import build, sample\nfrom dit_tf.models import dit"),
        ("study/__main__.py", "from absl import flags\nfrom dit_tf import build, train\nfrom dit_tf.report import page"),
        ("data/digits.py", "import numpy as np\nfrom absl import logging"),
    ],
)
def test_an_import_that_goes_down_is_allowed(tmp_path, path, source):
    assert not import_violations(plant(tmp_path, path, source))


def test_a_long_file_and_an_empty_name_are_caught(tmp_path):
    plant(tmp_path, "models/dit.py", "\n" * MAXIMUM_LINES)
    plant(tmp_path, "models/blocks.py", "\n" * (MAXIMUM_LINES + 1))
    plant(tmp_path, "data/utils.py", "")
    root = plant(tmp_path, "common/digits.py", "")
    assert file_violations(root) == [
        "common/digits.py: the name common says nothing",
        "data/utils.py: the name utils says nothing",
        f"models/blocks.py: {MAXIMUM_LINES + 1} lines, more than {MAXIMUM_LINES}",
    ]
