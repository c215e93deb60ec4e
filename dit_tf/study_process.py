"""A part of a study in a process of its own, since what XLA has compiled is given back by the end of a process alone: a
study of small networks would grow by 60 MB with each of its hundred programs."""

import multiprocessing
import signal

from dit_tf.flags.command_line import quieten_libraries
from dit_tf.runtime.preemption import START_AGAIN, Preempted, end_at_sigterm, end_with_parent


def run_alone(function, *arguments):
    """function(*arguments) in another process, which prints to where this one does, and ends when this one is killed.

    Ctrl-C and SIGTERM reach it too, and it is waited for. Raises the ValueError, `Preempted` or KeyboardInterrupt that
    it ended with. function: of a module, for it is imported there.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(sender, function, arguments), daemon=True)
    process.start()
    sender.close()
    asked = []  # to end: also where the process has just ended by itself

    def pass_on(number, frame):
        asked.append(number)
        process.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        try:
            process.join()
        except KeyboardInterrupt:
            process.join()  # it stops at the end of its execution of steps; Ctrl-C again stops both at once
        ended = receiver.recv() if receiver.poll() else None
    except EOFError:
        ended = None
    finally:
        process.kill()
        signal.signal(signal.SIGTERM, before)
    if isinstance(ended, BaseException):
        raise ended
    if asked or process.exitcode == START_AGAIN:
        raise Preempted
    if process.exitcode:
        raise ValueError(
            f"A part of the study ended without a word (exit code {process.exitcode}), as it does where memory runs "
            "out: the same command goes on with it."
        )


def _tell(sender, function, arguments):
    end_at_sigterm()
    end_with_parent()
    quieten_libraries()
    try:
        function(*arguments)
    except (ValueError, Preempted, KeyboardInterrupt) as error:
        sender.send(type(error)(*map(str, error.args)))
