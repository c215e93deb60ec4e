"""--tpu: a TPU that does not answer is one sentence in time, and versions that cannot use one are refused at once."""

import re
import resource
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from dit_tf.runtime import tpu_connection
from dit_tf.runtime.tpu_connection import connect

_REMEDY = (
    "Check the name, --tpu_zone and --tpu_project; on a TPU VM install '.[tpu]' and use --tpu=local; leave --tpu out "
    "to train"
)


def test_a_tpu_that_does_not_answer_is_given_up_after_the_deadline(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda **_: released.wait())
    monkeypatch.setattr(tpu_connection, "_TIMEOUT_SECONDS", 0.2)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=re.escape(f"--tpu=node cannot be reached: no answer within 0 s. {_REMEDY}")):
        connect("node")
    assert 0.2 <= time.perf_counter() - began < 2
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    released.set()  # the thread ends without having touched TensorFlow's devices


@pytest.mark.parametrize("error", [OSError("no route to host.\nDetails follow"), RuntimeError(), KeyError("zone")])
def test_a_search_that_fails_says_why_and_what_to_do(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", fail)
    reason = {OSError: "no route to host", RuntimeError: "RuntimeError", KeyError: "'zone'"}[type(error)]
    with pytest.raises(ValueError, match=re.escape(f"--tpu=node cannot be reached: {reason}. {_REMEDY}")) as raised:
        connect("node")
    assert "\n" not in str(raised.value)


_SOONER = """
import runpy
from dit_tf.runtime import tpu_connection
tpu_connection._TIMEOUT_SECONDS /= 9
runpy.run_module("dit_tf.train", run_name="__main__", alter_sys=True)
"""


def test_the_command_names_an_unreachable_tpu_within_30_seconds(tmp_path):
    """192.0.2.0/24 is set aside for documentation (RFC 5737): nothing answers there. The imports count as well: by the
    time of the CPU, since another test may run beside this one. Of the wait a ninth is waited."""
    command = [sys.executable, "-c", _SOONER, "--tpu=grpc://192.0.2.1:8470", f"--workdir={tmp_path}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computing = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert process.returncode == 1
    assert re.search(r"\n  2\.20\.0 +tensorflow-tpu 2\.20\.0 +0\.0\.14 ", process.stdout)  # the table, at once
    said = process.stderr.splitlines()[-1]
    if tf.__version__.startswith("2.21."):  # which has no TPU wheel, so that none is sought
        assert said.startswith("dit_tf.train: --tpu=grpc://192.0.2.1:8470 needs tensorflow-tpu") and "2.20.0" in said
    else:
        assert said.startswith("dit_tf.train: --tpu=grpc://192.0.2.1:8470 cannot be reached") and _REMEDY in said
    assert computing + tpu_connection._TIMEOUT_SECONDS < 30


def test_zone_and_project_go_to_googles_lookup(monkeypatch):
    seen = {}

    def resolver(**arguments):
        seen.update(arguments)
        raise KeyError("none")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    with pytest.raises(ValueError, match="--tpu=node cannot be reached"):
        connect("node", "us-central2-b", "mine")
    assert seen == dict(tpu="node", zone="us-central2-b", project="mine")


@pytest.mark.parametrize("tpu", ["local", "grpc://10.0.0.1:8470,10.0.0.2:8470"])
def test_zone_and_project_go_with_a_name_alone(tpu):
    with pytest.raises(ValueError, match=f"--tpu_zone and --tpu_project go with the name of a TPU, got --tpu={tpu}:"):
        connect(tpu, project="mine")
