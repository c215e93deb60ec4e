"""Names of traced functions that follow from what they compute, so that a compiled program is found again.

TensorFlow numbers a traced function by how much the process has made before it, down to single tensors, and XLA's cache
looks for a program by all of its text, names included: a training that resumes would find nothing, nor would another
command, nor a second object of the same kind. Here the number of a function that XLA compiles, and of each branch and
body of control flow, is a digest of its graph.
"""

import contextlib
import hashlib
import re

_GRADIENT = "_gradient_op_type"


def name_by_content():
    """From now on in this process. Two functions of one name are equal, which TensorFlow allows, and counts.

    Nothing public names a function; where another TensorFlow has moved what is replaced here, its own names stay, and
    programs are found more seldom.
    """
    from tensorflow.python.eager.polymorphic_function import atomic_function

    original = getattr(atomic_function, "from_func_graph", None)
    if original is None or original.__module__ == __name__:
        return

    def from_func_graph(name, graph, attrs, *rest, **more):
        if name == graph.name and not attrs:  # control flow, whose caller asks the graph for its name afterwards
            name = graph.name = _numbered(name, graph, {})
            return original(name, graph, attrs, *rest, **more)
        if "_XlaMustCompile" not in (attrs or ()):
            return original(name, graph, attrs, *rest, **more)
        with _unnumbered_gradients(graph):
            return original(_numbered(name, graph, attrs), graph, attrs, *rest, **more)

    atomic_function.from_func_graph = from_func_graph


@contextlib.contextmanager
def _unnumbered_gradients(graph):
    """While a graph becomes a function: operations that have a gradient of their own, such as silu, say so by a number
    too. The graph, from which TensorFlow derives, keeps it; the function, which it runs, has no use for it."""
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    changed = [(op, op.node_def.attr[_GRADIENT]) for op in graph.get_operations() if _GRADIENT in op.node_def.attr]
    for op, _ in changed:
        op._set_attr(_GRADIENT, AttrValue(s=b"CustomGradient"))
    try:
        yield
    finally:
        for op, value in changed:
            op._set_attr(_GRADIENT, value)


def _numbered(name, graph, attrs):
    """The name with the digest in the place of its number: 18 digits, more than TensorFlow ever counts."""
    digest = hashlib.sha256(graph.as_graph_def().SerializeToString(deterministic=True))
    ends = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
    names = sorted((graph._output_names or {}).values()), [op.name for op in graph.control_outputs]
    digest.update(repr((ends, names, sorted((key, str(value)) for key, value in attrs.items()))).encode())
    return f"{re.sub(r'_[0-9]+$', '', name)}_{10**17 + int(digest.hexdigest()[:14], 16)}"
