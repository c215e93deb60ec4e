"""A model that was trained and exported, and a process that serves it without dit_tf."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import pytest

from dit_tf import export, flags
from dit_tf.serving.client import connect

_SERVER = pathlib.Path(__file__).with_name("model_server.py")
_START = 120  # seconds that TensorFlow may take to start on a busy machine


@dataclasses.dataclass(frozen=True)
class Server:
    """addresses: {protocol: --server=}."""

    process: subprocess.Popen
    addresses: dict


@pytest.fixture(scope="session")
def exported(parse, trained, tmp_path_factory):
    """A version of the tiny model, with ten steps of DDIM."""
    output = tmp_path_factory.mktemp("models") / "dit" / "1"
    sampler = ["--sampler=ddim", "--num_steps=10", "--xla", "--batch_sizes=1,2,4,8,64"]
    export.main(parse(flags.define_export, f"--workdir={trained}", *sampler, f"--output={output}"))
    return output


@pytest.fixture(scope="session")
def server(exported, tmp_path_factory):
    """model_server.py, which serves `exported` as dit."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-I", _SERVER, exported, "dit"]
    with open(log, "w") as out, open(log.with_suffix(".err"), "w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
    end = time.monotonic() + _START
    while "\n" not in log.read_text():
        assert process.poll() is None and time.monotonic() < end, log.with_suffix(".err").read_text()
        time.sleep(0.1)
    ports = json.loads(log.read_text().splitlines()[0])
    yield Server(process, {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()})
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def clients(server):
    """{protocol: the client of the server}."""
    return {name: connect(address, "dit") for name, address in server.addresses.items()}
