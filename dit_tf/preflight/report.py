"""What a compiled program means: does it fit, what takes the memory, how fast and for how many days at best.

Records for report.json, and the lines that are printed of them.
"""

import re

from dit_tf.runtime.hlo_memory import largest_temporaries
from dit_tf.runtime.hlo_products import BFLOAT16, FLOAT32, products, share_of
from dit_tf.runtime.tpu_chips import GIB

_SECONDS_PER_DAY = 86400.0


def fits_record(where, program, analytic_flops, report, text, *, least_flops=0.0):
    """A program that was compiled. analytic_flops: of one core, of what the compiler counts. least_flops: of one core,
    by count, where the compiler's leave out the turns of a loop."""
    chip, found = where.chip, products(text)
    at_the_peak, temporaries = largest_temporaries(text)
    flops = max(report.flops, least_flops)
    bounds = {"FLOPs": flops / chip.peak_flops, "bytes": report.bytes_accessed / chip.bandwidth}
    return dict(
        program=program,
        topology=where.topology,
        cores=report.cores,
        flops=report.flops,
        flops_analytic_per_core=analytic_flops,
        hbm_bytes=report.total_bytes,
        hbm_limit_bytes=chip.usable_bytes,
        fits=report.total_bytes <= chip.usable_bytes,
        compile_seconds=report.compile_seconds,
        state_bytes=report.state_bytes,
        argument_bytes=report.argument_bytes,
        temporary_bytes=report.temporary_bytes,
        temporaries_explained_bytes=at_the_peak,
        largest_temporaries=[t._asdict() for t in temporaries],
        bytes_accessed=report.bytes_accessed,
        seconds_at_least=max(bounds.values()),
        bound_by=max(bounds, key=bounds.get),
        all_reduces=report.all_reduces,
        host_transfers=report.host_operations,
        products=len(found),
        products_flops=sum(p.flops for p in found),
        share_in_bfloat16=share_of(BFLOAT16, found),
        share_in_float32=share_of(FLOAT32, found),
        not_in_bfloat16=_kinds([p for p in found if p.kind != BFLOAT16]),
    )


def too_large_record(where, program, analytic_flops, error, seconds):
    """A program that the compiler refused for its size."""
    return dict(
        program=program,
        topology=where.topology,
        flops=None,
        flops_analytic_per_core=analytic_flops,
        hbm_bytes=error.needed_bytes,
        hbm_limit_bytes=error.limit_bytes,
        fits=False,
        compile_seconds=seconds,
    )


def lines_of(record, flops_note=""):
    """The lines to print of a record."""
    verdict = "fits" if record["fits"] else "does NOT fit"
    need, limit = size_text(record["hbm_bytes"]), size_text(record["hbm_limit_bytes"])
    yield f"{record['program']} on {record['topology']} {verdict}: {need} of {limit} per core"
    if record["flops"] is None:
        yield f"  refused by the compiler after {record['compile_seconds']:.0f} s"
        return
    state, others = record["state_bytes"], record["argument_bytes"] - record["state_bytes"]
    held = f"weights, both moments of AdamW and averages {size_text(state)}, other arguments" if state else "arguments"
    yield f"  {held} {size_text(others)}"
    fullest = size_text(record["temporaries_explained_bytes"])
    yield f"  temporaries {size_text(record['temporary_bytes'])}; at the fullest moment, of {fullest}, the largest are"
    for t in record["largest_temporaries"][:6]:
        yield f"    {size_text(t['bytes']):>10}  {t['count']} x {t['array']}  {t['place']}"
    ratio = record["flops"] / record["flops_analytic_per_core"]
    yield f"  FLOPs per core {record['flops']:.4g}, {ratio:.3f} of the analytic count{flops_note}"
    yield from _of_products(record)
    yield f"  all-reduces {record['all_reduces']}, transfers to or from the host {record['host_transfers']}"
    yield f"  compiled in {record['compile_seconds']:.0f} s"


def _of_products(record):
    parts = {"bfloat16": record["share_in_bfloat16"], "float32": record["share_in_float32"]}
    parts["float32 that the chip rounds to bfloat16"] = 1.0 - sum(parts.values())
    shares = ", ".join(f"{100 * share:.1f} % {kind}" for kind, share in parts.items() if share > 5e-4)
    yield f"  {record['products']} matrix products, by FLOPs {shares}"
    others = record["not_in_bfloat16"]
    if others:
        more = f" and {len(others) - 4} kinds more" if len(others) > 4 else ""
        yield f"    not in bfloat16: {', '.join(others[:4])}{more}"


def size_text(count):
    """Bytes -> "1.23 GiB", "45.6 MiB"."""
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def pace_of(record, train_steps):
    """(fields, line) of a train step: no step is faster than its FLOPs and its bytes allow."""
    seconds = record["seconds_at_least"]
    days = train_steps * seconds / _SECONDS_PER_DAY
    line = (
        f"  a step takes {seconds * 1e3:.3g} ms at best, by its {record['bound_by']} and without communication: "
        f"{train_steps} steps in {days:.3g} days"
    )
    return dict(train_steps=train_steps, expected_days=days), line


def remedies(program, state_bytes, record, batch_per_core):
    """What would make a training fit, as sentences."""
    if state_bytes > record["hbm_limit_bytes"]:
        return [
            f"The weights and what belongs to them take {size_text(state_bytes)} on every core, whatever the batch and "
            "the number of cores: a chip with more memory, or a smaller --model."
        ]
    found = []
    if batch_per_core > 1:
        found.append("A smaller --global_batch_size, or more cores for it; --suggest_batch finds what fits.")
    if not (program.remat or program.scan_blocks):
        found.append("--remat, which leaves little of the temporaries for a third more FLOPs.")
    if batch_per_core > program.accumulation_steps:
        found.append(f"--accumulation_steps={2 * program.accumulation_steps}, which computes the batch in parts.")
    if program.config.precision == "float32":
        found.append("--precision=bfloat16, which halves most of the temporaries.")
    return [*found, "A chip with more memory per core."]


def _kinds(found):
    """Products by kind and place, the blocks taken together, in the order of the largest."""
    return list(dict.fromkeys(f"{re.sub(r'block[0-9]+', 'block*', p.place)} ({p.kind})" for p in found))
