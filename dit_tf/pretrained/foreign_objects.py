"""What a checkpoint keeps beside its weights: objects of anybody's classes, of which nothing is made or called.

Training checkpoints hold paths, dates, counters, nodes of configuration libraries. Their names are read as text and
stand for themselves; whatever is called with them, set on them or put into them gives another such value, and is
forgotten. Names by which a pickle runs programs have no place even there: a file that has one is refused.
"""

import dataclasses

# Modules, with all that is below them, of names that an attack needs and no value of a checkpoint.
_REFUSED = frozenset(
    "asyncio bdb cProfile code codeop commands ctypes doctest ftplib http idlelib importlib imp inspect io "
    "lib2to3 linecache marshal mmap multiprocessing nt ntpath operator os pdb pickle pip pkgutil platform popen2 posix "
    "posixpath profile pty pydoc runpy shelve shutil signal socket ssl subprocess sys tempfile threading timeit trace "
    "urllib venv webbrowser zipimport _pickle _posixsubprocess".split()
)
_REFUSED_BELOW = ("torch.hub", "torch.jit", "torch.package", "torch.utils.cpp_extension", "numpy.testing", "numpy.f2py")
_PLAIN_BUILTINS = frozenset("bool bytearray complex dict float getattr int list object range slice str tuple".split())


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign:
    """An object of a class by that name, or the class; compared and hashed by identity."""

    name: str


class ForeignGlobal(Exception):
    """A pickle names something that nothing may be made of. The message is the name."""


def foreign(module, name):
    """-> `Foreign`. ForeignGlobal for what runs programs, and for attributes that are reached through another."""
    package = module.split(".")[0]
    builtin = package in ("builtins", "__builtin__") and name not in _PLAIN_BUILTINS
    below = any(module == refused or module.startswith(f"{refused}.") for refused in _REFUSED_BELOW)
    if package in _REFUSED or builtin or below or "__" in name or not f"{module}.{name}".isprintable():
        raise ForeignGlobal(f"{module}.{name}")
    return Foreign(f"{module}.{name}")
