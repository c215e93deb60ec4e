"""Flags to strategies: replicas that were asked for, and one sentence where it cannot be."""

import json
import subprocess
import sys
import types

import pytest
import tensorflow as tf

from dit_tf.runtime.distribution import STRATEGIES, check_batch, device_names, is_tpu, make_strategy


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="multi"), "--strategy must be one of auto, one, mirrored, multiworker, tpu, got 'multi'"),
        (dict(name="tpu"), "--strategy=tpu needs --tpu=NAME"),
        (dict(name="one", tpu="node"), "--tpu=node goes with --strategy=tpu or auto, got --strategy=one"),
        (dict(name="mirrored", tpu="node"), "--tpu=node goes with --strategy=tpu or auto, got --strategy=mirrored"),
        (dict(tpu="node", logical_cpus=2), "--logical_cpus=2 .* cannot go with --tpu=node"),
        (dict(tpu_zone="us-central2-b"), "--tpu_zone and --tpu_project go with --tpu=NAME, got no --tpu"),
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


def test_without_hardware_there_is_one_replica_on_the_cpu():
    if tf.config.list_physical_devices("GPU"):  # here, because a file of tests must not look for devices at its import
        pytest.skip("what a machine without a GPU gets")
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


@pytest.mark.parametrize(
    "replicas, devices, said",
    [
        (1, ["/CPU:0"], "1 CPU"),
        (4, ["/GPU:0", "/GPU:1", "/GPU:2", "/GPU:3"], "4 GPU"),
        (2, ["/job:worker/replica:0/task:1/device:CPU:0"], "2 CPU on 2 hosts"),  # a host names its own devices alone
        (2, [f"/job:worker/replica:0/task:{i}/device:TPU:0" for i in range(2)], "2 TPU on 2 hosts"),  # one drives both
    ],
)
def test_the_devices_of_all_hosts_are_told(replicas, devices, said):
    extended = types.SimpleNamespace(worker_devices=devices)
    assert device_names(types.SimpleNamespace(num_replicas_in_sync=replicas, extended=extended)) == said
