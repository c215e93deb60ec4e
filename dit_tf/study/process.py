"""Parts of a study, each in a process of its own, since what XLA has compiled is given back by the end of a process
alone: a study of small networks would grow by 60 MB with each of its hundred programs."""

import collections
import contextlib
import multiprocessing
import signal
import time
from multiprocessing import connection
from typing import NamedTuple

from dit_tf.flags.command_line import quieten_libraries
from dit_tf.runtime import compile_cache
from dit_tf.runtime.preemption import START_AGAIN, Preempted, end_at_sigterm, end_with_parent

# Each is forked from one process that has imported TensorFlow and computed nothing, which saves its seconds.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["dit_tf.study.work"])


class Place(NamedTuple):
    """Where a part runs. slot: a number below those at once, no two of them at a time have the same; started: the time
    of day at which its process was asked for."""

    slot: int
    started: float


def run_alone(function, calls, at_once=1):
    """function(place, *arguments) for the arguments of each call, so many at once, in processes that print to where
    this one does and end when this one is killed. place: a `Place`.

    Ctrl-C and SIGTERM reach all of them, and where one fails the others are asked to end; they are waited for. Raises
    the ValueError, `Preempted` or KeyboardInterrupt that came first. function: of a module, for it is imported there.
    """
    waiting, running, ends = collections.deque(calls), [], []

    def end_all(reason):
        ends.append(reason)
        for part in running:
            part.process.terminate()

    before = signal.signal(signal.SIGTERM, lambda number, frame: end_all(Preempted()))
    try:
        while running or (waiting and not ends):
            while waiting and len(running) < at_once and not ends:
                slot = min(set(range(at_once)) - {part.slot for part in running})
                running.append(_Part(Place(slot, time.time()), function, waiting.popleft()))
                if ends:  # the signal has come while it started
                    running[-1].process.terminate()
            try:
                connection.wait([part.process.sentinel for part in running])
            except KeyboardInterrupt as interrupt:
                if any(isinstance(end, KeyboardInterrupt) for end in ends):
                    raise  # again: at once
                # The terminal has told them all: they stop at the end of their execution of steps.
                ends.append(interrupt)
            for part in [part for part in running if not part.process.is_alive()]:
                running.remove(part)
                end = part.end()
                if end is not None:
                    end_all(end)
    finally:
        for part in running:
            part.process.kill()
        signal.signal(signal.SIGTERM, before)
    if ends:
        raise ends[0]


class _Part:
    """One call, in its process."""

    def __init__(self, place, function, arguments):
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self.slot = place.slot
        self.process = _CONTEXT.Process(target=_tell, args=(sender, function, (place, *arguments)), daemon=True)
        self.process.start()
        sender.close()

    def end(self):
        """What it raised, now that it has ended; None where it has done its work."""
        with contextlib.suppress(EOFError):  # it has said nothing
            return self._receiver.recv()
        if self.process.exitcode == START_AGAIN:
            return Preempted()
        if self.process.exitcode:
            return ValueError(
                f"A part of the study ended without a word (exit code {self.process.exitcode}), as it does where "
                "memory runs out: the same command goes on with it."
            )


def _tell(sender, function, arguments):
    end_at_sigterm()
    end_with_parent()
    quieten_libraries()
    compile_cache.enable()
    try:
        function(*arguments)
    except (ValueError, Preempted, KeyboardInterrupt) as error:
        sender.send(type(error)(*map(str, error.args)))
