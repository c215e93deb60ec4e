"""Images to files, written beside their place and renamed into it."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from dit_tf.runtime.output_files import replace_file

_MIN_TILE = 48  # pixels; smaller images are enlarged by a whole factor, without smoothing
_CAPTION = 14
_MARGIN = 4
_PAPER, _INK = 255, 60


def write_grid(path, images, captions, columns=None):
    """A PNG of images (N, H, W, 1 or 3) uint8, each under its caption, row by row."""
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"A picture needs images of 1 or 3 channels, got {images.shape[-1]}.")
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // columns)
    factor = max(1, -(-_MIN_TILE // min(images.shape[1:3])))
    height, width = images.shape[1] * factor, images.shape[2] * factor
    size = (columns * (width + _MARGIN) + _MARGIN, rows * (height + _CAPTION + _MARGIN) + _MARGIN)
    grid = Image.new("RGB", size, (_PAPER,) * 3)
    draw = ImageDraw.Draw(grid)
    for i, (image, caption) in enumerate(zip(images, captions)):
        left = _MARGIN + i % columns * (width + _MARGIN)
        top = _MARGIN + i // columns * (height + _CAPTION + _MARGIN)
        draw.text((left + 1, top), _fitted(draw, str(caption), width), fill=(_INK,) * 3)
        tile = Image.fromarray(np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image)
        grid.paste(tile.resize((width, height), Image.Resampling.NEAREST), (left, top + _CAPTION))
    buffer = io.BytesIO()
    grid.save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())


def _fitted(draw, caption, width):
    """The caption, or its beginning and three dots where it is wider than the image."""
    if draw.textlength(caption) <= width:
        return caption
    fits = [end for end in range(len(caption)) if draw.textlength(caption[:end] + "...") <= width]
    return caption[: max(fits, default=0)].rstrip() + "..."
