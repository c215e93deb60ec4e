"""Which network of a checkpoint is meant, and by which names of it.

People save bare weights, or {"model": ..., "ema": ..., "opt": ..., "args": ...} as DiT and SiT do, {"state_dict": ...}
as PyTorch Lightning does, averages in a part or under a prefix of their own, and names with the prefixes of the
wrappers that a network was trained in. A network is found by one weight that it must have; what stands before that
name is its prefix.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dit_tf.pretrained.dit_map import FIRST_BLOCK, few
from dit_tf.pretrained.foreign_objects import Foreign

AVERAGED = ("ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "net_ema")  # parts and prefixes
_RAW = ("model", "state_dict")
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # of layers, within names
_MARKS = {"dit": tuple(FIRST_BLOCK.values()), "vae": ("encoder.conv_in.weight", "decoder.conv_in.weight")}
_NAMES = {"dit": "a DiT or SiT", "vae": "an autoencoder", None: "a DiT, SiT or autoencoder"}
_BESIDE = {"dit": ("projectors.",), "vae": ("loss.", "model_ema.")}  # REPA's; CompVis': trained along, left out
_COUNTERS = ("n_averaged", "decay", "num_updates", "initted", "step")  # of averages
_STABLE_DIFFUSION = "first_stage_model."  # what the autoencoder's names begin with in a checkpoint of all parts
_WITHOUT_DOTS = "model_ema."  # CompVis' averages: after this, a weight's name less its dots
_DEEPEST = 4  # parts within each other


class Part(NamedTuple):
    """One network of a file."""

    state: Mapping  # {name in its layout: array}
    kind: str  # "dit" (also of a SiT) or "vae"
    part: str | None  # where it was, such as "ema"
    prefix: str  # what all its names began with
    averaged: bool
    left_out: dict  # {beginning of names: how many}

    def described(self, ema=True):
        """For people: which weights these are; ema: as it was asked for."""
        said = [f"the part {self.part!r} of a checkpoint" if self.part else "a file of weights alone"]
        if self.averaged:
            said = [f"averaged weights, {said[0]}"]
        elif self.part:
            said = [f"raw weights, {said[0]}" + (" that has no averaged ones" if ema else "")]
        said += [f"the prefix {self.prefix!r} taken off"] if self.prefix else []
        return ", ".join(said + [f"{count} arrays {name}* left out" for name, count in self.left_out.items()])


def choose(content, kind=None, ema=True):
    """A loaded file -> the `Part` that is meant: averaged weights, where there are some and `ema` is not False.

    kind: "dit" or "vae"; None for either, a DiT first. ValueError where there is no such network, several that nothing
    tells apart, or a part that should hold weights and does not.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"A checkpoint must be a mapping of names, got {_kind_of(content)}.")
    found = list(_networks(content, ()))
    _refuse_without_names(content, found, ema)
    kinds = [wanted for wanted in ([kind] if kind else _MARKS) if any(one.kind == wanted for one in found)]
    if not kinds:
        other = f"it is {_NAMES[found[0].kind]}, {_NAMES[kind]} is needed" if found else f"it holds {few(content)}"
        raise ValueError(other if found else f"The checkpoint holds no weights of {_NAMES[kind]}: {other}.")
    of_kind = [one for one in found if one.kind == kinds[0]]
    wanted = [one for one in of_kind if one.averaged == ema] or (of_kind if ema else [])
    if not wanted:
        raise ValueError(f"The checkpoint has averaged weights alone, and --ema=false: it holds {few(content)}.")
    by_part = [one for one in wanted if _is_average("", *(one.part or "").split("/"))]
    wanted = by_part or wanted  # what a part is called says more than a prefix
    if len(wanted) > 1:
        places = " and ".join(f"{one.part or 'names'} {one.prefix}".strip() for one in wanted)
        raise ValueError(f"The checkpoint holds several networks ({places}): save the one that is meant alone.")
    for name, value in wanted[0].state.items() if isinstance(content, dict) else ():
        if isinstance(value, Foreign):
            raise ValueError(f"{name} must be an array, it is {_kind_of(value)}.")
    return wanted[0]


