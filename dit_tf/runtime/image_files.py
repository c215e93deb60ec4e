"""Images to files, written beside their place and renamed into it."""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

from dit_tf.runtime.fonts import font_of
from dit_tf.runtime.output_files import replace_file

_MIN_TILE = 48  # pixels; smaller images are enlarged by a whole factor, without smoothing
_CAPTION = 14
_MARGIN = 4
_PAPER, _INK = 255, 60


def write_grid(path, images, captions, columns=None, labels=None):
    """A PNG of `grid`."""
    buffer = io.BytesIO()
    grid(images, captions, columns, labels).save(buffer, format="PNG")
    replace_file(path, buffer.getvalue())


def grid(images, captions, columns=None, labels=None):
    """A PIL image of images (N, H, W, C) uint8, each under its caption, row by row; of 2 channels the first, of more
    than 3 the first three. labels: numbers that stand for captions in letters of which no font is here."""
    images = images[..., : pictured_channels(images.shape[-1])]
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = -(-len(images) // columns)
    factor = max(1, -(-_MIN_TILE // min(images.shape[1:3])))
    height, width = images.shape[1] * factor, images.shape[2] * factor
    size = (columns * (width + _MARGIN) + _MARGIN, rows * (height + _CAPTION + _MARGIN) + _MARGIN)
    sheet = Image.new("RGB", size, (_PAPER,) * 3)
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions)):
        left = _MARGIN + i % columns * (width + _MARGIN)
        top = _MARGIN + i // columns * (height + _CAPTION + _MARGIN)
        text, font = str(caption), font_of(str(caption))
        if font is None:
            text, font = str(labels[i]) if labels is not None else "", font_of("0")
        draw.text((left + 1, top), _fitted(draw, text, width, font), fill=(_INK,) * 3, font=font)
        tile = Image.fromarray(np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image)
        sheet.paste(tile.resize((width, height), Image.Resampling.NEAREST), (left, top + _CAPTION))
    return sheet


def pictured_channels(channels):
    """How many of the first channels a picture shows."""
    return 1 if channels < 3 else 3


def _fitted(draw, caption, width, font):
    """The caption, or its beginning and three dots where it is wider than the image."""
    if draw.textlength(caption, font) <= width:
        return caption
    fits = [end for end in range(len(caption)) if draw.textlength(caption[:end] + "...", font) <= width]
    return caption[: max(fits, default=0)].rstrip() + "..."
