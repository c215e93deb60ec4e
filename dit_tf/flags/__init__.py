"""The flags of every command: `python -m dit_tf.flags` prints docs/flags.md.

A command defines its flags when it runs as a program, and hands main() their parsed values, so that importing an entry
defines nothing.
"""

from dit_tf.flags.command_line import FLAGS, resolved, run
from dit_tf.flags.commands import (
    COMMANDS,
    define_convert,
    define_ema,
    define_encode,
    define_evaluate,
    define_preflight,
    define_sample,
    define_score_digits,
    define_train,
)
from dit_tf.flags.documentation import documentation
from dit_tf.flags.groups import strategy_of
from dit_tf.flags.serving import define_app, define_export, define_query
from dit_tf.flags.study import define_scoring, define_study

__all__ = [
    "COMMANDS", "FLAGS", "define_app", "define_convert", "define_ema", "define_encode", "define_evaluate",
    "define_export", "define_preflight", "define_query", "define_sample", "define_score_digits", "define_scoring",
    "define_study", "define_train", "documentation", "resolved", "run", "strategy_of",
]  # fmt: skip
