"""Public DiT and SiT weights <-> ours, as lists `ours <- theirs, transform`.

Two public layouts are known: that of facebookresearch/DiT, which willisma/SiT shares name by name ("official"), and
that of diffusers' DiTTransformer2DModel ("diffusers"), which is a second list `official <- diffusers`. Every list must
be used up on both sides: what is left over is an error that lists it. Ours are the paths below the model's own name.

A state is any mapping {name: array}; arrays are asked for one at a time, so a lazy mapping stays lazy. diffusers' own
network is not the official one (its timestep sinusoid divides by 127 where 128 is right, its norms have eps 1e-5), but
the weights it holds are the official ones, and here they are used as such.
"""

import collections
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

FLOATS = tuple(np.dtype(t) for t in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64))


class Transform(NamedTuple):
    rank: int | None  # of their array; None: any
    read: Callable  # their array -> ours
    write: Callable  # our array, patch size -> theirs


KEEP = Transform(None, lambda a: a, lambda a, p: a)
TRANSPOSE = Transform(2, lambda a: a.T, lambda a, p: a.T)  # (out, in) <-> (in, out)
PATCH_KERNEL = Transform(  # convolution (D, C, p, p) <-> dense (p p C, D), the channel fastest
    4,
    lambda a: a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0]),
    lambda a, p: a.reshape(p, p, -1, a.shape[1]).transpose(3, 2, 0, 1),
)

# ours <- official, in the order of the official state dict. The label table may lack the null row: it is kept as it is.
EMBEDDERS = [
    ("patch_embedder/projection/kernel", "x_embedder.proj.weight", PATCH_KERNEL),
    ("patch_embedder/projection/bias", "x_embedder.proj.bias", KEEP),
    ("timestep_embedder/expand/kernel", "t_embedder.mlp.0.weight", TRANSPOSE),
    ("timestep_embedder/expand/bias", "t_embedder.mlp.0.bias", KEEP),
    ("timestep_embedder/project/kernel", "t_embedder.mlp.2.weight", TRANSPOSE),
    ("timestep_embedder/project/bias", "t_embedder.mlp.2.bias", KEEP),
    ("label_embedder/table", "y_embedder.embedding_table.weight", KEEP),
]
EACH_BLOCK = [
    ("block{}/attention/qkv/kernel", "blocks.{}.attn.qkv.weight", TRANSPOSE),
    ("block{}/attention/qkv/bias", "blocks.{}.attn.qkv.bias", KEEP),
    ("block{}/attention/projection/kernel", "blocks.{}.attn.proj.weight", TRANSPOSE),
    ("block{}/attention/projection/bias", "blocks.{}.attn.proj.bias", KEEP),
    ("block{}/mlp/expand/kernel", "blocks.{}.mlp.fc1.weight", TRANSPOSE),
    ("block{}/mlp/expand/bias", "blocks.{}.mlp.fc1.bias", KEEP),
    ("block{}/mlp/project/kernel", "blocks.{}.mlp.fc2.weight", TRANSPOSE),
    ("block{}/mlp/project/bias", "blocks.{}.mlp.fc2.bias", KEEP),
    ("block{}/modulation/dense/kernel", "blocks.{}.adaLN_modulation.1.weight", TRANSPOSE),
    ("block{}/modulation/dense/bias", "blocks.{}.adaLN_modulation.1.bias", KEEP),
]
DECODER = [
    ("decoder/linear/kernel", "final_layer.linear.weight", TRANSPOSE),
    ("decoder/linear/bias", "final_layer.linear.bias", KEEP),
    ("decoder/modulation/dense/kernel", "final_layer.adaLN_modulation.1.weight", TRANSPOSE),
    ("decoder/modulation/dense/bias", "final_layer.adaLN_modulation.1.bias", KEEP),
]

# official <- diffusers, without the endings .weight and .bias.
DIFFUSERS_ONCE = [
    ("x_embedder.proj", "pos_embed.proj"),
    ("final_layer.linear", "proj_out_2"),
    ("final_layer.adaLN_modulation.1", "proj_out_1"),
]
DIFFUSERS_EACH_BLOCK = [
    ("blocks.{}.attn.proj", "transformer_blocks.{}.attn1.to_out.0"),
    ("blocks.{}.mlp.fc1", "transformer_blocks.{}.ff.net.0.proj"),
    ("blocks.{}.mlp.fc2", "transformer_blocks.{}.ff.net.2"),
    ("blocks.{}.adaLN_modulation.1", "transformer_blocks.{}.norm1.linear"),
]
DIFFUSERS_REPEATED = [  # one embedder there, a copy in every block here
    ("t_embedder.mlp.0", "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_1"),
    ("t_embedder.mlp.2", "transformer_blocks.{}.norm1.emb.timestep_embedder.linear_2"),
    ("y_embedder.embedding_table", "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table"),
]
DIFFUSERS_QKV = ("blocks.{}.attn.qkv", "transformer_blocks.{}.attn1.{}")
SPLIT, FUSED = ("to_q", "to_k", "to_v"), ("to_qkv",)  # a model fused by diffusers keeps the three: FUSED + SPLIT

