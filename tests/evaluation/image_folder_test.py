"""A folder's images are Pillow's, in natural order; each that does not belong there is named."""

import hashlib
import pathlib
import shutil
import subprocess
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from dit_tf.evaluation.image_folder import ImageFolder


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (12, 4, 6, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, images):
    """1.png to 12.PNG, with files beside them that are none."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for i, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / (f"{i}.png" if i < 12 else f"{i}.PNG"), format="PNG")
    (folder / "readme.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    (folder / "deeper.png").mkdir()
    return folder


def read(folder, size=5, first=0):
    return list(ImageFolder("--samples", str(folder)).batches(size, first))


@pytest.mark.parametrize("size", [1, 5, 12, 50])
def test_batches_are_the_images_in_natural_order(folder, images, size):
    found = ImageFolder("--samples", str(folder))
    assert (found.count, found.shape) == (12, (4, 6, 3))
    for first in (0, 7):
        batches = read(folder, size, first)
        assert all(batch.dtype == np.uint8 and len(batch) == size for batch in batches[:-1])
        np.testing.assert_array_equal(np.concatenate(batches), images[first:])


def test_grey_and_palettes_become_rgb(tmp_path, rng):
    grey = rng.integers(0, 256, (4, 6), np.uint8)
    Image.fromarray(grey).save(tmp_path / "1.png")
    Image.fromarray(grey > 127).save(tmp_path / "2.png")
    palette = Image.fromarray(grey % 4, mode=None).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7])
    palette.save(tmp_path / "3.png")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]])
    (found,) = read(tmp_path)
    np.testing.assert_array_equal(found[0], np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(found[1], np.repeat((grey > 127)[..., None] * 255, 3, axis=-1))
    np.testing.assert_array_equal(found[2], colours[grey % 4])


def test_sha256_is_of_names_and_contents(folder):
    def digest():
        return ImageFolder("--samples", str(folder)).sha256()

    names = sorted(f"{i}.png" if i < 12 else f"{i}.PNG" for i in range(1, 13))
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    whole = digest()
    assert whole == hashlib.sha256("".join(lines).encode()).hexdigest()
    if shutil.which("sha256sum"):
        done = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
        assert whole == hashlib.sha256(done.stdout).hexdigest()
    (folder / "1.png").rename(folder / "0.png")
    renamed = digest()
    (folder / "0.png").write_bytes((folder / "2.png").read_bytes())
    assert len({whole, renamed, digest()}) == 3


def test_provenance_says_which_images_these_are(folder):
    found = ImageFolder("--samples", str(folder))
    assert found.provenance() == dict(folder=str(folder), sha256=found.sha256(), images=12, size=[4, 6, 3])


def refused(folder, what):
    with pytest.raises(ValueError, match=what) as caught:
        read(folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"--samples={folder}") and sentence.endswith(".") and sentence.isprintable()


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "must be a folder with PNG or JPEG files directly in it, it holds none")
    refused(tmp_path / "none", "No such file or directory")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "Not a directory")


@pytest.mark.parametrize(
    "image, what",
    [
        (Image.new("RGB", (5, 4)), r"8.png must have the size of 1.png, 4x6 \(H x W\), got 4x5"),
        (Image.new("RGB", (4, 6)), "8.png must have the size of 1.png"),
        (Image.new("RGBA", (6, 4)), "8.png must be grey or RGB of 8 bits, got Pillow's mode RGBA"),
        (Image.new("LA", (6, 4)), "mode LA"),
        (Image.new("I;16", (6, 4)), "mode I;16"),
    ],
)
def test_images_that_do_not_belong_there_are_refused_by_name(folder, image, what):
    image.save(folder / "8.png")
    refused(folder, what)


def test_damaged_images_are_refused_by_name_or_read(folder, images, rng):
    content, count = (folder / "8.png").read_bytes(), 0
    for k in range(60):
        changed, place = bytearray(content), int(rng.integers(len(content)))
        if k % 2:
            del changed[place:]
        else:
            changed[place] ^= 1 << rng.integers(8)
        (folder / "8.png").write_bytes(changed)
        try:
            found = np.concatenate(read(folder))
        except ValueError:
            count += 1
            refused(folder, r"8\.png (cannot be read as a PNG or JPEG image|must )")
        else:  # the checksum of the pixels may lie behind what Pillow looks at
            np.testing.assert_array_equal(np.delete(found, 7, 0), np.delete(images, 7, 0))
    assert count >= 40
    (folder / "8.png").write_bytes(b"")
    refused(folder, "8.png cannot be read as a PNG or JPEG image")
    (folder / "8.png").write_bytes((folder / "1.png").read_bytes())
    read(folder)


def test_what_an_image_claims_is_not_decoded(tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(path)  # ten thousand bytes on disk, 240 MB as RGB
    tracemalloc.start()
    try:
        refused(tmp_path, "huge.png must have 1 to 2048 pixels a side, got 9000x9000")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert path.stat().st_size < 2**17


def test_an_image_that_went_away_is_named(folder):
    found = ImageFolder("--samples", str(folder))
    pathlib.Path(folder / "8.png").unlink()
    for look in (lambda: list(found.batches(5)), found.sha256):
        with pytest.raises(ValueError, match="8.png cannot be read.*: No such file"):
            look()


def test_jpegs_are_read_and_turned_as_their_exif_says(tmp_path, rng):
    smooth = np.repeat(np.repeat(rng.integers(0, 256, (4, 6, 3), np.uint8), 8, axis=0), 8, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(smooth).save(tmp_path / "1.jpg", quality=100, subsampling=0)
    Image.fromarray(np.rot90(smooth)).save(tmp_path / "2.JPEG", format="JPEG", quality=100, subsampling=0, exif=exif)
    Image.fromarray(smooth).save(tmp_path / "3.png")
    (found,) = read(tmp_path)
    assert found.shape == (3, 32, 48, 3)
    assert np.abs(found.astype(int) - smooth).max() <= 8  # what JPEG's rounding of colours costs


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_folder_of_grey_images_has_one_channel(tmp_path, rng, ending):
    grey = rng.integers(100, 104, (3, 16, 16), np.uint8)
    for i, image in enumerate(grey):
        Image.fromarray(image).save(tmp_path / f"{i}.{ending}", quality=100)
    found = ImageFolder("--samples", str(tmp_path))
    assert found.shape == (16, 16, 1)
    difference = np.concatenate(list(found.batches(2)))[..., 0].astype(int) - grey
    assert np.abs(difference).max() <= (0 if ending == "png" else 2)
    Image.fromarray(grey[0]).convert("RGB").save(tmp_path / f"9.{ending}", quality=100)  # one makes all of them RGB
    assert ImageFolder("--samples", str(tmp_path)).shape == (16, 16, 3)
