"""Snapshots of averages: none may be missing, whenever a run was killed."""

import pytest

from dit_tf.training.callbacks import SaveSnapshots


@pytest.mark.parametrize(
    "every, step, saved, expected",
    [
        (30, 60, [30], [60]),  # killed before the snapshot was there
        (30, 60, [30, 60], []),
        (30, 70, [30, 60], []),
        (30, 0, [], []),
        (30, 100, [30, 60, 90], [100]),  # the last step
        (0, 100, [], []),
    ],
)
def test_a_run_that_goes_on_makes_the_snapshot_that_the_one_before_it_did_not(every, step, saved, expected):
    made = []
    SaveSnapshots(every, made.append).catch_up(step, 100, saved)
    assert made == expected
