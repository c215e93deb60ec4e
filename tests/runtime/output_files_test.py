"""Files appear whole or not at all, and where they cannot the flag is named."""

import json
import os

import pytest

from dit_tf.runtime.output_files import replace_file, write_json


def test_a_file_is_replaced_whole_and_its_folders_are_made(tmp_path, monkeypatch):
    path = tmp_path / "new" / "folder" / "file"
    replace_file(str(path), b"one")
    replace_file(str(path), b"two")
    assert path.read_bytes() == b"two" and len(list(path.parent.iterdir())) == 1

    def killed(source, target):
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", killed)
            replace_file(str(path), b"three")
        assert path.read_bytes() == b"two" and sorted(os.listdir(path.parent)) == ["file", "file.unfinished"]
    replace_file(str(path), b"four")
    assert path.read_bytes() == b"four" and os.listdir(path.parent) == ["file"]


def test_a_file_of_the_present_folder_needs_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace_file("file", b"one")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_numbers_that_cannot_be_written_are_one_sentence_of_the_flag(tmp_path):
    path = tmp_path / "report.json"
    write_json(str(path), {"one": 1})
    assert json.loads(path.read_text()) == {"one": 1}
    sentence = rf"^--output={path}/below cannot be written \(.+\): make room or give"
    with pytest.raises(ValueError, match=sentence) as error:
        write_json(f"{path}/below", {})  # below a file
    assert "\n" not in str(error.value)
