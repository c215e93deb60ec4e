"""A font that has the letters of a text, of those that lie with Pillow and, where it is installed, with matplotlib."""

import functools
import importlib.util
import pathlib
import unicodedata

from PIL import ImageFont

_DEJAVU = "mpl-data/fonts/ttf/DejaVuSans.ttf"
_HEIGHT = 10  # pixels, that of Pillow's own
_NOWHERE = "\U0010fffe"  # no character, so no font has it


def font_of(text):
    """A font with a letter for every character of the text, or None."""
    needed = {letter for letter in text if not letter.isspace() and unicodedata.category(letter) not in ("Cf", "Mn")}
    for font in _fonts():
        if all(_has(font, letter) for letter in needed):
            return font
    return None


@functools.cache
def _fonts():
    found = [ImageFont.load_default()]
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None:
        path = pathlib.Path(matplotlib.origin).parent / _DEJAVU
        if path.exists():
            found.append(ImageFont.truetype(str(path), _HEIGHT))
    return found


@functools.cache
def _has(font, letter):
    """Whether a font has a letter: for one that it lacks it draws a box, the same for all."""
    try:
        return _drawn(font, letter) != _drawn(font, _NOWHERE)
    except UnicodeEncodeError:  # Pillow's font where FreeType is missing, which has Latin letters alone
        return False


def _drawn(font, letter):
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
