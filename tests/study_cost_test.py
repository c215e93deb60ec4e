"""How long a study took: in closed form."""

import json

from dit_tf.study.cost import duration, note_time, seconds_of


def test_processes_that_ran_together_count_once_and_a_pause_does_not(tmp_path):
    spans = [
        (100, 10),
        (105, 10),
        (106, 2),
        (200, 5),
    ]  # 15 s by three, one of them inside; then 5 s another day
    lines = [json.dumps(dict(part="a", began=began, seconds=seconds)) for began, seconds in reversed(spans)]
    (tmp_path / "times.jsonl").write_text("\n".join([*lines, '{"part": "cut o']))
    assert seconds_of(str(tmp_path)) == 20


def test_a_study_that_has_not_begun_took_no_time(tmp_path):
    assert seconds_of(str(tmp_path)) == 0
    note_time(str(tmp_path), "a", began=0.0)
    assert seconds_of(str(tmp_path)) > 1e9
    assert [duration(s) for s in (48, 720, 12240, 181440)] == ["48 s", "12 min", "3.4 h", "2.1 days"]