# The fixed position table, (1, T, D): a parameter there, a buffer that may be absent in diffusers, no weight of ours.
POSITION_TABLES = {"official": "pos_embed", "diffusers": "pos_embed.pos_embed"}
FIRST_BLOCK = {"official": "blocks.0.attn.qkv.weight", "diffusers": "transformer_blocks.0.norm1.linear.weight"}


def layout_of(names):
    """The names of a state -> "official" or "diffusers"; ValueError names a few of them where it is neither."""
    for layout, name in FIRST_BLOCK.items():
        if name in names:
            return layout
    raise ValueError(f"These are not the weights of a DiT or SiT in a known layout: {few(names)}.")


def depth_of(names):
    """How many blocks the names speak of, in either layout or in ours."""
    found = (re.match(r"(?:transformer_)?blocks?\.?([0-9]+)[./]", str(name)) for name in names)
    return len({match[1] for match in found if match})


def weight_map(depth):
    """The whole list for a model of `depth` adaLN-Zero blocks: (ours, official, transform)."""
    blocks = [(ours.format(i), theirs.format(i), f) for i in range(depth) for ours, theirs, f in EACH_BLOCK]
    return EMBEDDERS + blocks + DECODER


def diffusers_map(depth, qkv=SPLIT):
    """The whole list: (official, its sources in diffusers, how they make one array); qkv: SPLIT, FUSED or both."""
    blocks = range(depth)
    rows = [(official, (theirs,), _only) for official, theirs in DIFFUSERS_ONCE]
    rows += [(o, tuple(theirs.format(i) for i in blocks), _all_equal) for o, theirs in DIFFUSERS_REPEATED]
    for i in blocks:
        rows += [(official.format(i), (theirs.format(i),), _only) for official, theirs in DIFFUSERS_EACH_BLOCK]
        official, theirs = DIFFUSERS_QKV
        rows.append((official.format(i), tuple(theirs.format(i, part) for part in qkv), _QKV_JOINS[qkv]))
    return [
        (official + ending, tuple(name + ending for name in theirs), join)
        for official, theirs, join in rows
        for ending in (".weight", ".bias")
        if (official, ending) != ("y_embedder.embedding_table", ".bias")  # a table has none
    ]


def as_official(state):
    """A state of either layout -> the same under official names, each array made when it is asked for.

    ValueError lists missing and unused names, before any array is read. The embedders that diffusers repeats in every
    block must be equal in all of them: else ValueError, when the array is asked for.
    """
    layout, depth = layout_of(state), depth_of(state)
    table = POSITION_TABLES[layout]
    if layout == "official":
        _exhaust("official weights", state, [theirs for _, theirs, _ in weight_map(depth)], {table})
        return state
    rows = diffusers_map(depth, _qkv_of(state))
    _exhaust("diffusers weights", state, [name for _, theirs, _ in rows for name in theirs], {table})
    arrays = {official: functools.partial(join, state, theirs) for official, theirs, join in rows}
    if table in state:
        arrays["pos_embed"] = functools.partial(state.__getitem__, table)
    return Lazy(arrays)


def to_ours(state):
    """A state of either layout -> (our path, float32 array), one at a time; the position table is not among them.

    ValueError lists missing and unused names, before any array is read. Gradients convert as their weights do. An array
    of float32 is given as it lies in memory: a view, where it can be one.
    """
    official = as_official(state)
    return ((ours, _read(official, theirs, f)) for ours, theirs, f in weight_map(depth_of(official)))


def to_official(weights, position_table, patch_size):
    """{our path: array}, the table (T, D) in float64 -> (official name, array), one at a time.

    In the order of the public state dict, contiguous, with pos_embed (1, T, D) as it is stored there: in float32.
    """
    rows = weight_map(depth_of(weights))
    _exhaust("weights of this model", weights, [ours for ours, _, _ in rows])

    def arrays():
        yield "pos_embed", np.asarray(position_table, np.float32)[None]
        for ours, theirs, transform in rows:
            yield theirs, np.ascontiguousarray(transform.write(np.asarray(weights[ours]), patch_size))

    return arrays()


