"""A pickle read as data: plain values, containers, and records of PyTorch's tensors. Nothing is imported or run.

Python's own unpickler is no base for this, even with find_class overridden. Its memo grows at once to whatever index
five bytes name, it hashes tuples nested so that it never ends, and BUILD sets attributes of any object, functions too.
Here `pickletools.genops` takes the instructions apart, they move values about on a stack, and what a name stands for is
in the table of `torch_globals`.
"""

import pickletools

from dit_tf.pretrained import torch_globals
from dit_tf.pretrained.foreign_objects import Foreign

_MOST_STEPS = 1_000_000  # instructions of a pickle; a training checkpoint of DiT-XL/2 takes some 80 thousand

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(file):
    """One pickle from file, of read, readline and tell, up to its end -> (value, {key: Storage}).

    Tensors are `Tensor`, argparse.Namespace is types.SimpleNamespace, PyTorch's types are NumPy's, and objects of other
    classes `Foreign`. ForeignGlobal for a name that runs programs; ValueError, and the errors of lists and
    dictionaries, where the pickle is damaged.
    """
    stack, outer, memo, storages = [], [], {}, {}

    def to_mark():
        nonlocal stack
        items, stack = stack, outer.pop()
        return items

    def pop(count):
        if len(stack) < count:
            raise ValueError("a pickle takes more than it has")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    for step, (instruction, value, _) in enumerate(pickletools.genops(file)):
        if step == _MOST_STEPS:
            raise ValueError(f"a pickle has more than {_MOST_STEPS} instructions")
        match instruction.name:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                stack.append(value)
            case "STRING" | "SHORT_BINSTRING" | "BINSTRING" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8":
                stack.append(value)
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(value)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_CONSTANTS[instruction.name])
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                items = to_mark()
                stack.append(tuple(items))
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(_TUPLES[instruction.name])))
            case "BINPERSID":
                storage = torch_globals.storage(*pop(1))
                stack.append(storage)
                known = storages.setdefault(storage.key, storage)
                if (known.dtype, known.numel) != (storage.dtype, storage.numel):
                    raise ValueError(f"the storage {storage.key} is given two sizes")
            case "GLOBAL" | "STACK_GLOBAL":
                module, name = value.split(" ", 1) if instruction.name == "GLOBAL" else pop(2)
                stack.append(torch_globals.find(module, name))
            case "INST":
                function, arguments = torch_globals.find(*value.split(" ", 1)), to_mark()
                stack.append(torch_globals.call(function, tuple(arguments)))
            case "OBJ":
                function, *arguments = to_mark()
                stack.append(torch_globals.call(function, tuple(arguments)))
            case "REDUCE" | "NEWOBJ":
                stack.append(torch_globals.call(*pop(2)))
            case "NEWOBJ_EX":  # with arguments by name, which only what is foreign has
                function, _, _ = pop(3)
                stack.append(torch_globals.call(_require(function, Foreign), ()))
            case "BUILD":
                (state,) = pop(1)
                torch_globals.build(stack[-1], state)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = to_mark()
                stack.append(torch_globals.put({}, items))
            case "SETITEM" | "SETITEMS":
                items = to_mark() if instruction.name == "SETITEMS" else pop(2)
                torch_globals.put(stack[-1], items)
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                items = to_mark()
                stack.append(items)
            case "APPEND" | "APPENDS":
                items = to_mark() if instruction.name == "APPENDS" else pop(1)
                if type(stack[-1]) is not Foreign:
                    _require(stack[-1], list).extend(items)
            case "EMPTY_SET":
                stack.append(set())
            case "FROZENSET":
                items = to_mark()
                stack.append(frozenset(map(torch_globals.key, items)))
            case "ADDITEMS":
                items = to_mark()
                if type(stack[-1]) is not Foreign:
                    _require(stack[-1], set).update(map(torch_globals.key, items))
            case "STOP":
                return pop(1)[0], storages
            case "PROTO" | "FRAME":
                pass
            case name:
                raise ValueError(f"a pickle uses the instruction {name}, which no checkpoint needs")
    raise ValueError("a pickle has no end")


def _require(target, kind):
    if type(target) is not kind:
        raise ValueError(f"a pickle takes a {type(target).__name__} for a {kind.__name__}")
    return target
