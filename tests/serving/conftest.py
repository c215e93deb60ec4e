"""A model that was trained and exported, and processes that serve it without dit_tf."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import psutil
import pytest

from dit_tf.serving.client import connect
from tests.exported import exported_once

_SERVER = pathlib.Path(__file__).with_name("model_server.py")
_START = 120  # seconds that TensorFlow may take to start on a busy machine
_RUN = os.getpid()  # the process that the tests of every file are forked from


@dataclasses.dataclass(frozen=True)
class Server:
    """addresses: {protocol: --server=}."""

    process: psutil.Process
    addresses: dict


@pytest.fixture(scope="session")
def exported(once, parse, trained):
    return exported_once(once, parse, trained)


@pytest.fixture(scope="session")
def servers(exported, once):
    """Two processes of model_server.py, which serve `exported` as dit to all files until the run is over."""

    def start(directory):
        command = [sys.executable, "-I", _SERVER, exported, "dit", str(_RUN), "2"]
        with open(directory / "log", "w") as out, open(directory / "errors", "w") as err:
            process = subprocess.Popen(command, stdout=out, stderr=err)
        end = time.monotonic() + _START
        while (directory / "log").read_text().count("\n") < 2:
            assert process.poll() is None and time.monotonic() < end, (directory / "errors").read_text()
            time.sleep(0.1)

    found = [json.loads(line) for line in (once("servers", start) / "log").read_text().splitlines()]
    addresses = [{name: f"{name}://127.0.0.1:{ports[name]}" for name in ("grpc", "http")} for ports in found]
    return [Server(psutil.Process(ports["pid"]), at) for ports, at in zip(found, addresses)]


@pytest.fixture(scope="session")
def server(servers):
    """The one that several files may ask at once."""
    return servers[0]


@pytest.fixture(scope="session")
def clients(server):
    """{protocol: the client of the server}."""
    return {name: connect(address, "dit") for name, address in server.addresses.items()}