def to_diffusers(official, fused=False):
    """An official state -> (diffusers name, array), one at a time; no position table, as diffusers saves it."""
    _exhaust("official weights", official, [theirs for _, theirs, _ in weight_map(depth_of(official))], {"pos_embed"})

    def arrays():
        for source, names, join in diffusers_map(depth_of(official), FUSED if fused else SPLIT):
            a = np.asarray(official[source])
            yield from zip(names, np.split(a, len(names)) if join is _rows else [a] * len(names))

    return arrays()


def weights_by_path(model):
    """{path below the model's name: variable}."""
    return {v.path.split("/", 1)[1]: v for v in model.trainable_variables}


def load_weights(model, state, progress=None):
    """Assign a state of either layout to a model of the design adaln_zero, in float32 or wider dtypes rounded to it.

    progress: called with the number of bytes after each weight.
    ValueError where names are left over on either side or a shape is another, where the arrays are no floats, or where
    a stored position table is not the model's; the model may then have taken some of the weights already.
    """
    official, weights = as_official(state), weights_by_path(model)
    _exhaust("weights of this model", weights, [ours for ours, _, _ in weight_map(depth_of(official))])
    if "pos_embed" in official:
        _check_position_table(np.asarray(official["pos_embed"]), model.patch_embedder.position_table)
    for path, a in to_ours(official):
        if tuple(weights[path].shape) != a.shape:
            raise ValueError(f"{path} has shape {tuple(weights[path].shape)}, the public weight {a.shape}.")
        weights[path].assign(a)
        if progress is not None:
            progress(a.nbytes)


class Lazy(collections.UserDict):
    """{name: function without arguments} as {name: what it returns}."""

    def __getitem__(self, name):
        return self.data[name]()


def _only(state, names):
    return state[names[0]]


def _rows(state, names):
    return np.concatenate([np.asarray(state[name]) for name in names])


def _all_equal(state, names):
    first = np.asarray(state[names[0]])
    for name in names[1:]:
        if not np.array_equal(first, np.asarray(state[name])):
            raise ValueError(f"{name} is not equal to {names[0]}: a DiT has one embedder for all blocks.")
    return first


def _fused_and_split(state, names):
    fused = np.asarray(state[names[0]])
    if not np.array_equal(fused, _rows(state, names[1:])):
        raise ValueError(f"{names[0]} is not {', '.join(names[1:])} one below the other.")
    return fused


_QKV_JOINS = {SPLIT: _rows, FUSED: _only, FUSED + SPLIT: _fused_and_split}


def _qkv_of(names):
    """What the first block has; where another block differs, its names are left over."""
    here = tuple(part for part in FUSED + SPLIT if DIFFUSERS_QKV[1].format(0, part) + ".weight" in names)
    return here if here in _QKV_JOINS else SPLIT


def _read(official, name, transform):
    a = np.asarray(official[name])
    if a.dtype not in FLOATS:
        raise ValueError(f"{name} must hold floating-point numbers, got {a.dtype}.")
    if a.ndim != (transform.rank or a.ndim):
        raise ValueError(f"{name} must have {transform.rank} dimensions, got shape {a.shape}.")
    return transform.read(a.astype(np.float32, copy=False))


def _check_position_table(stored, table):
    """Averaged weights have drifted from the table by some 1e-7; in a half-precision file it is rounded."""
    tolerance = 1e-5 if stored.dtype in (np.float32, np.float64) else float(ml_dtypes.finfo(stored.dtype).eps)
    if stored.shape != (1, *table.shape) or not np.abs(stored[0].astype(np.float64) - table).max() <= tolerance:
        raise ValueError("pos_embed is not the sin-cos table of this model's grid and width.")


def _exhaust(what, present, wanted, allowed=frozenset()):
    missing = [name for name in wanted if name not in present]
    unused = sorted(map(str, set(present) - set(wanted) - allowed))
    if missing or unused:
        raise ValueError(f"The {what} do not fit: missing {listed(missing)}, not used {listed(unused)}.")


def listed(names, most=16):
    """A list of names for a message, its end left out where there are many."""
    return f"{names[:most]}" + (f" and {len(names) - most} more" if len(names) > most else "")


def few(names, most=8):
    """Some names for a message."""
    names = sorted(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"
