"""Commands in processes of their own that begin with TensorFlow imported: `python -m MODULE ...` without its first six
seconds. Each is forked from one process, which has imported the package and computed nothing."""

import atexit
import multiprocessing
import multiprocessing.forkserver
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
import traceback
import warnings

# At the end it is waited for, so that what its processes have used counts as this one's.
atexit.register(lambda: multiprocessing.forkserver._forkserver._stop())

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["dit_tf.build", "dit_tf.flags", "dit_tf.report.page"])


# Of the environment: whoever asks a proxy gets no answer.
CLOSED_PROXY = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
CLOSED_PROXY |= {"all_proxy": "socks5://127.0.0.1:9"}
CLOSED_PROXY |= {name.upper(): address for name, address in CLOSED_PROXY.items()} | {"no_proxy": "", "NO_PROXY": ""}


class Command:
    """`python -m *arguments`, begun; also a file, NAME.py, or "-c" and a text. As a subprocess.Popen with pipes for
    text, whose methods have these names.

    environment: changes of this process'; limit: of the size of files, in bytes; together: whether what goes to stderr
    goes to stdout.
    """

    def __init__(self, *arguments, environment=(), cwd=None, limit=None, together=False):
        self.returncode = None
        self.stdout, self.stderr = (tempfile.NamedTemporaryFile() for _ in range(2))
        files = [self.stdout.name, (self.stdout if together else self.stderr).name]
        settings = dict(os.environ) | dict(environment), str(cwd or os.getcwd()), limit
        self._process = _forkserver.Process(target=_run, args=([str(a) for a in arguments], files, *settings))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self.wait(0)

    def wait(self, timeout=None):
        """The exit code, negative for a signal; None where it has not ended after `timeout` seconds."""
        self._process.join(timeout)
        self.returncode = self._process.exitcode
        return self.returncode

    def communicate(self, timeout=600):
        """Waits for the end -> (standard output, standard error)."""
        if self.wait(timeout) is None:
            self.kill()
            raise TimeoutError(f"{timeout} seconds have passed; {self.so_far()}")
        return self.so_far()

    def so_far(self):
        """(standard output, standard error) that are there by now."""
        return tuple(os.pread(file.fileno(), 1 << 30, 0).decode() for file in (self.stdout, self.stderr))

    def line(self, beginning, timeout=600):
        """Waits for a line of standard output."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            ended, (output, errors) = self.poll() is not None, self.so_far()
            for line in output.splitlines():
                if line.startswith(beginning):
                    return line
            assert not ended, output + errors
            time.sleep(0.02)
        raise TimeoutError(f"no line {beginning!r} after {timeout} seconds")

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run_command(*arguments, **options):
    """A `Command` that has ended, with its `returncode`, and `stdout` and `stderr` as text."""
    command = Command(*arguments, **options)
    command.stdout, command.stderr = command.communicate()
    return command


def _run(arguments, files, environment, directory, limit):
    """In the new process, from the first line of the program to the last."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    for number, path in enumerate(files, start=1):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False, errors="backslashreplace")
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.path[0:0] = [directory]
    program, *sys.argv[1:] = arguments
    warnings.filterwarnings("ignore", "'dit_tf.* found in sys.modules", RuntimeWarning)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = 0
    try:
        if program == "-c":
            sys.argv[0] = "-c"
            exec(sys.argv.pop(1), {"__name__": "__main__"})
        elif program.endswith(".py"):
            sys.argv[0] = program
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if not isinstance(code, (int, type(None))):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code or 0)
