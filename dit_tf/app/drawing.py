"""What the page of dit_tf.app shows of an image while it is drawn: the pictures so far, and how far it is."""

import base64
import html
import io
import time

import numpy as np
from PIL import Image

from dit_tf.runtime.image_files import pictured_channels

_SIDE = 384  # pixels; smaller images are enlarged by a whole factor, without smoothing
_PLACES = 6  # pictures of the way, with the image
_SECONDS = 0.1  # between two looks at how far a sampler is

CSS = """
.gradio-container {width: 100%; max-width: 1120px !important; margin: 0 auto !important}
.html-container {padding: 0 !important}
#heading {display: flex; align-items: baseline; gap: 16px; color: var(--body-text-color-subdued)}
#heading h1 {font-size: 26px; font-weight: 700; margin: 0; color: var(--body-text-color)}
#image img {image-rendering: pixelated}
#status, #unseen {font-size: 14px; color: var(--body-text-color-subdued)}
#status .bar {height: 6px; margin-top: 8px; border-radius: 3px; background: var(--border-color-primary)}
#status .bar div {height: 100%; border-radius: 3px; background: var(--primary-500)}
#status .bar.unknown div {animation: breathe 1.2s ease-in-out infinite alternate}
@keyframes breathe {from {opacity: 0.35} to {opacity: 1}}
#way {display: grid; grid-template-columns: repeat(6, 1fr); gap: 14px}
#way figure {margin: 0; text-align: center; font-size: 13px; color: var(--body-text-color-subdued)}
#way figure div {aspect-ratio: 1; border-radius: 6px; overflow: hidden; background: var(--background-fill-secondary)}
#way figure div:empty {border: 1px dashed var(--border-color-primary)}
#way figcaption {margin-top: 4px; height: 18px; color: inherit}
#way img {width: 100%; height: 100%; object-fit: cover; image-rendering: pixelated; margin: 0}
#command .cm-content {font-size: 12.5px}
"""


def updates(source, request):
    """Yields what image, way, command and status of the page become, as often as there is news to see."""
    began, looked, pictures = time.monotonic(), 0.0, {}
    for progress in source.draw(request):
        now = time.monotonic()
        if progress.pictures.keys() == pictures.keys() and progress.done < progress.total and now < looked + _SECONDS:
            continue
        looked, pictures = now, progress.pictures
        status = status_of(f"Drawn in {now - began:.1f} s." if progress.finished else progress.doing, progress)
        newest = enlarged([*pictures.values()][-1]) if pictures else None
        yield newest, way_of(source, pictures), source.command(request), status


def status_of(text, progress=None):
    """A sentence, and below it how much of the work is done, or that nobody knows."""
    bar = ""
    if progress is not None and not progress.finished:
        known = progress.done < progress.total
        share = 100 * progress.done / progress.total if known else 100
        bar = f'<div class="bar{"" if known else " unknown"}"><div style="width: {share:.1f}%"></div></div>'
    return f"{html.escape(text)}{bar}"


def way_of(source, pictures):
    """{caption: picture} in a row, with empty places for those to come; of a server, why there is none."""
    if not source.samplers:
        return '<div id="unseen">The way to the image is not seen here: a server gives the image alone.</div>'
    figures = [f'<div><img src="{_data_url(it)}"></div><figcaption>{caption}' for caption, it in pictures.items()]
    figures += ["<div></div><figcaption>"] * (_PLACES - len(figures))
    return f'<div id="way">{"".join(f"<figure>{figure}</figcaption></figure>" for figure in figures)}</div>'


def _data_url(picture):
    file = io.BytesIO()
    picture = picture[..., : pictured_channels(picture.shape[2])]
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def enlarged(picture):
    """(H, W, C) uint8 -> (f H, f W, 3), each pixel a square of a whole f, so that a tiny image can be seen."""
    factor = max(1, _SIDE // max(picture.shape[:2]))
    picture = picture[..., : pictured_channels(picture.shape[2])]
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    return np.broadcast_to(large, (*large.shape[:2], 3))
