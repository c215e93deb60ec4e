"""run_alone: parts that run at the same time are told apart, and end together where one of them fails."""

import os
import time

import pytest

from dit_tf.study.process import run_alone

_PATIENCE = 60  # seconds that a part waits for another


def meet(place, folder, name):
    """Ends when both slots have been here."""
    (folder / f"{place.slot}").touch()
    deadline = time.time() + _PATIENCE
    while len({"0", "1"} & set(os.listdir(folder))) < 2:
        assert time.time() < deadline and place.started < time.time()
        time.sleep(0.01)
    (folder / name).write_text(f"{place.slot}")


def end(place, folder, how):
    (folder / how).touch()
    while "waits" not in os.listdir(folder):
        time.sleep(0.01)
    if how == "waits":
        time.sleep(_PATIENCE)
        (folder / "waited").touch()
    if how == "fails":
        raise ValueError("--flag must be a flag.")
    if how == "dies":
        os._exit(9)


def test_so_many_run_at_once_and_no_two_in_one_slot(tmp_path):
    run_alone(meet, [(tmp_path, name) for name in ("first", "second", "third")], at_once=2)
    told = {name: (tmp_path / name).read_text() for name in ("first", "second", "third")}
    assert {told["first"], told["second"]} == {"0", "1"} and told["third"] in told.values()


@pytest.mark.parametrize(
    "how, words", [("fails", "--flag must be a flag"), ("dies", r"ended without a word \(exit code 9\)")]
)
def test_where_one_fails_the_others_end_and_none_begins(tmp_path, how, words):
    began = time.time()
    with pytest.raises(ValueError, match=words):
        run_alone(end, [(tmp_path, "waits"), (tmp_path, how), (tmp_path, "begins")], at_once=2)
    assert set(os.listdir(tmp_path)) == {"waits", how} and time.time() - began < _PATIENCE
