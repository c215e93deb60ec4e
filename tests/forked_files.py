"""Each file of tests in a process of its own, forked from one that has imported TensorFlow and computed nothing.

What XLA has compiled is given back by the end of a process alone, so one that ran all files would grow to ten
gigabytes.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import traceback

import pytest
from _pytest.runner import runtestprotocol

_current = None  # the process of the present file


def run(item, nextitem):
    """As pytest_runtest_protocol: runs the test in the process of its file and tells what came of it."""
    global _current
    if _current is None:
        _current = _FileProcess(item)
    last = nextitem is None or nextitem.path != item.path
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _current.reports(item, None if last else nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    if last or not _current.alive:
        _current.end()
        _current = None
    return True


def end():
    """Where the run is over before its last test."""
    if _current is not None:
        _current.end()


class _FileProcess:
    def __init__(self, item):
        self.alive, self._hook, self._config = True, item.ihook, item.config
        self._pipe, other = multiprocessing.Pipe()
        self._pid = os.fork()
        if not self._pid:
            self._pipe.close()
            _serve(item.session, other)
        other.close()

    def reports(self, item, nextitem):
        """What pytest reports of setup, call and teardown; one failure where the process has died."""
        try:
            self._pipe.send((item.nodeid, nextitem and nextitem.nodeid))
            found = self._pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            text = f"The process of {item.path.name} has died in this test."
            return [pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")]
        hook = self._hook.pytest_report_from_serializable
        return [hook(config=self._config, data=data) for data in found]

    def end(self):
        self._pipe.close()
        os.waitpid(self._pid, 0)


def _serve(session, pipe):
    """In the new process: run the tests that come, until there are none."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The server that commands are forked from is the parent's, which alone may wait for it.
    multiprocessing.forkserver._forkserver.ensure_running = lambda: None
    items = {item.nodeid: item for item in session.items}
    try:
        while True:
            name, following = pipe.recv()
            found = runtestprotocol(items[name], nextitem=items.get(following), log=False)
            hook = session.config.hook.pytest_report_to_serializable
            pipe.send([hook(config=session.config, report=report) for report in found])
    except EOFError:
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
