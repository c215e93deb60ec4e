"""Names of traced functions that are the same in every process, so that a compiled program is found again.

TensorFlow numbers a traced function by how much the process has made before it, down to single tensors, and XLA's cache
looks for a program by all of its text, names included: a training that resumes would find nothing, nor would another
command. Here functions are numbered among those of the same name, and the branches and bodies of control flow within the
function that they are part of.
"""

import collections

_FIRST = 10**9  # above every number that TensorFlow gives, so that no two functions have one name

_counts = collections.Counter()


def number_by_name():
    """From now on in this process. Nothing public names a function; where another TensorFlow has moved what is replaced
    here, its own names stay, and programs are found more seldom."""
    from tensorflow.python.eager.polymorphic_function import concrete_function
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util_v2

    def numbered(name):
        _counts[name] += 1
        return f"{name}_{_FIRST + _counts[name]}"

    def within(scope, name):
        return numbered(f"{scope}{name}_of_{ops.get_default_graph().name}".replace("/", "_"))

    _replace(concrete_function, "_inference_name", lambda name: numbered(f"__inference_{name}"))
    _replace(control_flow_util_v2, "unique_fn_name", within)
    _replace(control_flow_util_v2, "unique_grad_fn_name", lambda name: numbered(f"{name}_grad"))


def _replace(module, name, function):
    if hasattr(module, name):
        setattr(module, name, function)
