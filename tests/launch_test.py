"""The launch scripts refuse what they cannot do in one sentence, and make an environment once.

No environment is made here: a stub stands in for Python, answers `-m venv` and `-m pip`, and keeps a list of both.
"""

import json
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

import pytest

from tests.commands import run_command
from tests.quiet_test import assert_quiet

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = REPOSITORY / "launch"
SCRIPTS = [*sorted(LAUNCH.rglob("*.sh")), REPOSITORY / ".ci" / "run"]
BASH = shutil.which("bash")

STUB = """#!{bash}
case "$1" in
    -c) exec {real} -c '
import sys
sys.version_info, sys.executable = ({version}, "final", 0), sys.argv[2]
exec(sys.argv[1])' "$2" "$0" ;;
esac
printf '%s\\n' "${{*:2}}" >>{journal}
case "$2" in
    venv) rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    pip) [[ ! -e {broken} ]] || {{ cat {broken}; exit 1; }} ;;
esac
"""


def run(*command, **environment):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def is_one_sentence(text):
    return text.endswith(".\n") and text.count("\n") == 1


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_parses(script):
    assert run(BASH, "-n", script).returncode == 0


def test_scripts_pass_shellcheck():
    result = run(pathlib.Path(sys.executable).with_name("shellcheck"), *SCRIPTS)  # of the extra `test`
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", ["test.sh", "demo.sh"])
@pytest.mark.parametrize("option, received", [("--tf=2.18.0", "2.18.0"), ("--tf=2.20", "2.20"), ("--tf=", "")])
def test_a_tensorflow_without_pins_is_refused(script, option, received):
    result = run(BASH, LAUNCH / script, option, PYTHON="/none")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"--tf must be one of 2.19.1, 2.20.0, 2.21.0; received '{received}'.\n"


@pytest.mark.parametrize("argument", ["--steps=3", "--workdir", "--workdir=", "digits"])
def test_demo_refuses_what_it_does_not_know(argument):
    result = run(BASH, LAUNCH / "demo.sh", argument)
    assert (result.returncode, result.stdout) == (2, "")
    assert is_one_sentence(result.stderr) and f"received '{argument}'" in result.stderr


@pytest.mark.parametrize("tf", ["2.19.1", "2.20.0", "2.21.0"])
def test_pins_of_every_tensorflow_are_exact_and_name_it(tf):
    lines = (LAUNCH / f"constraints-tf{tf.rpartition('.')[0]}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert f"tensorflow-cpu=={tf}" in pins
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)


class Sandbox:
    """A copy of the scripts and a PATH that holds no Python but the stubs put there."""

    def __init__(self, root):
        self.bin, self.repository, self.journal, self.broken = (root / n for n in ("bin", "copy", "journal", "broken"))
        self.bin.mkdir()
        shutil.copytree(LAUNCH, self.repository / "launch")
        shutil.copy(REPOSITORY / "setup.cfg", self.repository)
        for tool in ("dirname", "cat", "cksum", "rm", "mkdir", "cp", "tail", "flock"):
            if shutil.which(tool):
                (self.bin / tool).symlink_to(shutil.which(tool))

    def add(self, name, version=None):
        """Puts a stub that calls itself Python `version` on the PATH; without a version, a shim that fails."""
        source = f"#!{BASH}\nexit 127\n"
        if version:
            numbers = ", ".join(version.split("."))
            source = STUB.format(
                bash=BASH, real=sys.executable, version=numbers, journal=self.journal, broken=self.broken
            )
        (self.bin / name).write_text(source)
        (self.bin / name).chmod(stat.S_IRWXU)

    def call(self, line, python=""):
        source = f"set -euo pipefail; source '{self.repository}/launch/environment.sh'; {line}"
        return run(BASH, "-c", source, PATH=str(self.bin), PYTHON=python)

    def commands(self):
        """What the stubs were asked to do since the last call: "venv" and "pip", in order."""
        words = [line.split()[0] for line in self.journal.read_text().splitlines()] if self.journal.exists() else []
        self.journal.unlink(missing_ok=True)
        return words


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.mark.parametrize("tf, needed", [("2.20.0", "3.11, 3.12 or 3.13"), ("2.19.1", "3.11 or 3.12")])
def test_without_a_python_the_needed_one_is_named(sandbox, tf, needed):
    result = sandbox.call(f"make_environment test {tf} cpu,test")
    assert (result.returncode, result.stdout) == (1, "")
    assert is_one_sentence(result.stderr) and f"TensorFlow {tf} needs Python {needed}" in result.stderr


