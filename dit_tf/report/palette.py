"""What a model, a block design and a patch size look like, in every figure alike.

A hue for each size of a ladder, of Okabe and Ito's colours, which colour-blind readers tell apart; a shade for each
patch, the darker the finer; and a marker for each patch, so that no line is told by its colour alone.
"""

import re

_LADDERS = ((("Mi", "Na", "Ti", "Xs"), (4, 2, 1)), (("S", "B", "L", "XL"), (8, 4, 2)))  # (sizes, patches)
_HUES = ("#0072B2", "#009E73", "#D98C00", "#C0508A")
_OTHER = "#666666"
_SHADES = (0.52, 0.22, -0.28)  # towards white above 0, towards black below, from the coarsest patch on
_MARKERS = ("o", "s", "^")

BLOCKS = {  # in the paper's order of quality
    "adaln_zero": ("adaLN-Zero", "#0072B2", "^"),
    "adaln": ("adaLN", "#56B4E9", "s"),
    "cross_attention": ("cross-attention", "#D98C00", "o"),
    "in_context": ("in-context", "#555555", "D"),
}
ACCENTS = _HUES


def size_of(model):
    """ "DiT-Ti/2" -> "Ti"."""
    return re.split("[-/]", model)[-2]


def patch_of(model):
    return int(model.rsplit("/", 1)[1])


def short_name(model):
    """ "DiT-Ti/2" -> "Ti/2", as the paper writes it in its figures."""
    return f"{size_of(model)}/{patch_of(model)}"


def _place(model):
    """(ladder, size, patch) by position, each None where the name is in no ladder."""
    for number, (sizes, patches) in enumerate(_LADDERS):
        if size_of(model) in sizes:
            patch = patch_of(model)
            return number, sizes.index(size_of(model)), patches.index(patch) if patch in patches else None
    return None, None, None


def model_order(model):
    """A key that sorts by size, then from coarse to fine patches."""
    ladder, size, _ = _place(model)
    return (9 if ladder is None else ladder, size or 0, size_of(model), -patch_of(model))


def size_order(size):
    return model_order(f"DiT-{size}/1")[:3]


def size_colour(size):
    place = _place(f"DiT-{size}/2")[1]
    return _OTHER if place is None else _HUES[place]


def colour_of(model):
    patch = _place(model)[2]
    return _shaded(size_colour(size_of(model)), 0.0 if patch is None else _SHADES[patch])


def marker_of(model):
    patch = _place(model)[2]
    return "D" if patch is None else _MARKERS[patch]


def _shaded(colour, amount):
    """A hexadecimal colour mixed with white (amount > 0) or black."""
    target = 255 if amount > 0 else 0
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (target - part) * abs(amount)):02x}" for part in parts)
