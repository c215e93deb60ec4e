"""The table of published files: whole records, addresses that a program may follow, no two files of one name."""

import urllib.parse

import pytest

from dit_tf.pretrained.published import PUBLISHED, described


def test_the_names_of_the_promise_are_there():
    assert list(PUBLISHED) == [
        "dit-xl-2-256", "dit-xl-2-512", "sit-xl-2-256", "sd-vae-ft-ema", "sd-vae-ft-mse", "sd-vae", "sdxl-vae",
    ]  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_record_is_whole(name):
    row = PUBLISHED[name]
    parts = urllib.parse.urlsplit(row.address)
    assert parts.scheme == "https" and parts.netloc and parts.path.endswith((".pt", ".safetensors"))
    assert row.file.endswith(parts.path[parts.path.rindex(".") :]) and "/" not in row.file
    assert (row.kind, row.objective) in [("dit", "ddpm"), ("dit", "flow"), ("vae", None)]
    assert row.size is None or row.size > 10**8
    assert row.scaling_factor == (0.13025 if name == "sdxl-vae" else 0.18215)
    for said in (name, row.what, row.licence, row.address):
        assert said in described(name)


def test_files_have_names_of_their_own():
    assert len({row.file for row in PUBLISHED.values()}) == len(PUBLISHED)
    assert len({row.address for row in PUBLISHED.values()}) == len(PUBLISHED)


def test_the_stated_size_is_that_of_the_parameters():
    """675,129,632 float32, the position table included, and less than 0.1 MB of a PyTorch file around them."""
    assert 0 < PUBLISHED["dit-xl-2-256"].size - 4 * 675_129_632 < 100_000
    assert "2,701 MB" in described("dit-xl-2-256")
