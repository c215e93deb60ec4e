"""Start a training from the weights of another model: other classes, another resolution, or no classes at all.

The position table is no weight: a model computes it for its own grid. The label table is kept as far as it means the
same; every other weight must fit.
"""

import tensorflow as tf

from dit_tf.pretrained.dit_map import weights_by_path

_TABLE = "label_embedder/table"


def start_from(model, source, same):
    """Copy the weights of one `DiT` into another -> a sentence about the label table.

    same: {label: label in the source} of the classes that both know. ValueError where the models differ in their
    design, depth, width, patches or channels.
    """
    ours, theirs = weights_by_path(model), weights_by_path(source)
    _check(ours, theirs)
    for path, variable in ours.items():
        if path != _TABLE:
            variable.assign(theirs[path].value)
    rows = _kept_rows(model, source, same)
    table = ours[_TABLE]
    if rows:
        kept = tf.gather(theirs[_TABLE].value, list(rows.values()))
        table.assign(tf.tensor_scatter_nd_update(table.value, [[row] for row in rows], kept))
    return f"{len(rows)} of the label table's {table.shape[0]} rows are kept, {table.shape[0] - len(rows)} begin anew"


def _kept_rows(model, source, same):
    """{our row: theirs}. Without classes and without a null class, our only row means what the null class means."""
    rows = dict(same)
    if source.null_label is None:
        return rows
    if model.null_label is not None:
        rows[model.null_label] = source.null_label
    elif model.get_config()["num_classes"] == 1 and not same:
        rows[0] = source.null_label
    return rows


def _check(ours, theirs):
    if ours.keys() != theirs.keys():
        here, there = (sorted(a.keys() - b.keys()) for a, b in ((ours, theirs), (theirs, ours)))
        raise ValueError(
            "--init_from holds another network: --model, --block and --qk_norm must be those of its training "
            f"({len(here)} weights are only here and {len(there)} only there, such as {(here + there)[0]})."
        )
    for path, variable in ours.items():
        shape, other = tuple(variable.shape), tuple(theirs[path].shape)
        if path != _TABLE and shape != other:
            raise ValueError(
                f"--init_from holds another network: {path} has the shape {other} there and {shape} here; --model, "
                "--learn_sigma and --vae must be those of its training."
            )