def _networks(content, path):
    """Yields a `Part` for every network in a mapping and in the mappings in it."""
    names = {}
    for stored in content:
        name = _without_wrappers(stored) if isinstance(stored, str) else stored
        if name in names:
            raise ValueError(f"The checkpoint holds {name} twice, as {names[name]} and {stored}.")
        names[name] = stored
    places = _places(names)
    for kind, prefix in places:
        yield from _parts(content, names, path, kind, prefix, [other for _, other in places if other != prefix])
    for name, value in content.items() if len(path) < _DEEPEST and isinstance(content, dict) else ():
        if isinstance(value, Mapping):
            yield from _networks(value, (*path, str(name)))


def _places(names):
    """[(kind, prefix)] of the networks that these names are of. One inside another is the other's, unless it is an
    average."""
    places = {}
    for name in filter(lambda name: isinstance(name, str), names):
        for kind, marks in _MARKS.items():
            for mark in marks:
                if name == mark or name.endswith(f".{mark}"):
                    places[kind, name.removesuffix(mark).removesuffix(_STABLE_DIFFUSION)] = None
    return [
        (kind, prefix)
        for kind, prefix in places
        if _is_average(prefix) or not any(prefix != p and prefix.startswith(p) and kind == k for k, p in places)
    ]


def _parts(content, names, path, kind, prefix, others):
    """The network under a prefix, and its average without dots where there is one; others: prefixes beside it."""
    inner = tuple(other for other in others if other.startswith(prefix))
    of_this = {n: stored for n, stored in names.items() if _begins(n, prefix) and not _begins(n, inner)}
    own = {n.removeprefix(prefix): stored for n, stored in of_this.items()}
    left_over = {n: stored for n, stored in names.items() if not _begins(n, (prefix, *others)) and n not in _COUNTERS}
    beside = {n: next(b for b in _BESIDE[kind] if n.startswith(b)) for n in own if _begins(n, _BESIDE[kind])}
    chosen = {n: stored for n, stored in own.items() if n not in beside}
    if any(_begins(n, _STABLE_DIFFUSION) for n in own):
        chosen, left_over = {n: stored for n, stored in own.items() if _begins(n, _STABLE_DIFFUSION)}, {}
    left_out = {b: list(beside.values()).count(b) for b in dict.fromkeys(beside.values())} if kind == "dit" else {}
    averages = {n: stored for n, stored in own.items() if _begins(n, _WITHOUT_DOTS)}
    raw = {n: stored for n, stored in chosen.items() if n not in averages}
    dotless = {n: _WITHOUT_DOTS + n.replace(".", "") for n in raw if isinstance(n, str)}
    average = {n: averages.get(name, raw[n]) for n, name in dotless.items()}
    place = "/".join(path) or None
    if any(stored in averages.values() for stored in average.values()):  # what is not trained has none
        yield Part(_renamed(content, average), kind, place, _WITHOUT_DOTS, True, left_out)
        chosen = raw
    yield Part(_renamed(content, chosen | left_over), kind, place, prefix, _is_average(prefix, *path), left_out)


def _begins(name, beginnings):
    return isinstance(name, str) and name.startswith(beginnings)


def _is_average(prefix, *path):
    return any(word in AVERAGED for word in (*path, *prefix.split(".")))


def _without_wrappers(name):
    for wrapper in _WRAPPERS:
        name = name.replace(f".{wrapper}", ".")
    return name


def _refuse_without_names(content, found, ema):
    """ValueError for a part that is called as weights are and holds none by name: a whole module, or a list."""
    places = {one.part.split("/")[0] for one in found if one.part}
    for name in (*(AVERAGED if ema else ()), *(() if found else _RAW)):
        if name not in content or name in places:
            continue
        value = content[name]
        if value is None or name in AVERAGED and isinstance(value, (int, float, str)):
            continue
        held = f"it holds {few(value)}" if isinstance(value, Mapping) else f"not {_kind_of(value)}"
        hint = ": --ema=false takes the others" if found else ""
        raise ValueError(f"{name!r} of the checkpoint must hold weights by their names, {held}{hint}.")


def _kind_of(value):
    if isinstance(value, Foreign):
        return f"an object of {value.name}, of which nothing is made here: save its state_dict()"
    return "an array" if isinstance(value, np.ndarray) else type(value).__name__


def _renamed(content, names):
    return content if names == {name: name for name in content} else _Renamed(content, names)


class _Renamed(Mapping):
    """Some values of a mapping under other names, read when they are asked for."""

    def __init__(self, content, names):
        self._content, self._names = content, names

    def __getitem__(self, name):
        return self._content[self._names[name]]

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)
