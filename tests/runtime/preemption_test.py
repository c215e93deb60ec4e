"""SIGTERM and Ctrl-C are noted while a request can be heard, and end the process as before otherwise."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dit_tf.runtime.preemption import Preempted, StopRequest


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


def test_the_first_ctrl_c_is_noted_and_the_second_stops_at_once(capfd):
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as request:
        with request.noting_interrupts():
            request.check()
            os.kill(os.getpid(), signal.SIGINT)
            assert request.interrupted and capfd.readouterr().err.endswith("Ctrl-C again stops at once.\n")
            with pytest.raises(KeyboardInterrupt):
                request.check()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
        assert signal.getsignal(signal.SIGINT) is before
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted):
            request.check()


def test_before_there_is_a_request_sigterm_ends_the_process_as_one_to_start_again():
    """As in the seconds of the imports."""
    code = "import os, signal, time; from dit_tf.runtime import preemption; preemption.end_at_sigterm()"
    process = subprocess.run([sys.executable, "-c", f"{code}; os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)"])
    assert process.returncode == 75
