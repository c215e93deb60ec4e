"""SIGTERM is noted while a request can be heard, and ends the process as before otherwise."""

import os
import signal

from dit_tf.runtime.preemption import StopRequest


def test_sigterm_is_noted_and_the_handler_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as request:
        assert not request.asked
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked
    assert signal.getsignal(signal.SIGTERM) is before
    with StopRequest() as another:
        assert not another.asked
