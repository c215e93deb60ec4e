"""A polite request to end, SIGTERM, which is also how the preemption of a spot machine arrives.

Thirty seconds before Google Cloud takes a spot or preemptible machine away, it presses the machine's power button
(ACPI G2); the operating system then shuts down, and sends SIGTERM to every process. Whatever starts trainings should
start them again, with the same command, where they end with `START_AGAIN`.
"""

import signal

import tensorflow as tf

START_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: "a temporary failure, try again later"
# What is raised where another host of the training, a TPU or a remote disk is gone or silent: that too may pass.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)


class Preempted(Exception):
    """Raised where a run has ended itself because it was asked to; the same command goes on."""


class StopRequest:
    """While entered, from the main thread, SIGTERM is only noted. `asked`: whether it has come.

    Python hears of a signal between two calls, so during an execution of the compiled step nothing happens: keep
    --steps_per_execution steps well below the thirty seconds.
    """

    def __init__(self):
        self.asked = False

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
