"""A function has one name in every process, whatever the process has made before; no two functions share one."""

from tests.commands import run_command

_PROGRAM = """
import sys
import tensorflow as tf
from dit_tf.runtime.function_names import number_by_name
number_by_name()
before = [tf.constant(i) + 1 for i in range(int(sys.argv[1]))]

def traced(turns):
    def program(x):
        x = tf.while_loop(lambda i, x: i < turns, lambda i, x: (i + 1, tf.cond(x[0] > 0, lambda: x, lambda: 2 * x)), (0, x))
        return tf.gradients(x[1], x[1])
    return tf.function(program, autograph=False).get_concrete_function(tf.TensorSpec((3,)))

for function in (traced(3), traced(4)):
    print(function.name, *sorted(f.name for f in function.graph._functions.values()))
print(tf.function(lambda x: tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, 2 * x), (0, x))[1])(tf.ones(2)).numpy())
"""


def test_names_do_not_depend_on_what_was_made_before():
    first, second = (run_command("-c", _PROGRAM, count) for count in (0, 50))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    names = first.stdout.split("[")[0].split()
    assert len(names) >= 6 and len(set(names)) == len(names)
    assert names[0].startswith("__inference_program_") and any("while_body_of_program" in name for name in names)
    assert first.stdout.endswith("[8. 8.]\n")
