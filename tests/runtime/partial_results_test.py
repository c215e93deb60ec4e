"""Results that survive an interruption, as far as they are whole and of the same thing."""

import pytest

from dit_tf.runtime.partial_results import PartialResults

_KEY = {"model": "a", "seed": 1}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "deeper" / "metrics.json.partial")


def filled(path, count=3):
    results = PartialResults(path, _KEY)
    for i in range(count):
        results.append({"bits": [i + 0.1]})
    return results


def test_the_same_key_finds_what_was_there(path):
    assert filled(path).batches == PartialResults(path, _KEY).batches == [{"bits": [i + 0.1]} for i in range(3)]


@pytest.mark.parametrize("key", [{"model": "b", "seed": 1}, {"model": "a"}])
def test_another_key_starts_anew(path, key):
    filled(path)
    assert PartialResults(path, key).batches == []
    assert PartialResults(path, _KEY).batches == []  # and the old ones are gone


def test_a_line_that_a_killed_run_left_unfinished_is_dropped(path):
    filled(path)
    with open(path) as file:
        text = file.read()
    for length in range(len(text)):
        with open(path, "w") as file:
            file.write(text[:length])
        results = PartialResults(path, _KEY)
        assert len(results.batches) == max(0, text[:length].count("\n") - 1)
        results.append({"bits": [9.0]})
        assert PartialResults(path, _KEY).batches[-1] == {"bits": [9.0]}


def test_a_file_of_something_else_is_no_results(path):
    filled(path)
    with open(path, "w") as file:
        file.write("not JSON\n{}\n")
    assert PartialResults(path, _KEY).batches == []


def test_removed_it_is_gone(path, tmp_path):
    filled(path).remove()
    assert list((tmp_path / "deeper").iterdir()) == []
