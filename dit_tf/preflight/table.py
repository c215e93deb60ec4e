"""Tables of preflight: what the published sizes cost by count, and what the compiler makes of each on a slice."""

import dataclasses
import json
import os

from dit_tf.models.dit import SIZES
from dit_tf.report import published
from dit_tf.runtime.output_files import write_json

PUBLISHED = [f"DiT-{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in sorted(SIZES[size].patch_sizes)[::-1]]
_SAME = ("model", "topology", "settings")  # what a row is of


def count_table(rows):
    """Markdown of `all_models`, beside the figures of the paper's table 4 where it has them. What the paper calls
    Gflops are multiply-adds."""
    paper = published.counts()
    yield "| model | block | pixels | parameters (M) | paper | multiply-adds (G) | paper | FLOPs (G) |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        name = row["model"], row["block"], row["image_size"]
        parameters, gflops = map(str, paper[name]) if name in paper else ("", "")
        numbers = [f"{row['parameters'] / 1e6:.2f}", parameters, f"{row['macs'] / 1e9:.5g}", gflops]
        yield f"| {' | '.join(map(str, (*name, *numbers)))} | {row['flops'] / 1e9:.5g} |"


def compiled_table(rows):
    """Markdown of `compiled_rows`; GiB, of one core."""
    yield "| model | slice | batch per core | state | temporaries | memory | FLOPs | of the count | ms at best | days |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        memory = f"{row['hbm_bytes'] / 2**30:.2f} of {row['hbm_limit_bytes'] / 2**30:.2f}"
        cells = [row["model"], row["topology"], row["batch_per_core"], f"{row['state_bytes'] / 2**30:.2f}"]
        if row["flops"] is None:
            cells += ["", f"{memory}: too large", "", "", "", ""]
        else:
            cells += [f"{row['temporary_bytes'] / 2**30:.2f}", memory + ("" if row["fits"] else ": too large")]
            cells += [f"{row['flops']:.3g}", f"{row['flops'] / row['flops_analytic_per_core']:.3f}"]
            cells += [f"{1e3 * row['seconds_at_least']:.3g} ({row['bound_by']})", f"{row['expected_days']:.3g}"]
        yield f"| {' | '.join(map(str, cells))} |"


def compiled_rows(config, topology, more, compile_one, path):
    """The rows of every published size on a slice, one after the other; each is written to `path` as soon as it is
    there, and one that is there already is not compiled again. path None: nothing is kept.

    config: of which the model is replaced; more: what else a program depends on; compile_one(config) -> record.
    """
    settings = json.loads(dataclasses.replace(config, model="").to_json()) | more  # as they are read back
    rows = _read(path) if path else []
    for model in PUBLISHED:
        key = dict(model=model, topology=topology, settings=settings)
        if not any(all(row.get(name) == key[name] for name in _SAME) for row in rows):
            rows.append(compile_one(dataclasses.replace(config, model=model)) | key)
            if path:
                write_json(path, rows)
    return [row for row in rows if row["topology"] == topology and row["settings"] == settings]


def _read(path):
    """The rows of an earlier table; of any other file none."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        try:
            rows = json.load(file)
        except ValueError as error:
            raise ValueError(f"--output={path} is there and is no report: move it away, or name another.") from error
    return rows if isinstance(rows, list) and all(isinstance(row, dict) and "settings" in row for row in rows) else []
