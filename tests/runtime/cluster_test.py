"""TF_CONFIG to the place of a host among the others, and one sentence where it says no such thing."""

import json

import pytest
import tensorflow as tf

from dit_tf.runtime.cluster import Cluster, Hosts, check_same_start, read_cluster


def tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_the_chief_comes_first_and_workers_in_their_order(monkeypatch):
    workers, chief = ["b:1", "c:1"], ["a:1"]
    cases = {
        tf_config({"worker": workers}): Cluster(("b:1", "c:1"), 0),
        tf_config({"worker": workers}, index=1): Cluster(("b:1", "c:1"), 1),
        tf_config({"worker": workers, "chief": chief}, index=1): Cluster(("a:1", "b:1", "c:1"), 2),
        tf_config({"worker": workers, "chief": chief}, "chief"): Cluster(("a:1", "b:1", "c:1"), 0),
        "": None,
    }
    for text, expected in cases.items():
        monkeypatch.setenv("TF_CONFIG", text)
        assert read_cluster() == expected
    monkeypatch.delenv("TF_CONFIG")
    assert read_cluster() is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "TF_CONFIG must be JSON such as .*, got '{'"),
        ("[]", "TF_CONFIG must be JSON such as"),
        ("[" * 100_000, "TF_CONFIG must be JSON such as .*\\.\\.\\.'\\.$"),
        ('{"cluster": {"worker": ["a:1"]}}', "TF_CONFIG must be JSON such as"),
        (tf_config({"worker": "a:1"}), "TF_CONFIG must be JSON such as"),
        (tf_config({"worker": [1]}), "TF_CONFIG must be JSON such as"),
        (tf_config({"worker": ["a:one"]}), "TF_CONFIG must be JSON such as"),
        (tf_config({"worker": ["10.0.0.1"]}), "TF_CONFIG must be JSON such as"),
        (tf_config({"worker": None}), "TF_CONFIG must be JSON such as"),
        (tf_config(["a:1"]), "TF_CONFIG must be JSON such as"),
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "no jobs but chief and worker, got ps"),
        (tf_config({"worker": ["a:1", "a:1"]}), "every host once, and one chief at most, got a:1, a:1"),
        (tf_config({"chief": ["a:1", "b:1"]}, "chief"), "every host once, and one chief at most, got a:1, b:1"),
        (tf_config({"worker": ["a:1"]}, index=1), "one of its cluster's, got type 'worker' and index 1"),
        (tf_config({"worker": ["a:1"]}, index=-1), "one of its cluster's, got type 'worker' and index -1"),
        (tf_config({"worker": ["a:1"]}, index="0"), "one of its cluster's, got type 'worker' and index '0'"),
        (tf_config({"worker": ["a:1"]}, index=True), "one of its cluster's, got type 'worker' and index True"),
        (tf_config({"worker": ["a:1"]}, "chief"), "one of its cluster's, got type 'chief' and index 0"),
        (tf_config({"worker": ["a:1"]}, ["worker"]), "one of its cluster's"),
    ],
)
def test_a_damaged_tf_config_is_refused_in_one_sentence(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=message) as error:
        read_cluster()
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("devices", [["CPU:0"], ["CPU:0", "CPU:1"]])
def test_replicas_of_one_host_are_one_host(monkeypatch, devices):
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": ["a:1", "b:1"]}))
    hosts = Hosts(tf.distribute.MirroredStrategy(devices))
    assert (hosts.index, hosts.count, hosts.chief) == (0, 1, True)
    assert hosts.gather(2**40) == [2**40] and hosts.gather(True) == [1]
    hosts.part()


def test_hosts_begin_at_one_step():
    check_same_start("runs/a", [50, 50])
    with pytest.raises(ValueError, match="--workdir=runs/a must be on a disk that all hosts share: .* steps 50, 0"):
        check_same_start("runs/a", [50, 0])
