"""The report of a study: report.html, which holds everything, report.md, and every figure as PNG and SVG."""

import importlib.util
import os

from dit_tf.runtime.output_files import replace_file, writing


def require_matplotlib():
    """ValueError where the figures could not be drawn; asked before a study trains for hours."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("the report needs matplotlib: pip install '.[study]'")


def write_report(data, directory):
    """`StudyData` -> the path of report.html. Equal data give equal files; a study that still runs gives a report of
    what is there, which says so. ValueError where matplotlib is missing or a file cannot be written."""
    require_matplotlib()
    from dit_tf.report.document import as_html, as_markdown
    from dit_tf.report.figures import draw

    pictures, left_out = draw(data)
    sections = _sections(data, pictures, left_out)
    files = {
        f"figures/{picture.name}.{kind}": getattr(picture, kind) for picture in pictures for kind in ("png", "svg")
    }
    files["report.md"] = as_markdown(data.title, sections).encode()
    files["report.html"] = as_html(data.title, sections).encode()
    for name, content in files.items():
        path = os.path.join(directory, name)
        with writing(path):
            replace_file(path, content)
    return os.path.join(directory, "report.html")


def _sections(data, pictures, left_out):
    from dit_tf.report.claims import claims_of
    from dit_tf.report.document import Code, Section
    from dit_tf.report.tables import (
        claim_table,
        fact_table,
        published_tables,
        score_tables,
        verdict_line,
    )

    claims, summary = claims_of(data), []
    if data.missing:
        planned = data.facts["rows_planned"]
        summary.append(f"This report is partial: {len(data.rows)} of {planned} rows are there, the study still runs.")
    summary += [verdict_line(claims), claim_table(claims)] if claims else ["There is nothing to compare yet."]
    missing = [f"{title}: left out, it needs {needs}." for title, needs in left_out]
    sections = [
        Section("Summary", summary),
        Section("Figures", [*pictures, *missing]),
        Section("Beside the paper's tables", [*published_tables(data)]),
        Section("Every score", [*score_tables(data)]),
        Section("How it was made", [fact_table(data), *([Code(data.facts["plan"])] if data.facts.get("plan") else [])]),
    ]
    return [section for section in sections if section.parts]