def test_pythons_too_old_too_new_or_dead_are_passed_over(sandbox):
    sandbox.add("python3.12")
    sandbox.add("python3.11", "3.10.9")
    sandbox.add("python3.13", "3.14.0")
    assert sandbox.call("find_python 2.20.0").returncode == 1
    sandbox.add("python", "3.11.2")
    assert sandbox.call("find_python 2.20.0").stdout == f"3.11.2 {sandbox.bin}/python\n"


def test_tensorflow_without_a_wheel_for_python_3_13_takes_another_python(sandbox):
    sandbox.add("python3.13", "3.13.0")
    assert sandbox.call("find_python 2.20.0").stdout.startswith("3.13.0 ")
    assert sandbox.call("find_python 2.19.1").returncode == 1
    sandbox.add("python3", "3.12.1")
    assert sandbox.call("find_python 2.19.1").stdout == f"3.12.1 {sandbox.bin}/python3\n"


def test_the_python_that_the_user_names_comes_first_and_is_missed_aloud(sandbox):
    sandbox.add("python3.12", "3.12.1")
    sandbox.add("mine", "3.13.0")
    mine = str(sandbox.bin / "mine")
    assert sandbox.call("find_python 2.20.0", python=mine).stdout == f"3.13.0 {mine}\n"
    result = sandbox.call("find_python 2.19.1", python=mine)
    assert result.stdout == f"3.12.1 {sandbox.bin}/python3.12\n"
    assert is_one_sentence(result.stderr) and f"PYTHON={mine} is no Python 3.11 or 3.12" in result.stderr


MAKE = "make_environment test 2.20.0 cpu,test"
FILL = ["pip"] * 3  # build tools, the package with its extras, and what goes without its dependencies


def test_an_environment_is_made_once_and_filled_again_when_the_requirements_change(sandbox):
    sandbox.add("python3.12", "3.12.1")
    first = sandbox.call(MAKE)
    assert first.stdout == f"{sandbox.repository}/.venv-test-2.20.0/bin/python\n"
    assert sandbox.commands() == ["venv", *FILL]
    second = sandbox.call(MAKE)
    assert (second.stdout, second.stderr, sandbox.commands()) == (first.stdout, "", [])
    with open(sandbox.repository / "setup.cfg", "a") as file:
        file.write("# changed\n")
    sandbox.call(MAKE)
    assert sandbox.commands() == FILL
    sandbox.add("python3.12", "3.12.2")
    sandbox.call(MAKE)
    assert sandbox.commands() == ["venv", *FILL]


def test_the_messages_of_tensorflow_serving_come_pinned_and_alone_and_to_tests_only(sandbox):
    sandbox.add("python3.12", "3.12.1")
    sandbox.call(MAKE)
    pins = "--constraint launch/constraints-tf2.20.txt"
    assert sandbox.journal.read_text().endswith(f" {pins} --no-compile --no-deps tensorflow-serving-api\n")
    sandbox.commands()
    sandbox.call("make_environment demo 2.20.0 cpu,demo")
    assert sandbox.commands() == ["venv", "pip", "pip"]


STANDS_FOR = """#!{bash}
printf '%s\\n' "${{0##*/}} $*" >>{journal}
echo {answer}
exit {code}
"""
INSTALL = "apt-get install --quiet --yes --no-install-recommends chromium chromium-driver"


