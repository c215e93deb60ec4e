"""The hosts that train together: what TF_CONFIG says of them, and what they tell each other."""

import dataclasses
import json
import os
import re

import tensorflow as tf

# What is raised where another host of the training, a TPU or a remote disk is gone or silent: that may pass.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
_EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Addresses of all hosts, the same on each, and the place of this one among them."""

    addresses: tuple[str, ...]
    index: int


def read_cluster():
    """The Cluster of the environment variable TF_CONFIG, or None where it is not set.

    The host of the job "chief", if there is one, comes first, then those of the job "worker". ValueError where
    TF_CONFIG is no such thing.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        fields = json.loads(text)
        jobs, task = fields["cluster"], fields["task"]
        kind, index = task["type"], task["index"]
        addresses = [address for job in ("chief", "worker") for address in jobs.get(job, [])]
        well_formed = all(re.fullmatch(r"\S+:\d{1,5}", address) for address in addresses)
        others = sorted(set(jobs) - {"chief", "worker"})
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        well_formed, others = False, []
    if not well_formed:
        raise ValueError(f"TF_CONFIG must be JSON such as {_EXAMPLE}, got {_short(text)}.")
    if others:
        raise ValueError(f"TF_CONFIG must have no jobs but chief and worker, got {', '.join(others)}.")
    if len(set(addresses)) < len(addresses) or len(jobs.get("chief", [])) > 1:
        raise ValueError(f"TF_CONFIG must name every host once, and one chief at most, got {', '.join(addresses)}.")
    count = len(jobs.get(kind, [])) if isinstance(kind, str) else 0
    if type(index) is not int or not 0 <= index < count:
        raise ValueError(f"The task of TF_CONFIG must be one of its cluster's, got type {kind!r} and index {index!r}.")
    return Cluster(tuple(addresses), index + (len(jobs.get("chief", [])) if kind == "worker" else 0))


def _short(text):
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


class Hosts:
    """The hosts of a strategy. index: the place of this one, count: of how many. The first alone writes: it is `chief`.

    A program that drives all hosts of a TPU slice is one host here.
    """

    def __init__(self, strategy):
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        cluster = read_cluster() if several else Cluster(("",), 0)
        self.index, self.count, self._strategy = cluster.index, len(cluster.addresses), strategy
        self._sum = tf.function(self._sum_over_replicas, autograph=False)

    @property
    def chief(self):
        return self.index == 0

    def gather(self, value):
        """One integer of every host, in their order: a list, the same on each. Every host must call it."""
        if self.count == 1:
            return [int(value)]
        row = tf.one_hot(self.index, self.count, int(value), 0, dtype=tf.int64)
        return (self._sum(row).numpy() // (self._strategy.num_replicas_in_sync // self.count)).tolist()

    def part(self):
        """To be called by every host when its work is done: none goes before all have come here. One of `LOST` where
        another is gone earlier, whose work may have to be done again."""
        self.gather(0)
        try:  # a host that goes now can no longer be asked for what others still wait for
            self.gather(0)
        except LOST:
            pass

    def _sum_over_replicas(self, row):
        # A reduction needs to know a device, which an argument does not tell.
        total = self._strategy.run(lambda x: _replica().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(x)), (row,))
        return self._strategy.experimental_local_results(total)[0]


def _replica():
    return tf.distribute.get_replica_context()


def check_same_start(workdir, starts):
    """ValueError unless all hosts begin at one step: they must see the same checkpoints."""
    if len(set(starts)) > 1:
        raise ValueError(
            f"--workdir={workdir} must be on a disk that all hosts share: they begin at the steps "
            f"{', '.join(map(str, starts))}."
        )
