"""A command's flags, parsed, and how its bad input and interruptions end."""

import logging as standard_logging
import pathlib
import sys

import tensorflow as tf
from absl import app, flags, logging

from dit_tf.runtime import compile_cache
from dit_tf.runtime.cluster import LOST
from dit_tf.runtime.preemption import START_AGAIN, Preempted

FLAGS = flags.FLAGS


def run(main, define, resumes=True):
    """Parse the command line and call main(options). Bad input ends in one sentence and exit code 1.

    resumes: whether the same command, after an interruption, goes on where it stopped.
    """
    define(FLAGS)
    define_compile_cache(FLAGS)
    app.run(lambda argv: _guarded(main, argv, resumes), flags_parser=_parsed)


def define_compile_cache(values):
    """What every command takes."""
    flags.DEFINE_string(
        "compile_cache",
        None,
        f"Local directory of at most 2 GiB that keeps compiled programs for the next time; {compile_cache.OFF}: none; "
        f"default: ${compile_cache.VARIABLE}, or {compile_cache.DEFAULT}.",
        flag_values=values,
    )


def quieten_libraries():
    """Leave stderr to our own warnings and the progress bar, unless --verbosity asks for more."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.ERROR)
        standard_logging.getLogger("tensorflow").setLevel("ERROR")
        standard_logging.getLogger("dit_tf").setLevel("WARNING")


def _name_of(argv):
    return f"dit_tf.{pathlib.Path(argv[0].removesuffix('/__main__.py')).stem}"


def _parsed(argv):
    """What is left of the command line. The cache comes here: once this returns, absl lets TensorFlow look for GPUs."""
    rest = app.parse_flags_with_usage(argv)
    try:
        compile_cache.enable(FLAGS.compile_cache)
    except ValueError as error:
        sys.exit(f"{_name_of(argv)}: {error}")
    return rest


def _guarded(main, argv, resumes):
    quieten_libraries()
    command = _name_of(argv)
    consequence = "the same command goes on where it stopped" if resumes else "nothing was written"
    try:
        if argv[1:]:
            raise ValueError(f"Every argument must be a flag, --name=value, got {argv[1]!r}.")
        main(FLAGS)
    except ValueError as error:
        logging.debug("Where it was raised:", exc_info=True)  # shown with --verbosity=1
        sys.exit(f"{command}: {error}")
    except Preempted:
        print(f"\n{command}: ended by SIGTERM; the same command goes on where it stopped.", file=sys.stderr)
        sys.exit(START_AGAIN)
    except LOST as error:
        logging.debug("Where it was raised:", exc_info=True)
        where = "another host, the TPU or a remote disk is gone"
        print(f"\n{command}: {where} ({type(error).__name__}); {consequence}.", file=sys.stderr)
        sys.exit(START_AGAIN)
    except tf.errors.OpError as error:
        sentence = compile_cache.failure(error)
        if sentence is None:
            raise
        sys.exit(f"{command}: {sentence}")
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted; {consequence}.", file=sys.stderr)
        sys.exit(130)


def resolved(options):
    """The text of a flag file that repeats this run."""
    mine = [options[name] for name in options if options.find_module_defining_flag(name).startswith(__package__)]
    return "".join(f"{flag.serialize()}\n" for flag in mine if flag.value is not None)