@pytest.mark.parametrize("user, code, asked", [
    (0, 0, ["apt-get update --quiet", f"{INSTALL} --download-only", f"{INSTALL} --no-download"]),
    (0, 100, ["apt-get update --quiet"]),
    (1000, 0, []),
])  # fmt: skip
def test_the_tests_bring_a_browser_where_one_can_be_installed_and_run_anyhow(sandbox, user, code, asked):
    sandbox.add("python3.12", "3.12.1")
    for tool in ("bash", "timeout"):
        (sandbox.bin / tool).symlink_to(shutil.which(tool))
    for tool, answer, end in [("id", user, 0), ("apt-get", "loud", code)]:
        source = STANDS_FOR.format(bash=BASH, journal=sandbox.journal, answer=answer, code=end)
        (sandbox.bin / tool).write_text(source)
        (sandbox.bin / tool).chmod(stat.S_IRWXU)
    result = run(BASH, sandbox.repository / "launch" / "test.sh", "-x", PATH=str(sandbox.bin), PYTHON="")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "" and "loud" not in result.stderr
    calls = [line for line in sandbox.journal.read_text().splitlines() if line.startswith(("apt-get", "pytest"))]
    assert calls == [*asked, "pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder -x"]


def test_a_failing_pip_shows_its_last_lines_and_the_next_run_starts_afresh(sandbox):
    sandbox.add("python3.12", "3.12.1")
    sandbox.broken.write_text("".join(f"line {i} of pip\n" for i in range(50)))
    result = sandbox.call(MAKE)
    assert (result.returncode, result.stdout) == (1, "")
    assert "line 49 of pip" in result.stderr and "line 0 of pip" not in result.stderr
    assert sandbox.commands() == ["venv", "pip"]
    sandbox.broken.unlink()
    assert sandbox.call(MAKE).returncode == 0
    assert sandbox.commands() == ["venv", *FILL]


def test_a_change_that_fails_to_install_leaves_no_environment_that_looks_complete(sandbox):
    sandbox.add("python3.12", "3.12.1")
    sandbox.call(MAKE)
    with open(sandbox.repository / "setup.cfg", "a") as file:
        file.write("# changed\n")
    sandbox.broken.write_text("no network\n")
    assert sandbox.call(MAKE).returncode == 1
    sandbox.broken.unlink()
    sandbox.commands()
    sandbox.call(MAKE)
    assert sandbox.commands() == ["venv", *FILL]


def test_the_demo_scores_with_the_evaluator_and_ends_with_the_scores_of_digits(sandbox, tmp_path):
    sandbox.add("python3.12", "3.12.1")
    for tool in ("date", "sleep"):
        (sandbox.bin / tool).symlink_to(shutil.which(tool))
    demo = sandbox.repository / "launch" / "demo.sh"
    result = run(BASH, demo, f"--workdir={tmp_path}/demo", PATH=str(sandbox.bin), PYTHON="")
    assert result.returncode == 0, result.stderr
    calls = [line for line in sandbox.journal.read_text().splitlines() if f"--workdir={tmp_path}/demo" in line]
    assert [call.split()[0] for call in calls[:2]] == ["dit_tf.train"] * 2 and len(calls) == 3
    assert "--train_seconds=" in calls[2] and "--start_time=" in calls[2]


def test_the_second_half_of_the_demo_draws_and_scores_in_one_process(trained, tiny_flags, tmp_path):
    """With a model that has learnt little."""
    shutil.copytree(trained, tmp_path / "run")
    data = next(flag.removeprefix("--data_dir=") for flag in tiny_flags if flag.startswith("--data_dir"))
    arguments = [f"--workdir={tmp_path}/run", "--num_samples=100", "--train_seconds=7", "--start_time=0"]
    done = run_command(LAUNCH / "draw_and_score.py", *arguments, environment={"TFDS_DATA_DIR": data})
    assert_quiet(done)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["samples"] == f"{tmp_path}/run/guided.npz" and last["train_seconds"] == 7 and last["total_seconds"] > 7
    assert {"class_agreement_guided", "frechet_pixels_guided", "frechet_pixels_unguided"} < last.keys()
    typed = [line.split()[3] for line in done.stdout.splitlines() if line.startswith("$ ")]
    assert typed == ["dit_tf.sample"] * 2 + ["dit_tf.evaluate", "dit_tf.score_digits"]
    files = ("guided.npz", "unguided.npz", "digits.png", "digits-unguided.png", "metrics.json")
    assert all((tmp_path / "run" / file).exists() for file in files)
