"""Two processes that train together, over gRPC on this machine, compute what one does; where one of them is killed both
go on from the newest checkpoint; and where one is asked to stop both do.

Without XLA, whose compilation would be half of the time: a restart is what is tried here.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

from tests.commands import Command
from tests.interruptions_test import STEPS, Training, assert_finished_as

_PATIENCE = 600  # seconds after which a host counts as hanging


class TwoHosts(Training):
    """As `Training`, by two processes of one thread each. Host 0 is the chief."""

    def __init__(self, tiny_flags, workdir, checkpoint_every=50):
        super().__init__(tiny_flags, workdir, checkpoint_every)
        self.command.append("--xla=false")

    def start_both(self):
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        return [self._start(cluster, index) for index in range(2)]

    def _start(self, cluster, index):
        text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return Command(*self.command, environment=one_thread | {"TF_CONFIG": text})

    def run_both(self, number=None, host=0, condition=None, delay=0.0):
        """Start both; send one of them a signal `delay` seconds after the condition is met, if a signal is given.
        -> [(exit code, standard output, standard error) of host 0, of host 1]."""
        processes = self.start_both()
        with contextlib.ExitStack() as stack:
            for process in processes:
                stack.callback(process.kill)
            if number is not None:
                while not condition() and all(process.poll() is None for process in processes):
                    time.sleep(0.002)
                time.sleep(delay)
                processes[host].send_signal(number)
            outputs = [process.communicate(timeout=_PATIENCE) for process in processes]
        return [(process.returncode, *output) for process, output in zip(processes, outputs)]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def metrics(workdir, name="loss"):
    """The lines that have that number."""
    return [line for line in map(json.loads, open(workdir / "metrics.jsonl")) if name in line]


@pytest.fixture(scope="module")
def unbroken(tiny_flags, tmp_path_factory, trained):
    """The work directory of two hosts' training. `trained` has prepared the data set, which they read."""
    training = TwoHosts(tiny_flags, tmp_path_factory.mktemp("hosts"))
    scored = [f"--eval_every={STEPS}", "--eval_samples=80", "--eval_num_steps=4", "--features=pixels"]
    training.command += [f"--sample_every={STEPS}", *scored]
    results = training.run_both()
    assert [code for code, _, _ in results] == [0, 0], results
    assert all("2 replica(s) of 8 examples" in output for _, output, _ in results)
    assert "Finished at step" in results[0][1] and "Finished at step" not in results[1][1]
    return training.workdir


def test_two_hosts_compute_what_one_does(unbroken, trained):
    """Sums in another order, and no XLA: 1e-6 is observed after 200 steps."""
    together, alone = metrics(unbroken), metrics(trained)
    assert len(together) == len(alone) == STEPS // 50
    for line, expected in zip(together, alone):
        for name in ("loss", "mse", "vb", "grad_norm"):
            np.testing.assert_allclose(line[name], expected[name], rtol=1e-4, err_msg=f"{name} at {line['step']}")


def test_the_chief_alone_writes(unbroken):
    assert (unbroken / "samples" / f"{STEPS:08d}.png").read_bytes().startswith(b"\x89PNG")
    there = {re.sub(r"events\..*", "events", name) for name in os.listdir(unbroken)}
    files = {"flags.txt", "lock", "metrics.jsonl", "model.keras"}
    assert there - {"events"} == files | {"checkpoints", "ema", "evaluation", "samples"}
    assert len([name for name in os.listdir(unbroken) if name.startswith("events.")]) <= 1


def test_the_chief_alone_scores(unbroken):
    """The images are those of the averaged weights, which are the same on every host."""
    (line,) = metrics(unbroken, "FD-pixels-80")
    assert line["step"] == STEPS and np.isfinite(list(line.values())).all() and 0 <= line["precision-pixels-80"] <= 1


def test_a_host_is_killed_and_the_other_and_one_is_asked_to_stop(unbroken, tiny_flags, tmp_path):
    training, chance = TwoHosts(tiny_flags, tmp_path), random.Random(0)
    for host, name in ((0, "unfinished-00000100"), (1, "00000150")):
        results = training.run_both(signal.SIGKILL, host, training.has(name), chance.uniform(0, 0.2))
        assert results[host][0] == -signal.SIGKILL and results[1 - host][0] == 75, results
        assert "dit_tf.train: another host, the TPU or a remote disk is gone (" in results[1 - host][2]
        assert "Traceback" not in results[1 - host][2]
    before = training.newest()
    assert before >= 150

    results = training.run_both(signal.SIGTERM, 1, training.has(f"{before + 50:08d}"))
    assert [code for code, _, _ in results] == [75, 75], results
    assert all(f"Resuming from step {before}\n" in output for _, output, _ in results)
    assert all("dit_tf.train: ended by SIGTERM" in errors for _, _, errors in results)
    stopped_at = training.newest()
    assert before + 50 <= stopped_at < STEPS

    results = training.run_both()
    assert [code for code, _, _ in results] == [0, 0], results
    assert all(f"Resuming from step {stopped_at}\n" in output for _, output, _ in results)
    assert_finished_as(tmp_path, unbroken)


@pytest.mark.kills
def test_ten_kills_of_hosts_that_are_each_started_again_at_once(unbroken, tiny_flags, tmp_path, capsys):
    """As on two machines with a loop on each: what ends is started again, whether the other has noticed or not."""
    chance, kills, finished = random.Random(0), 0, 0
    while kills < 10:
        training = TwoHosts(tiny_flags, tmp_path / f"{finished}", checkpoint_every=10)
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        hosts, next_kill = [None, None], time.monotonic() + chance.uniform(5, 40)
        began = time.monotonic()
        try:
            while hosts != [0, 0]:
                assert time.monotonic() - began < 3 * _PATIENCE
                for index, process in enumerate(hosts):
                    code = process.poll() if isinstance(process, Command) else process
                    if code == 0:
                        hosts[index] = 0
                    elif process is None or code is not None:
                        assert code in (None, 75, -signal.SIGKILL), process.communicate()
                        hosts[index] = training._start(cluster, index)
                victim = hosts[chance.randrange(2)]
                written = os.path.exists(training.workdir / "model.keras")  # one that is started now would be alone
                if kills < 10 and time.monotonic() > next_kill and victim != 0 and not written:
                    before = training.newest()
                    victim.kill()
                    kills, next_kill = kills + 1, time.monotonic() + chance.uniform(2, 45)
                    with capsys.disabled():
                        print(f"\nkill {kills}: host {hosts.index(victim)}, newest {before}", end="", flush=True)
                time.sleep(0.05)
        finally:
            for process in hosts:
                if isinstance(process, Command):
                    process.kill()
        assert_finished_as(training.workdir, unbroken)
        finished += 1


@pytest.mark.slow
def test_two_hosts_go_on_with_another_batch_as_one_does(tiny_flags, trained, tmp_path):
    losses = []
    for place, kind in enumerate((TwoHosts, Training)):
        training = kind(tiny_flags, tmp_path / f"{place}" / "run", checkpoint_every=50)
        shutil.copytree(trained, training.workdir)
        training.command += ["--global_batch_size=8", f"--train_steps={STEPS + 100}", "--resume_with=global_batch_size"]
        results = training.run_both() if kind is TwoHosts else [training.run()]
        assert all(code == 0 for code, _, _ in results), results
        losses.append([line["loss"] for line in metrics(training.workdir)[-2:]])
    np.testing.assert_allclose(*losses, rtol=1e-4)
