"""What a study costs: expected before it runs, and measured while it does."""

import contextlib
import json
import os
import time

from dit_tf.runtime.distribution import make_strategy
from dit_tf.runtime.peak_flops import peak_flops
from dit_tf.runtime.tpu_chips import parse_topology
from dit_tf.study.grid import Training

_TIMES = "times.jsonl"
_SHARE_OF_PEAK = 0.4  # of the FLOPs of a device that a training or a sampler may be expected to use
_TRAINING_SECONDS, _ROW_SECONDS = 8.0, 1.0  # besides the products: compilation, files
_BELIEVED = 120.0  # seconds of a study at the expected pace, which count beside what was measured
_ANY_PEAK = 2e11  # FLOPs per second, of two CPU cores: how parts compare hardly depends on it


def expected_seconds(unit, peak=_ANY_PEAK):
    """Of a `Training` or a `Row`, on devices that together do so many FLOPs per second at best."""
    start = _TRAINING_SECONDS if isinstance(unit, Training) else _ROW_SECONDS
    return start + 2 * unit.macs / (_SHARE_OF_PEAK * peak)


def listing(trainings, rows, topology):
    """Lines of Markdown: what would run, with parameters, multiply-adds, memory and time by count (see preflight)."""
    where = None if topology is None else parse_topology(topology)
    peak = where.chip.peak_flops * where.cores if where else peak_flops(make_strategy(), trainings[0].config.precision)
    yield "| training | runs | steps | parameters (M) | MACs (M) | training (GMACs) | state (MiB) | rows | expected |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for program in dict.fromkeys(training.program for training in trainings):
        mine = [training for training in trainings if training.program == program]
        their_rows = [row for row in rows if row.training in mine]
        first, counts = mine[0], mine[0].counts
        seconds = sum(expected_seconds(unit, peak) for unit in (*mine, *their_rows))
        cells = [first.name, len(mine), first.options.train_steps, f"{counts['parameters'] / 1e6:.2f}"]
        cells += [f"{counts['macs'] / 1e6:.4g}", f"{first.macs / 1e9:.4g}", f"{counts['state_bytes'] / 2**20:.0f}"]
        yield f"| {' | '.join(map(str, (*cells, len(their_rows), duration(seconds))))} |"
    total = sum(expected_seconds(unit, peak) for unit in (*trainings, *rows))
    place = f"{topology}, by its FLOPs" if where else "this machine"
    size = f"{len(trainings)} trainings, {len(rows)} rows"
    yield f"\n{size}: about {duration(total)} on {place} at {_SHARE_OF_PEAK:.0%} of its peak."
    yield (
        "State is weights, two moments and averages on each core; activations come on top, of which `python -m "
        "dit_tf.preflight --model=... --topology=...` says how much."
    )


def duration(seconds):
    """In the unit that suits: "48 s", "12 min", "3.4 h", "2.1 days"."""
    for size, unit in ((86400, "days"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def seconds_of(workdir):
    """In which some part of a study ran, over all the times that it was started."""
    path, total, until = os.path.join(workdir, _TIMES), 0.0, 0.0
    if not os.path.exists(path):
        return total
    with open(path, encoding="utf-8") as file:
        parts = [json.loads(line) for line in file if line.endswith("\n")]
    for began, ended in sorted((part["began"], part["began"] + part["seconds"]) for part in parts):
        total += max(0.0, ended - max(began, until))  # processes that ran together count once
        until = max(ended, until)
    return total


def note_time(workdir, part, began):
    """To WORKDIR/times.jsonl: how long a part took, up to now. began: a time of day, in seconds."""
    told = dict(part=part, began=round(began, 2), seconds=round(time.time() - began, 2))
    with open(os.path.join(workdir, _TIMES), "a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")


class Clock:
    """How far a study is, by the cost of its parts: those that are there have set the pace."""

    def __init__(self, workdir, units, expected, unfinished):
        """units: all trainings and rows; expected: the seconds of each; unfinished: () -> those that are not there yet,
        for other processes do some of them."""
        self._workdir, self._unfinished, self._count = workdir, unfinished, len(units)
        self._expected = {id(unit): seconds for unit, seconds in zip(units, expected, strict=True)}
        self._total = sum(expected)

    @contextlib.contextmanager
    def timing(self, unit, name):
        """Says what begins and how far the study is; then notes what it took."""
        todo = self._unfinished()
        left = sum(self._expected[id(one)] for one in todo)
        pace = (seconds_of(self._workdir) + _BELIEVED) / (self._total - left + _BELIEVED)
        done = f"{self._count - len(todo)} of {self._count} parts, {abs(1 - left / self._total):.0%} of the work"
        print(f"== {done} done, about {duration(left * pace)} left: {name}", flush=True)
        began = time.time()
        try:
            yield
        finally:
            note_time(self._workdir, name, began)
