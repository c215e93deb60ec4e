"""The report on disk: whole, self-contained, equal for equal data, and there for a study that still runs."""

import ast
import dataclasses
import html.parser
import importlib.util
import pathlib

import pytest

from dit_tf.report import figures, page, study_data
from dit_tf.report.page import write_report
from dit_tf.report.tables import published_tables, score_tables
from tests.report.synthetic_study import MODELS, make_study


class Links(html.parser.HTMLParser):
    """Everything that a page would fetch or lead to, and whether each tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(study, drawn, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda data: drawn)  # drawn once for all tests
        assert write_report(study, str(directory)) == str(directory / "report.html")
    return directory


def test_the_page_holds_every_figure_and_fetches_nothing(written, drawn):
    text = (written / "report.html").read_text()
    links = Links(text)
    assert not links.open
    images = [source for source in links.sources if source.startswith("data:image/svg+xml;base64,")]
    assert len(images) == len(drawn[0]) == len(figures.FIGURES)
    assert all(source.startswith(("data:", "#")) for source in links.sources)
    assert "http" not in text.replace("data:image", "") and "@import" not in text and "url(" not in text
    assert "<script" not in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_the_markdown_links_figures_that_are_there(written, drawn):
    text = (written / "report.md").read_text()
    for picture in drawn[0]:
        assert f"(figures/{picture.name}.png)" in text
        assert (written / "figures" / f"{picture.name}.png").read_bytes() == picture.png
        assert (written / "figures" / f"{picture.name}.svg").read_bytes() == picture.svg
    assert len(list((written / "figures").iterdir())) == 2 * len(drawn[0])
    for line in text.splitlines():
        assert not line.startswith("| DiT") or line.endswith(" |")


def test_both_tell_claims_tables_facts_and_plan(written):
    for name in ("report.html", "report.md"):
        text = (written / name).read_text()
        for expected in ("The paper says, we saw", "figure 8", "It does not agree with", "153.60", "278.24", "1983",
                         "StyleGAN-XL", "FD-pixels-500", "2.20.0", "model=DiT-Mi/4", "no FID"):  # fmt: skip
            assert expected in text, expected
        assert "partial" not in text and "FID-500" not in text


def test_equal_data_give_equal_files(tmp_path):
    data = make_study(beyond_ladder=False, models=MODELS[:2], seeds=(0,))
    for name in ("first", "second"):
        write_report(data, str(tmp_path / name))
    files = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(files) > 6
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


@pytest.mark.parametrize("count", [0, 1])
def test_a_study_that_still_runs_has_a_report_that_says_so(study, tmp_path, count):
    data = dataclasses.replace(study, rows=study.rows[:count], images={}, losses={})
    text = pathlib.Path(write_report(data, str(tmp_path))).read_text()
    assert f"partial: {count} of {len(study.rows)} rows" in text and "left out, it needs" in text


def test_scores_of_a_running_seed_do_not_stop_the_report(study, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", figures.FIGURES[:2])
    gone = [row for row in study.rows if row["run"] != "sizes/DiT-Ti/4,seed=2"]
    text = pathlib.Path(write_report(dataclasses.replace(study, rows=gone), str(tmp_path))).read_text()
    assert "2 to 3 seeds" in text


def test_an_fid_of_50000_samples_is_among_the_papers_rows():
    rows = make_study(features="inception", models=["DiT-Ti/2"], beyond_ladder=False).rows
    fids = [row | {"num_samples": 50_000, "image_size": 256} for row in rows]
    data = dataclasses.replace(make_study(seeds=(0,), models=MODELS[:1], beyond_ladder=False), rows=fids)
    table = next(table for table in published_tables(data) if table.title.startswith("Table 2"))
    assert table.columns == ("model", "FID-50K", "sFID", "IS", "precision", "recall")
    assert table.rows[-1][0] == "ours: DiT-Ti/2" and len(table.rows[-1]) == len(table.columns)
    assert len(table.rows) == 16


def test_pixels_are_beside_the_papers_rows_and_not_among_them(study):
    tables = {table.title: table for table in published_tables(study)}
    assert not any(row[0].startswith("ours") for row in tables["Table 2 of the paper: ImageNet 256 x 256"].rows)
    ours = tables["Ours, as tables 2 and 3"]
    assert ours.columns[1] == "FD-pixels-500" and "no FID" in ours.note
    assert [row[0] for row in ours.rows][:3] == ["DiT-Ti/2", "DiT-Ti/2-G (cfg=1.25)", "DiT-Ti/2-G (cfg=1.50)"]
    assert [row[1] for row in tables["Ours, as table 4"].rows][-3:] == ["adaLN", "cross-attention", "in-context"]
    assert "ours: DiT-Xs/1" in {row[0] for row in tables["Table 6 of the paper: U-Nets, and ours"].rows}


def test_every_scoring_is_in_a_table(study):
    (table,) = score_tables(study)
    assert len(table.rows) == len(set(table.rows)) and all(len(row) == len(table.columns) for row in table.rows)
    assert ("DiT-Ti/2", "in-context, pixels, step 4000", "DDPM, 50 evaluations", "3") in {row[:4] for row in table.rows}


def test_a_text_of_the_plan_cannot_break_the_page(tmp_path, study):
    data = dataclasses.replace(study, rows=[], title="a < b & c", facts={"plan": "</pre><b>|x"})
    text = pathlib.Path(write_report(data, str(tmp_path))).read_text()
    assert not Links(text).open and "<b>" not in text and "a &lt; b &amp; c" in text


def test_a_full_disk_or_a_file_in_the_way_is_told(tmp_path, study):
    (tmp_path / "in_the_way").write_text("")
    with pytest.raises(ValueError, match="in_the_way.*cannot be written"):
        write_report(dataclasses.replace(study, rows=[]), str(tmp_path / "in_the_way"))


def test_without_matplotlib_it_says_what_to_install(monkeypatch, study, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the report needs matplotlib: pip install '\.\[study\]'"):
        page.write_report(study, str(tmp_path))


@pytest.mark.parametrize("module, room", [(page, "dit_tf.runtime"), (study_data, "dit_tf.evaluation")])
def test_what_a_study_imports_needs_no_matplotlib(module, room):
    body = ast.parse(pathlib.Path(module.__file__).read_text()).body
    imported = [node.module for node in body if isinstance(node, ast.ImportFrom)]
    assert all(name.startswith(room) or name == "typing" for name in imported)
