"""The arguments of a model from the shapes of public DiT or SiT weights, and what shapes cannot tell.

Shapes hold no number of heads, nor the objective, path or prediction that the weights were trained for: a SiT has the
names and shapes of a DiT (--objective, ddpm where nothing is said, is the caller's word). Letters: T tokens, D width, C
channels, p patch size, R rows of the label table.
"""

import math

from dit_tf.pretrained.dit_map import as_official, depth_of

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: the published S, B, L and XL
IMAGENET_CLASSES = 1000
LABEL_DROPOUT = 0.1  # of every published training; the weights show only whether there was any


def infer(state, *, num_heads=None, num_classes=None, input_size=None):
    """A state of either layout -> the keyword arguments of `DiT`.

    Heads: by the table of published widths, else --num_heads. Labels: R rows are R - 1 classes and the null class, 1001
    rows those of ImageNet. With --num_classes given, R must be that number, which means weights trained without label
    dropout, hence without a null class, or one more. A table of 1000 rows is refused without --num_classes, since
    ImageNet without a null class is likelier than 999 classes; so is one of a single row.
    Size: `input_size`, latents or pixels, an integer or (H, W), is needed where no position table is stored, as in
    diffusers' files, or where it belongs to a grid that is not square. ValueError names the flag or the array at fault.
    """
    state = as_official(state)
    width, patch_size, in_channels = _patch_kernel(_shape(state, "x_embedder.proj.weight", 4))
    num_classes, dropout = _classes(_shape(state, "y_embedder.embedding_table.weight", 2)[0], num_classes)
    hidden = _shape(state, "blocks.0.mlp.fc1.weight", 2)[0]
    return dict(
        input_size=_input_size(state, patch_size, input_size),
        patch_size=patch_size,
        in_channels=in_channels,
        width=width,
        depth=depth_of(state),
        num_heads=_heads(width, num_heads),
        num_classes=num_classes,
        mlp_ratio=hidden / width,
        class_dropout_prob=dropout,
        learn_sigma=_learn_sigma(_shape(state, "final_layer.linear.weight", 2)[0], patch_size, in_channels),
    )


def diffusers_arguments(config):
    """config.json of a DiTTransformer2DModel -> the arguments of `infer` that the shapes of its weights do not hold.

    Its norm_eps is not among them: 1e-5 there is diffusers' default, the weights were trained with 1e-6. ValueError
    where a field is missing or asks for another network.
    """
    for field, value in (("norm_type", "ada_norm_zero"), ("activation_fn", "gelu-approximate")):
        if config.get(field, value) != value:
            raise ValueError(f"config.json: {field} must be {value!r} for a DiT, got {config[field]!r}.")
    names = dict(input_size="sample_size", num_heads="num_attention_heads", num_classes="num_embeds_ada_norm")
    for field in names.values():
        if type(config.get(field)) is not int or config[field] < 1:
            raise ValueError(f"config.json: {field} must be a positive integer, got {config.get(field)!r}.")
    return {name: config[field] for name, field in names.items()}


def _shape(state, name, rank):
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{name} must have {rank} dimensions and entries in it, got shape {shape}.")
    return shape


def _patch_kernel(shape):
    width, in_channels, patch_size, other = shape
    if patch_size != other:
        raise ValueError(f"x_embedder.proj.weight must be (D, C, p, p) with square patches, got shape {shape}.")
    return width, patch_size, in_channels


def _classes(rows, num_classes):
    if num_classes is None:
        if rows in (1, IMAGENET_CLASSES):
            raise ValueError(f"The label table has {rows} rows: say by --num_classes whether one is the null class.")
        num_classes = rows - 1
    if rows - num_classes not in (0, 1):
        raise ValueError(
            f"--num_classes must be {rows}, or {rows - 1} and the null class, for a label table of {rows} rows, got "
            f"{num_classes}."
        )
    return num_classes, LABEL_DROPOUT if rows > num_classes else 0.0


def _heads(width, num_heads):
    num_heads = HEADS.get(width) if num_heads is None else num_heads
    if num_heads is None:
        raise ValueError(f"The number of heads is not known for width {width}: say it by --num_heads.")
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"--num_heads must divide the width {width}, got {num_heads}.")
    return num_heads


def _input_size(state, patch_size, input_size):
    tokens = _shape(state, "pos_embed", 3)[1] if "pos_embed" in state else None
    if input_size is None or isinstance(input_size, int):
        side = math.isqrt(tokens or 0)
        if tokens is not None and side**2 != tokens:
            raise ValueError(
                f"The file has {tokens} positions, which are no square: it is a network of images that are not square, "
                "which dit_tf does not draw."
            )
        if tokens is None and input_size is None:
            raise ValueError(
                "The file holds no position table: say by --input_size how large the model's input is."
            )
        if input_size is None:
            return side * patch_size
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    fits = min(height, width) > 0 and not height % patch_size and not width % patch_size
    if not fits or tokens not in (None, height * width // patch_size**2):
        table = "" if tokens is None else f" and the {tokens} positions in the file"
        raise ValueError(f"--input_size={height}x{width} does not fit patches of {patch_size}{table}.")
    return input_size


def _learn_sigma(units, patch_size, in_channels):
    channels, rest = divmod(units, patch_size**2)
    if rest or channels not in (in_channels, 2 * in_channels):
        raise ValueError(
            f"final_layer.linear.weight must have {patch_size}^2 x {in_channels} rows or twice as many, got {units}."
        )
    return channels == 2 * in_channels
