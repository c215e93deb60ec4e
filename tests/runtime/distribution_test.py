"""Flags to strategies: replicas that were asked for, and one sentence where it cannot be."""

import json
import re
import resource
import subprocess
import sys
import threading
import time

import pytest
import tensorflow as tf

from dit_tf.runtime import distribution
from dit_tf.runtime.distribution import STRATEGIES, check_batch, is_tpu, make_strategy


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="multi"), "--strategy must be one of auto, one, mirrored, multiworker, tpu, got 'multi'"),
        (dict(name="tpu"), "--strategy=tpu needs --tpu=NAME"),
        (dict(name="one", tpu="node"), "--tpu=node goes with --strategy=tpu or auto, got --strategy=one"),
        (dict(name="mirrored", tpu="node"), "--tpu=node goes with --strategy=tpu or auto, got --strategy=mirrored"),
        (dict(tpu="node", logical_cpus=2), "--logical_cpus=2 .* cannot go with --tpu=node"),
        (dict(logical_cpus=-1), "--logical_cpus must not be negative, got -1"),
        (dict(name="multiworker"), "--strategy=multiworker goes with train; this command runs on one host"),
        (dict(name="multiworker", several_hosts=True), "--strategy=multiworker needs TF_CONFIG, .* it is not set"),
        (dict(name="multiworker", tpu="node"), "--tpu=node goes with --strategy=tpu or auto, got --strategy=multi"),
    ],
)
def test_combinations_that_cannot_be_are_refused(monkeypatch, arguments, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=message):
        make_strategy(**arguments)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="what a machine without a GPU gets")
def test_without_hardware_there_is_one_replica_on_the_cpu():
    assert isinstance(make_strategy(), tf.distribute.OneDeviceStrategy)
    assert isinstance(make_strategy("one"), tf.distribute.OneDeviceStrategy)
    assert make_strategy("mirrored").num_replicas_in_sync == 1
    assert not is_tpu(make_strategy())


def test_tf_config_is_for_commands_that_can_share_their_work(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "damaged")
    for one_host in (dict(name="auto"), dict(name="one"), dict(name="one", several_hosts=True)):
        assert make_strategy(**one_host).num_replicas_in_sync == 1
    for name in ("auto", "multiworker"):
        with pytest.raises(ValueError, match="TF_CONFIG must be JSON"):
            make_strategy(name, several_hosts=True)
    two = {"cluster": {"worker": ["10.0.0.1:1", "10.0.0.2:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(two))
    assert make_strategy().num_replicas_in_sync == 1
    with pytest.raises(ValueError, match="--logical_cpus=2 goes with one host, got the 2 of TF_CONFIG"):
        make_strategy(logical_cpus=2, several_hosts=True)


@pytest.mark.parametrize("batch, fits", [(4, True), (2, True), (3, False), (0, False), (-2, False)])
def test_every_replica_gets_the_same_whole_number_of_examples(batch, fits):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if fits:
        return check_batch("--batch_size", batch, strategy)
    with pytest.raises(ValueError, match=rf"--batch_size must be a positive multiple .* \(2\), got {batch}\."):
        check_batch("--batch_size", batch, strategy)


@pytest.fixture(scope="module")
def logical_cpus():
    """What make_strategy gives for each name and --logical_cpus=2, in a process that has no devices yet."""
    code = """
from dit_tf.runtime import distribution
for name in ("auto", "one", "mirrored"):
    strategy = distribution.make_strategy(name, logical_cpus=2)
    kind = type(strategy).__name__.removesuffix("V1")
    print(name, kind, strategy.num_replicas_in_sync, *strategy.extended.worker_devices)
    distribution._split_cpu = lambda count: None  # a process can split its CPU only once
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {line.split()[0]: line.split()[1:] for line in process.stdout.splitlines()}


def test_logical_cpus_stand_in_for_replicas(logical_cpus):
    cpus = ["/job:localhost/replica:0/task:0/device:CPU:0", "/job:localhost/replica:0/task:0/device:CPU:1"]
    assert logical_cpus["auto"] == logical_cpus["mirrored"] == ["MirroredStrategy", "2", *cpus]
    assert logical_cpus["one"][:2] == ["OneDeviceStrategy", "1"]
    assert set(logical_cpus) == set(STRATEGIES) - {"multiworker", "tpu"}


_REMEDY = "Check the name, zone and project; on a TPU VM install '.[tpu]' and use --tpu=local; leave --tpu out to train"


def test_a_tpu_that_does_not_answer_is_given_up_after_the_deadline(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda tpu: released.wait())
    monkeypatch.setattr(distribution, "_TPU_TIMEOUT_SECONDS", 0.2)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=re.escape(f"--tpu=node cannot be reached: no answer within 0 s. {_REMEDY}")):
        make_strategy(tpu="node")
    assert 0.2 <= time.perf_counter() - began < 2
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    released.set()  # the thread ends without having touched TensorFlow's devices


@pytest.mark.parametrize("error", [OSError("no route to host.\nDetails follow"), RuntimeError(), KeyError("zone")])
def test_a_search_that_fails_says_why_and_what_to_do(monkeypatch, error):
    def fail(tpu):
        raise error

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", fail)
    reason = {OSError: "no route to host", RuntimeError: "RuntimeError", KeyError: "'zone'"}[type(error)]
    with pytest.raises(ValueError, match=re.escape(f"--tpu=node cannot be reached: {reason}. {_REMEDY}")) as raised:
        make_strategy(tpu="node")
    assert "\n" not in str(raised.value)


def test_the_command_names_an_unreachable_tpu_within_30_seconds(tmp_path):
    """192.0.2.0/24 is set aside for documentation (RFC 5737): nothing answers there. The imports count as well: by the
    time of the CPU, since another test may run beside this one."""
    command = [sys.executable, "-m", "dit_tf.train", "--tpu=grpc://192.0.2.1:8470", f"--workdir={tmp_path}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    computing = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert process.returncode == 1
    assert "dit_tf.train: --tpu=grpc://192.0.2.1:8470 cannot be reached" in process.stderr and _REMEDY in process.stderr
    assert computing + distribution._TPU_TIMEOUT_SECONDS < 30
