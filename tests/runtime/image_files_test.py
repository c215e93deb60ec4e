"""Pictures hold the pixels they were given."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from dit_tf.runtime import fonts
from dit_tf.runtime.fonts import font_of
from dit_tf.runtime.image_files import write_grid


def grid_of(path):
    with Image.open(path) as image:
        return np.array(image)


def tiles(grid, height, width, factor, columns, count):
    """The images inside a grid: 14 pixels of caption above each, a margin of 4 around."""
    for i in range(count):
        top = 4 + i // columns * (height * factor + 14 + 4) + 14
        left = 4 + i % columns * (width * factor + 4)
        yield grid[top : top + height * factor : factor, left : left + width * factor : factor]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size, factor", [((8, 8), 6), ((20, 30), 3), ((64, 48), 1)])
def test_a_grid_holds_every_image_unchanged(tmp_path, rng, channels, size, factor):
    images = rng.integers(0, 256, (5, *size, channels), np.uint8)
    path = tmp_path / "grid.png"
    write_grid(str(path), images, captions=range(5), columns=3)
    grid = grid_of(path)
    assert grid.shape == (4 + 2 * (size[0] * factor + 18), 4 + 3 * (size[1] * factor + 4), 3)
    for image, tile in zip(images, tiles(grid, *size, factor, 3, 5), strict=True):
        np.testing.assert_array_equal(tile, np.broadcast_to(image, tile.shape))


def test_small_images_are_enlarged_without_smoothing(tmp_path):
    board = np.indices((8, 8)).sum(0) % 2 * 255
    write_grid(str(tmp_path / "grid.png"), np.uint8(board)[None, :, :, None], [""])
    tile = grid_of(tmp_path / "grid.png")[18:66, 4:52, 0]
    np.testing.assert_array_equal(tile, np.kron(board, np.ones((6, 6))))


def test_each_image_has_its_caption_above_it(tmp_path):
    def ink(captions):
        write_grid(str(tmp_path / "grid.png"), np.full((2, 8, 8, 1), 255, np.uint8), captions)
        grid = grid_of(tmp_path / "grid.png")
        return [(grid[4:18, left : left + 48] < 255).sum() for left in (4, 56)]

    assert ink(["", ""]) == [0, 0]
    first, second = ink(["", "7"])
    assert first == 0 and second > 0


def test_a_long_caption_ends_before_its_neighbour_begins(tmp_path):
    def captions(*texts):
        write_grid(str(tmp_path / "grid.png"), np.full((2, 8, 8, 1), 255, np.uint8), texts)
        return grid_of(tmp_path / "grid.png")[4:18]

    long = captions("golden retriever", "cat")
    np.testing.assert_array_equal(long[:, 56:], captions("", "cat")[:, 56:])
    assert (long[:, 52:56] == 255).all() and (long[:, 40:52] < 255).any()


def test_without_columns_a_grid_is_nearly_square(tmp_path):
    for count, (rows, columns) in {1: (1, 1), 4: (2, 2), 5: (2, 3), 10: (3, 4)}.items():
        write_grid(str(tmp_path / "grid.png"), np.zeros((count, 48, 48, 1), np.uint8), range(count))
        assert grid_of(tmp_path / "grid.png").shape[:2] == (4 + rows * 66, 4 + columns * 52)


@pytest.mark.parametrize("channels, shown", [(2, [0, 0, 0]), (4, [0, 1, 2])])
def test_of_other_channels_the_first_are_shown(tmp_path, channels, shown):
    images = np.random.default_rng(0).integers(0, 256, (1, 48, 48, channels), np.uint8)
    write_grid(str(tmp_path / "grid.png"), images, [0])
    np.testing.assert_array_equal(grid_of(tmp_path / "grid.png")[18:66, 4:52], images[0][..., shown])


def test_captions_are_in_letters_that_a_font_has(tmp_path, monkeypatch):
    """DejaVu has Greek and Cyrillic letters; without it, and for Chinese, there is the label's number."""

    def strip(caption, label=None):
        labels = None if label is None else [label]
        write_grid(str(tmp_path / "grid.png"), np.zeros((1, 48, 48, 1), np.uint8), [caption], labels=labels)
        return grid_of(tmp_path / "grid.png")[:18]

    assert font_of("cat").getname()[0] != font_of("κότα").getname()[0] == font_of("кот").getname()[0] == "DejaVu Sans"
    assert not np.array_equal(strip("κότα", 7), strip("7"))
    np.testing.assert_array_equal(strip("猫", 7), strip("7"))
    np.testing.assert_array_equal(strip("猫"), strip(""))
    monkeypatch.setattr(fonts, "_fonts", lambda: [ImageFont.load_default()])
    np.testing.assert_array_equal(strip("κότα", 7), strip("7"))
