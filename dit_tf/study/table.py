"""The table of a study: a file for each row as soon as it is there, and all of them as CSV and JSON lines."""

import csv
import io
import json
import os

from dit_tf.runtime.output_files import replace_file


class Table:
    """WORKDIR/rows/KEY.json, table.jsonl and table.csv. A row is there whole or not at all."""

    def __init__(self, workdir):
        self._workdir, self.path = workdir, os.path.join(workdir, "table.csv")

    def has(self, row):
        return os.path.exists(self._path(row))

    def write(self, row, found):
        replace_file(self._path(row), (json.dumps(found, indent=1) + "\n").encode())

    def assemble(self, rows):
        """Those of the planned rows that are there, in the plan's order, with what the plan calls them now; and writes
        the two files."""
        found = []
        for row in filter(self.has, rows):
            with open(self._path(row), encoding="utf-8") as file:
                content = json.load(file)
            named = dict(run=row.training.name, group=row.training.group)
            found.append(content | named | dict(score=row.scoring.name, baseline=row.baseline))
        replace_file(os.path.join(self._workdir, "table.jsonl"), "".join(json.dumps(r) + "\n" for r in found).encode())
        replace_file(self.path, as_csv(found).encode())
        return found

    def _path(self, row):
        return os.path.join(self._workdir, "rows", f"{row.key}.json")


def as_csv(found):
    """Every number and name of the rows, a column each, and of their provenance the digest of the weights."""
    flat = [
        {name: value for name, value in row.items() if name != "provenance"}
        | {"weights_sha256": row["provenance"]["samples"]["weights_sha256"]}
        for row in found
    ]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return content.getvalue()
