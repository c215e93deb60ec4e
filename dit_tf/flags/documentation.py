"""docs/flags.md, from the flags themselves."""

from absl import flags

from dit_tf.flags.command_line import define_compile_cache
from dit_tf.flags.commands import COMMANDS
from dit_tf.flags.study import define_scoring


def documentation():
    """Markdown: a table of flags per command."""
    parts = [
        "# Flags\n\nMade by `python -m dit_tf.flags > docs/flags.md`. `--flagfile=FILE` reads flags from a file.\n"
    ]
    parts.append(_table("## Every command", define_compile_cache))
    parts += [_table(f"## python -m dit_tf.{command}", define) for command, define in COMMANDS.items()]
    parts.append(_table("### [score ...] in a plan of dit_tf.study", define_scoring))
    return "".join(parts)


def _table(heading, define):
    values = flags.FlagValues()
    define(values)
    about = " ".join(define.__doc__.split())
    own = (values[name] for name in values)
    rows = "".join(f"| `--{flag.name}` | {_shown(flag.default)} | {flag.help} |\n" for flag in own)
    return f"\n{heading}\n\n{about}\n\n| flag | default | meaning |\n|---|---|---|\n{rows}"


def _shown(default):
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
