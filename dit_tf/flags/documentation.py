"""docs/flags.md, from the flags themselves."""

from absl import flags

from dit_tf.flags.commands import COMMANDS


def documentation():
    """Markdown: a table of flags per command."""
    parts = [
        "# Flags\n\nMade by `python -m dit_tf.flags > docs/flags.md`. `--flagfile=FILE` reads flags from a file.\n"
    ]
    for command, define in COMMANDS.items():
        values = flags.FlagValues()
        define(values)
        about = " ".join(define.__doc__.split())
        parts.append(f"\n## python -m dit_tf.{command}\n\n{about}\n\n| flag | default | meaning |\n|---|---|---|\n")
        own = (values[name] for name in values)
        parts += [f"| `--{flag.name}` | {_shown(flag.default)} | {flag.help} |\n" for flag in own]
    return "".join(parts)


def _shown(default):
    return "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
