"""What launch/tpu-worker.sh does on a TPU's hosts: trains again on exit code 75 alone, serves a slice, and stops."""

import fcntl
import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch_stubs import BASH, JOURNAL, LAUNCH, Desk

PYTHON = """#!{bash}
case "$1 $2" in
    "-c import libtpu"*) echo /pinned/libtpu.so ;;
    "-m dit_tf.train")
        printf '%s\\x1f' "${{@:3}}" "${{TPU_LIBRARY_PATH-unset}}" "${{TPU_LOAD_LIBRARY-unset}}" >>{root}/journal
        echo >>{root}/journal
        if [[ -e {root}/waits ]]; then trap 'exit 75' TERM; while true; do read -r -t 0.02 <> <(:) || true; done; fi
        read -r code <{root}/codes; tail -n +2 {root}/codes >{root}/rest; cat {root}/rest >{root}/codes
        exit "$code" ;;
esac
"""
SERVER = r"""#!{bash}
printf '%s\x1f' "${{0##*/}}" "${{TPU_LIBRARY_PATH-unset}}" "${{TPU_LOAD_LIBRARY-unset}}" >>{root}/journal
echo >>{root}/journal
exec tail -f /dev/null
"""
CURL = """#!{bash}
case "${{*: -1}}" in
    http://metadata.google.internal/*/agent-worker-number) echo "$(<{root}/number)" ;;
    http://metadata.google.internal/*/worker-network-endpoints) echo "$(<{root}/endpoints)" ;;
    *) exit 22 ;;
esac
"""


class Host(Desk):
    """A host of a TPU: tpu-worker.sh with stubs for the environment's Python, the metadata and the server."""

    def __init__(self, root):
        super().__init__(root)
        shutil.copytree(LAUNCH, root / "dit_tf" / "launch")
        for name, source in [("python", PYTHON), ("start_grpc_tpu_worker", SERVER)]:
            self.add(name, source)
            target = root / "dit_tf" / ".venv-tpu-2.20.0" / "bin" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.bin / name).rename(target)
        self.add("curl", CURL)
        self.add("timeout", "#!{bash}\n")  # whoever is called answers
        self.answers(number=[0], endpoints=["unknown:0:10.0.0.1"])

    def run(self, *arguments):
        return subprocess.run(
            [BASH, "dit_tf/launch/tpu-worker.sh", *arguments],
            capture_output=True, text=True, timeout=60, cwd=self.root,
            env={"PATH": str(self.bin), "HOME": str(self.root)},
        )  # fmt: skip

    def serves(self):
        with open(self.root / "dit_tf-run" / "server.lock") as lock:
            for _ in range(100):  # a killed process holds its lock a moment longer
                try:
                    return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.01)
        return True

    def until(self, text):
        """Waits for `text` in the status; ten seconds are far more than it takes."""
        for _ in range(200):
            status = self.run("status").stdout.splitlines()[0]
            if status == f"training: {text}":
                return
            time.sleep(0.05)
        raise AssertionError(f"{status}, not {text}: {(self.root / 'dit_tf-run' / 'train.log').read_text()}")


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path / "host")
    yield host
    host.run("stop")
    host.run("stop_server")


@pytest.mark.parametrize("codes, outcome", [
    ([75, 75, 0], "finished"), ([75, 1], "failed with exit code 1"), ([74], "failed with exit code 74"),
    ([137], "failed with exit code 137"), ([0], "finished"),
])  # fmt: skip
def test_a_training_starts_again_on_exit_code_75_and_on_no_other(host, codes, outcome):
    host.answers(codes=[*codes, 0])
    result = host.run("start", "gs://bucket/run")
    assert result.returncode == 0, result.stderr
    host.until(outcome)
    command = [f"--flagfile={host.root}/dit_tf.flags", "--workdir=gs://bucket/run", "--tpu=local"]
    assert host.calls() == [[*command, "/pinned/libtpu.so", "unset"]] * len(codes)


def test_a_training_that_is_stopped_does_not_start_again_and_a_second_start_is_refused(host):
    host.answers(waits=[], codes=[0])
    assert host.run("status").stdout == "training: none\n"
    host.run("start", "gs://bucket/run")
    host.until("running")
    second = host.run("start", "gs://bucket/run")
    assert second.returncode == 1 and second.stderr.startswith("A training runs here already")
    host.calls(1)
    assert host.run("stop").stdout.startswith("training: stopped\n")
    assert host.calls() == []
    (host.root / "waits").unlink()
    host.run("start", "gs://bucket/run")
    host.until("finished")


@pytest.mark.parametrize("number", [0, 1])
def test_on_a_slice_every_host_serves_until_told_not_to_and_host_0_trains_with_all_of_them(host, number):
    host.answers(number=[number], codes=[0], endpoints=["unknown:0:10.0.0.1,unknown:0:10.0.0.2"])
    assert host.run("start", "gs://bucket/run").returncode == 0
    if number == 0:
        host.until("finished")
    served = ["start_grpc_tpu_worker", "/pinned/libtpu.so", "unset"]
    tpu = "--tpu=grpc://10.0.0.1:8470,grpc://10.0.0.2:8470"
    trained = [f"--flagfile={host.root}/dit_tf.flags", "--workdir=gs://bucket/run", tpu, "unset", "0"]
    assert sorted(host.calls(1 + (number == 0))) == sorted([served] + [trained] * (number == 0))
    group = int((host.root / "dit_tf-run" / "server.pid").read_text())
    os.killpg(group, signal.SIGTERM)
    time.sleep(0.1)  # time enough to die of it
    assert host.serves()
    assert host.run("stop_server").returncode == 0
    assert not host.serves()


def test_a_host_without_an_environment_says_what_makes_one(host):
    shutil.rmtree(host.root / "dit_tf" / ".venv-tpu-2.20.0")
    result = host.run("start", "gs://bucket/run")
    assert result.returncode == 1 and "launch/tpu.sh install makes it" in result.stderr


def test_install_brings_a_python_where_there_is_none_and_takes_the_pins_of_the_extra_tpu(host):
    shutil.rmtree(host.root / "dit_tf" / ".venv-tpu-2.20.0")
    shutil.copy(LAUNCH.parent / "setup.cfg", host.root / "dit_tf")
    for tool in ("cksum", "cp"):
        (host.bin / tool).symlink_to(shutil.which(tool))
    python = JOURNAL + (
        'case "$1 $2" in\n'
        '    "-c "*sys*) echo "3.11.0 $0" ;;\n'
        '    "-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;\nesac\n'
    )
    host.add("later", python)
    (host.bin / "later").rename(host.root / "later")
    host.add("sudo", JOURNAL + '[[ $* != *install* ]] || cp {root}/later "${{0%/*}}/python3.11"\n')
    result = host.run("install")
    assert result.returncode == 0, result.stderr
    calls = [" ".join(words) for words in host.calls()]
    assert [call.split()[-2:] for call in calls if call.startswith("sudo")][-1] == ["python3.11", "python3.11-venv"]
    pip = [call for call in calls if "-m pip" in call][-1]
    assert "--constraint launch/constraints-tf2.20.txt" in pip and pip.endswith("--editable .[tpu]")
