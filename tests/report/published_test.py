"""The papers' numbers agree with one another where they overlap."""

from dit_tf.report.published import (
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_6,
    counts,
    twelve,
)


def test_table_4_has_what_preflight_prints_beside_its_own():
    found = counts()
    assert len(found) == 16
    assert found["DiT-XL/2", "adaln_zero", 256] == (675, 118.64)
    assert found["DiT-XL/2", "adaln_zero", 512] == (675, 524.60)
    assert found["DiT-XL/2", "in_context", 256] == (449, 119.37)
    assert found["DiT-XL/2", "cross_attention", 256] == (598, 137.62)
    assert found["DiT-XL/2", "adaln", 256] == (600, 118.56)
    assert found["DiT-B/8", "adaln_zero", 256] == (131, 1.42)


def test_the_twelve_models_of_figure_8():
    rows = twelve()
    assert [row.model for row in rows] == [
        f"DiT-{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (8, 4, 2)
    ]
    assert {row.steps for row in rows} == {400} and rows[-1].fid == 19.47 and rows[0].fid == 153.60


def test_the_tables_share_their_best_rows():
    assert TABLE_2[-1][1:] == (2.27, 4.60, 278.24, 0.83, 0.57)
    assert next(row for row in TABLE_4 if row.steps == 7000).fid == TABLE_2[-3].fid == 9.62
    assert TABLE_3[-1].fid == 3.04 and len(TABLE_2) == 15 and len(TABLE_3) == 9


def test_table_6_adds_up():
    assert all(row.total == row.base + (row.upsampler or 0) for row in TABLE_6)
