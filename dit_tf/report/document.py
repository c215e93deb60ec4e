"""A report as a list of parts, written out as HTML that holds everything and as Markdown with its figures beside it."""

import base64
import html
from typing import NamedTuple


class Table(NamedTuple):
    title: str
    columns: tuple
    rows: list  # of tuples of texts
    note: str


class Section(NamedTuple):
    title: str
    parts: list  # of paragraphs (str), `Table`, `Picture` of drawing.py, or `Code`


class Code(NamedTuple):
    text: str


_CSS = """
:root {color-scheme: light dark; --ink: #1c1e21; --soft: #5b6168; --paper: #ffffff; --line: #d9dce0; --shade: #f4f5f7;
  --yes: #0b6e4f; --no: #b3261e; --open: #7a5b00}
@media (prefers-color-scheme: dark) {:root {--ink: #e6e8ea; --soft: #a3a9b0; --paper: #16181b; --line: #363a40;
  --shade: #202328; --yes: #5fd3a5; --no: #ff8a80; --open: #e6c15a}}
body {margin: 0 auto; padding: 24px 16px 64px; max-width: 960px; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif}
h1 {font-size: 28px; line-height: 1.2; margin: 8px 0 16px} h2 {font-size: 21px; margin: 44px 0 8px}
h3 {font-size: 16px; margin: 26px 0 6px}
nav {font-size: 14px} nav a {margin-right: 14px; color: inherit}
.notice {border-left: 4px solid var(--open); padding: 8px 12px; background: var(--shade)}
.scroll {overflow-x: auto}
table {border-collapse: collapse; font-size: 13.5px; line-height: 1.4; width: 100%}
th, td {text-align: left; vertical-align: top; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line)}
th {font-weight: 600; color: var(--soft); white-space: nowrap} td.number {white-space: nowrap}
td.yes, td.no {font-weight: 600; white-space: nowrap} td.yes {color: var(--yes)} td.no {color: var(--no)}
td.open {color: var(--open)}
figure {margin: 26px 0} figure img {width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: 10px; box-sizing: border-box}
figcaption, .note {font-size: 14px; color: var(--soft); margin-top: 6px}
pre {background: var(--shade); padding: 12px; overflow-x: auto; font-size: 13px; border-radius: 6px}
@media (max-width: 600px) {table.claims thead {display: none}
  table.claims td {display: block; border: 0; padding: 2px 0}
  table.claims tr {display: block; padding: 10px 0; border-bottom: 1px solid var(--line)}}
@media print {body {max-width: none; font-size: 11pt} figure, tr {break-inside: avoid} nav {display: none}
  .scroll {overflow: visible} h2, h3 {break-after: avoid}}
"""


def as_html(title, sections):
    links = "".join(f'<a href="#s{i}">{html.escape(section.title)}</a>' for i, section in enumerate(sections))
    body = [f"<h1>{html.escape(title)}</h1>", f"<nav>{links}</nav>"]
    for i, section in enumerate(sections):
        body.append(f'<h2 id="s{i}">{html.escape(section.title)}</h2>')
        body += [_html(part) for part in section.parts]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{html.escape(title)}</title><style>{_CSS}</style>"
    lines = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{lines}\n</body></html>\n'


def _html(part):
    match part:
        case str():
            return f"<p>{html.escape(part)}</p>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table():
            return _html_table(part)
    source = "data:image/svg+xml;base64," + base64.b64encode(part.svg).decode()
    title, caption = html.escape(part.title), html.escape(part.caption)
    image = f'<img alt="{title}" src="{source}">'
    return f'<figure id="{part.name}"><h3>{title}</h3>{image}<figcaption>{caption}</figcaption></figure>'


def _html_table(table):
    claims = table.columns[-1] == "verdict"
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.columns) else ""
    lines = []
    for row in table.rows:
        cells = [
            f"<td{_kind(cell, claims and i == len(row) - 1)}>{html.escape(cell)}</td>" for i, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    name = ' class="claims"' if claims else ""
    body = f"<table{name}>{head}<tbody>{''.join(lines)}</tbody></table>"
    return f'<h3>{html.escape(table.title)}</h3><div class="scroll">{body}</div>{note}'


def _kind(cell, is_verdict):
    if is_verdict:
        return f' class="{"yes" if cell == "agrees" else "open" if cell.startswith("undecided") else "no"}"'
    return ' class="number"' if len(cell) < 28 else ""


def as_markdown(title, sections):
    """Figures are figures/NAME.png from where the text lies."""
    lines = [f"# {title}"]
    for section in sections:
        lines.append(f"## {section.title}")
        lines += [_markdown(part) for part in section.parts]
    return "\n\n".join(lines) + "\n"


def _markdown(part):
    match part:
        case str():
            return part
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case Table():
            rows = [part.columns, ("---",) * len(part.columns), *part.rows]
            body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
            return f"### {part.title}\n\n{body}" + (f"\n\n{part.note}" if part.note else "")
    return f"### {part.title}\n\n![{part.title}](figures/{part.name}.png)\n\n{part.caption}"
