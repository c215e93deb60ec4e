"""The state dict of the public DiT (models.py) -> our weights, named `ours <- theirs, transform`.

Ours are the paths below the model's own name. Both sides must be used up: what is left over is an error that lists it.
"""

import numpy as np


def keep(a):
    return a


def transpose(a):
    """(out, in) -> (in, out)."""
    return a.T


def flatten_patch_kernel(a):
    """Convolution (D, C, p, p) -> dense (p p C, D), the channel fastest."""
    return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])


EMBEDDERS_AND_DECODER = [
    ("patch_embedder/projection/kernel", "x_embedder.proj.weight", flatten_patch_kernel),
    ("patch_embedder/projection/bias", "x_embedder.proj.bias", keep),
    ("timestep_embedder/expand/kernel", "t_embedder.mlp.0.weight", transpose),
    ("timestep_embedder/expand/bias", "t_embedder.mlp.0.bias", keep),
    ("timestep_embedder/project/kernel", "t_embedder.mlp.2.weight", transpose),
    ("timestep_embedder/project/bias", "t_embedder.mlp.2.bias", keep),
    ("label_embedder/table", "y_embedder.embedding_table.weight", keep),
    ("decoder/modulation/dense/kernel", "final_layer.adaLN_modulation.1.weight", transpose),
    ("decoder/modulation/dense/bias", "final_layer.adaLN_modulation.1.bias", keep),
    ("decoder/linear/kernel", "final_layer.linear.weight", transpose),
    ("decoder/linear/bias", "final_layer.linear.bias", keep),
]

EACH_BLOCK = [
    ("block{}/attention/qkv/kernel", "blocks.{}.attn.qkv.weight", transpose),
    ("block{}/attention/qkv/bias", "blocks.{}.attn.qkv.bias", keep),
    ("block{}/attention/projection/kernel", "blocks.{}.attn.proj.weight", transpose),
    ("block{}/attention/projection/bias", "blocks.{}.attn.proj.bias", keep),
    ("block{}/mlp/expand/kernel", "blocks.{}.mlp.fc1.weight", transpose),
    ("block{}/mlp/expand/bias", "blocks.{}.mlp.fc1.bias", keep),
    ("block{}/mlp/project/kernel", "blocks.{}.mlp.fc2.weight", transpose),
    ("block{}/mlp/project/bias", "blocks.{}.mlp.fc2.bias", keep),
    ("block{}/modulation/dense/kernel", "blocks.{}.adaLN_modulation.1.weight", transpose),
    ("block{}/modulation/dense/bias", "blocks.{}.adaLN_modulation.1.bias", keep),
]


def weight_map(depth):
    """The whole list for a model of `depth` adaLN-Zero blocks: (ours, theirs, transform)."""
    blocks = [(ours.format(i), theirs.format(i), f) for i in range(depth) for ours, theirs, f in EACH_BLOCK]
    return EMBEDDERS_AND_DECODER + blocks


def weights_by_path(model):
    """{path below the model's name: variable}."""
    return {v.path.split("/", 1)[1]: v for v in model.trainable_variables}


def convert(arrays, depth):
    """{their name: array} without pos_embed -> {our path: array}. Gradients of their weights convert alike."""
    rows = weight_map(depth)
    missing = [theirs for _, theirs, _ in rows if theirs not in arrays]
    unused = sorted(set(arrays) - {theirs for _, theirs, _ in rows})
    if missing or unused:
        raise ValueError(f"The official weights do not fit: missing {missing}, not used {unused}.")
    return {ours: transform(np.asarray(arrays[theirs])) for ours, theirs, transform in rows}


def load_official(model, state):
    """Assign an official state dict, {name: array}, to a model of the design adaln_zero."""
    state = dict(state)
    # A fixed table there too, but stored; in averaged weights it has drifted by some 1e-7.
    table = state.pop("pos_embed")[0]
    ours = model.patch_embedder.position_table
    if table.shape != ours.shape or np.abs(table - ours).max() > 1e-5:
        raise ValueError("pos_embed is not the sin-cos table of this model's grid and width.")
    arrays, weights = convert(state, len(model.blocks)), weights_by_path(model)
    if arrays.keys() != weights.keys():
        raise ValueError(f"Left over: {sorted(arrays.keys() ^ weights.keys())}.")
    for path, variable in weights.items():
        if tuple(variable.shape) != arrays[path].shape:
            raise ValueError(f"{path} has shape {tuple(variable.shape)}, the official weight {arrays[path].shape}.")
        variable.assign(arrays[path])
