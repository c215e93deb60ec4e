"""Prints docs/flags.md."""

from dit_tf.flags.documentation import documentation

print(documentation(), end="")
