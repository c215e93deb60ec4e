"""A compiled function has one name in every process, whatever the process has made before; others have other names."""

from tests.commands import run_command

_PROGRAM = """
import sys
import tensorflow as tf
from dit_tf.runtime.function_names import name_by_content
name_by_content()
before = [tf.constant(i) + 1 for i in range(int(sys.argv[1]))]

def made(turns):
    def program(x):
        def body(i, x):
            return i + 1, tf.cond(x[0] > 0, lambda: turns * x, lambda: 2.0 * x)
        return tf.while_loop(lambda i, x: i < 3, body, (0, x), maximum_iterations=3)[1]
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = program(x)
        return y, tape.gradient(y, x)
    return tf.function(gradient, jit_compile=True, autograph=False)

functions = [made(turns) for turns in (3.0, 4.0, 3.0)]
for function in functions:
    concrete = function.get_concrete_function(tf.TensorSpec((2,)))
    print(concrete.name, *sorted(name for name in concrete.graph._functions))
first = functions.pop(0)
print(*(function(tf.constant([1.0, -1.0]))[1].numpy() for function in (first, *functions)))
del first, concrete, function  # of two functions with one name the other stays
print(*(function(tf.constant([1.0, -1.0]))[0].numpy() for function in functions))
"""


def test_names_follow_from_what_is_computed_alone():
    one, other = (run_command("-c", _PROGRAM, count) for count in (0, 50))
    assert one.returncode == 0, one.stderr
    assert one.stdout == other.stdout
    *names, gradients, values = one.stdout.splitlines()
    three, four, again = (line.split() for line in names)
    assert three == again and len(three) >= 4
    assert three[0] != four[0]  # and so the bodies; the conditions of both loops are one
    assert gradients == "[27. 27.] [64. 64.] [27. 27.]" and values == "[ 64. -64.] [ 27. -27.]"
