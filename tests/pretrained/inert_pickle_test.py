"""Pickles that mean harm: refused by the name they ask for, nothing run, no time or memory taken on their word."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from dit_tf.pretrained.torch_pickle import read_torch
from tests.pretrained import torch_files as by_hand
from tests.pretrained.torch_files import call, dictionary, name, plain, refusal, sequence, storage, tensor, whole

_MEBIBYTE = 2**20


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def touch(command):
    """Instructions that call os.system, harmless but for a file."""
    return call(name("posix", "system"), plain(command))


def in_a_tensor(command):
    arguments = (storage("float32", "0", 6), plain(0), touch(command), plain((1,)), b"\x89", by_hand.ordered_dict())
    return call(name("torch._utils", "_rebuild_tensor_v2"), *arguments)


def by_getattr(command):
    system = call(name("builtins", "getattr"), call(name("builtins", "__import__"), plain("os")), plain("system"))
    return call(system, plain(command))


ATTACKS = {
    "posix.system": touch,
    "os.system": lambda command: call(name("os", "system"), plain(command)),
    "subprocess.check_output": lambda command: call(name("subprocess", "check_output"), plain(command)),
    "builtins.eval": lambda command: call(name("builtins", "eval"), plain(f"__import__('os').system({command!r})")),
    "__builtin__.exec": lambda command: call(name("__builtin__", "exec"), plain(f"import os; os.system({command!r})")),
    "builtins.getattr": by_getattr,
    "builtins.__import__": lambda command: call(name("builtins", "__import__"), plain("os")),
    "pickle.loads": lambda command: call(name("pickle", "loads"), plain(pickle.dumps(Evil(command)).decode("latin1"))),
    "torch.hub.load": lambda command: call(name("torch.hub", "load"), plain(command)),
    "torch.Size.__class__": lambda command: plain("torch") + plain("Size.__class__") + b"\x93",
}
POSIX_ATTACKS = {
    "stack_global": lambda command: plain("posix") + plain("system") + b"\x93" + sequence(plain(command)) + b"R",
    "instance": lambda command: b"(" + plain(command) + b"iposix\nsystem\n",
    "instance_of_text": lambda command: b"(S" + repr(command).encode() + b"\niposix\nsystem\n",
    "object": lambda command: b"(" + name("posix", "system") + plain(command) + b"o",
    "new_object": lambda command: name("posix", "system") + sequence(plain(command)) + b"\x81",
    "thrown_away": lambda command: touch(command) + b"0" + plain({}),
    "key": lambda command: b"}" + touch(command) + b"Ns",
    "state": lambda command: by_hand.ordered_dict() + touch(command) + b"b",
    "persistent_id": lambda command: sequence(plain("storage"), touch(command)) + b"Q",
    "in_a_tensor": in_a_tensor,
    **{f"protocol_{p}": lambda command, p=p: pickle.dumps(Evil(command), p)[2 if p > 1 else 0 : -1] for p in range(6)},
}  # fmt: skip


@pytest.mark.parametrize("write", [by_hand.write_zip, by_hand.write_legacy])
@pytest.mark.parametrize(
    "culprit, attack", [*ATTACKS.items(), *((attack, POSIX_ATTACKS[attack]) for attack in POSIX_ATTACKS)]
)
def test_a_foreign_global_is_refused_by_its_name_and_nothing_is_run(tmp_path, write, culprit, attack):
    marker = tmp_path / "marker"
    instructions = dictionary(weight=tensor(storage("float32", "0", 6)), other=attack(f"touch {marker}"))
    file = write(tmp_path / "file.pt", instructions, {"0": np.zeros(6, np.float32)})
    culprit = culprit if culprit in ATTACKS else "posix.system"
    culprit = {"builtins.getattr": "builtins.__import__"}.get(culprit, culprit)  # nothing can be got from an object
    refused = f"{file} asks for the global {culprit}, which no checkpoint needs: it is refused, nothing was run."
    assert refusal(file) == refused
    assert not marker.exists()


def test_the_attack_is_one(tmp_path):
    """Else the test above could not fail."""
    marker = tmp_path / "marker"
    others = [POSIX_ATTACKS[key] for key in ("stack_global", "instance_of_text", "object", "protocol_4")]
    for attack in [touch, by_getattr, *others]:
        pickle.loads(whole(attack(f"touch {marker}")))
        marker.unlink()


@pytest.mark.parametrize("section", range(5))
def test_every_pickle_of_the_legacy_layout_is_guarded(tmp_path, section):
    marker = tmp_path / "marker"
    sections = by_hand.legacy_pickles(tensor(storage("float32", "0", 1)), ["0"])
    sections[section] = whole(touch(f"touch {marker}"))
    (tmp_path / "file.pt").write_bytes(b"".join(sections) + struct.pack("<qf", 1, 0))
    assert "the global posix.system," in refusal(tmp_path / "file.pt") and not marker.exists()


def nested(levels, deeper, start):
    """start, `levels` times put into what `deeper` makes of two references to it."""
    return start + b"".join(b"q\0" + deeper for _ in range(levels))


NAMESPACE = name("argparse", "Namespace")
MISCHIEF = {
    "calls a str": call(plain("posix.system"), plain("true")),
    "calls a NoneType": b"N)R",
    "OrderedDict is called with what it does not take": call(name("collections", "OrderedDict"), plain(3)),
    "sets the state of a Function": NAMESPACE + plain({"__defaults__": (1,)}) + b"b",
    "holds a Function, which is not a value": b"](" + NAMESPACE + b"e",
    "not named by a string": NAMESPACE + b")\x81}K\1K\1sb",
    "sets an item of a SimpleNamespace": NAMESPACE + b")\x81K\1K\1s",
    "takes a SimpleNamespace for a list": NAMESPACE + b")\x81K\1a",
    "uses the instruction EXT1": b"\x82\1",
    "KeyError": b"h\7",
    "takes more than it has": b"\x86",
    "but only 3 remain": b"X\xff\xff\xff\xffab",
    "a list is a key": b"}]Ns",
    "a int is a key and too large": b"}" + plain(2**61 - 1) + b"Ns",
    "nests more than 100 deep": b"]" * 200 + b"a" * 199,
    "or holds itself": b"]q\0h\0a",
    "a tensor leaves its storage 0": tensor(storage("float32", "0", 6), 0, (6,), (2**40,)),
    "from 0 to 2^63": tensor(storage("float32", "0", 6), 0, (2,), (-1,)),
    "rebuild_tensor_v2 is called with": tensor(storage("float32", "0", 6), 0, (2.0,), (1,)),
    "not a storage, offset": tensor(plain("0"), 0, (2,), (1,)),
    "as many strides as sizes": tensor(storage("float32", "0", 6), 0, (2,), (1, 1)),
    "is given two sizes": sequence(storage("float32", "0", 6), storage("float64", "0", 6)),
    "leaves it": storage("float32", "0", 6, sequence(plain("v"), plain(4), plain(3))),
    "maximum supported dimension": tensor(storage("float32", "0", 6), 0, (1,) * 99, (1,) * 99),
    "not a plain type": call(name("numpy", "dtype"), plain("O8")),
    "a NumPy type is not little-endian": call(name("numpy", "dtype"), plain("f8")) + plain((3, ">", None)) + b"b",
    "not a storage": sequence(plain("module"), plain("x"), plain("x"), plain("x"), plain("x")) + b"Q",
}


@pytest.mark.parametrize("detail", MISCHIEF)
def test_instructions_that_no_checkpoint_has(tmp_path, detail):
    file = by_hand.write_zip(tmp_path / "file.pt", MISCHIEF[detail], {"0": np.zeros(6, np.float32)})
    assert detail in refusal(file)


def test_what_looks_expensive_and_is_not(tmp_path):
    """The memo of Python's own unpickler takes 8 GiB for the first; the second is a list of 2^60 once written out."""
    tracemalloc.start()
    read = lambda instructions: read_torch(by_hand.write_zip(tmp_path / "file.pt", instructions, {}))  # noqa: E731
    assert read(b"Nr\xff\xff\xff\x1f") is None
    assert len(read(nested(60, b"h\0\x86", plain([])))) == 2
    assert list(read(b"}" + nested(60, b"h\0\x86", b")") + b"Ns").values()) == [None]  # 2^60 steps to hash
    assert tracemalloc.get_traced_memory()[1] < _MEBIBYTE
    tracemalloc.stop()


def test_a_long_string_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "file.pt"
    file.write_bytes(by_hand.legacy_pickles(b"")[0] + b"\x80\2X" + struct.pack("<I", 200 * _MEBIBYTE))
    os.truncate(file, 256 * _MEBIBYTE)
    tracemalloc.start()
    assert "209715200 bytes are one string or one directory" in refusal(file)
    assert tracemalloc.get_traced_memory()[1] < _MEBIBYTE
    tracemalloc.stop()


def test_a_pickle_has_an_end_of_its_instructions(tmp_path):
    file = by_hand.write_zip(tmp_path / "file.pt", b"N" + b"0N" * 600_000, {})
    assert "POP" in refusal(file)
    file = by_hand.write_zip(tmp_path / "file.pt", b"(" + b"N" * 1_000_001 + b"t", {})
    assert "more than 1000000 instructions" in refusal(file)
