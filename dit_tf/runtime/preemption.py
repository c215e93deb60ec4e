"""Polite requests to end: SIGTERM, which is also how the preemption of a spot machine arrives, and Ctrl-C.

Thirty seconds before Google Cloud takes a spot or preemptible machine away, it presses the machine's power button
(ACPI G2); the operating system then shuts down, and sends SIGTERM to every process. Whatever starts trainings should
start them again, with the same command, where they end with `START_AGAIN`.
"""

import contextlib
import multiprocessing
import os
import signal
import threading

START_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: "a temporary failure, try again later"


class Preempted(Exception):
    """Raised where a run has ended itself because it was asked to; the same command goes on."""


def end_at_sigterm():
    """For the time before there is a `StopRequest`, such as that of the imports: SIGTERM ends the process at once, as
    one to be started again."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(START_AGAIN))


def end_with_parent():
    """In a process that multiprocessing has started: it ends as soon as the one that started it is gone. A parent that
    is killed cannot end it, and it would go on, with its gigabytes and its files, beside what is started next."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class StopRequest:
    """While entered, from the main thread, SIGTERM is only noted. `asked`: whether it has come.

    Python hears of a signal between two calls, so during an execution of the compiled step nothing happens: keep
    --steps_per_execution steps well below the thirty seconds.
    """

    def __init__(self):
        self.asked = self.interrupted = False

    def __enter__(self):
        self._before = signal.getsignal(signal.SIGTERM)
        self.listen()
        return self

    def __exit__(self, *exception):
        signal.signal(signal.SIGTERM, self._before)

    def listen(self):
        """Once more, after TensorFlow's server of several hosts has started, which takes the signal for itself."""
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number, frame):
        self.asked = True

    @contextlib.contextmanager
    def noting_interrupts(self):
        """Inside, the first Ctrl-C is only noted too: `interrupted`. The next raises KeyboardInterrupt at once."""
        self.interrupted = False
        before = signal.signal(signal.SIGINT, self._note_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _note_interrupt(self, number, frame):
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        # Not by print, which may be what was interrupted.
        os.write(2, b"\nStopping after this execution of steps; Ctrl-C again stops at once.\n")

    def check(self, gather=lambda number: [number]):
        """Raises `Preempted` or KeyboardInterrupt where that was asked for. gather(number) -> that of every host, for
        all of them to end together."""
        asked = max(gather(2 * self.asked + self.interrupted))
        if asked >= 2:
            raise Preempted
        if asked:
            raise KeyboardInterrupt
