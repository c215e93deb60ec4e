"""Train and score a grid of models, and write a table and a report of it:

    python -m dit_tf.study --plan=launch/plans/digits-quick --workdir=runs/study
    python -m dit_tf.study --plan=launch/plans/imagenet256 --workdir=runs/imagenet --list --topology=v4:2x2x4

The same command again, after an interruption, goes on where it stopped: WORKDIR/table.csv is that of a study that never
stopped. WORKDIR/report/report.html shows the paper's figures.
"""

if __name__ == "__main__":  # before TensorFlow is imported, which takes seconds
    from dit_tf.runtime import log_filter, preemption

    preemption.end_at_sigterm()
    log_filter.hide_remarks()

import os

from dit_tf import flags
from dit_tf.report.page import require_matplotlib, write_report
from dit_tf.report.study_data import StudyData
from dit_tf.runtime.workdir import hold, is_remote, writing_to
from dit_tf.study.cost import expected_seconds, listing, seconds_of
from dit_tf.study.grid import DEVICES, programs_of, rows_of, trainings_of
from dit_tf.study.plan import read_plan
from dit_tf.study.process import run_alone
from dit_tf.study.table import Table
from dit_tf.study.work import Worker, unfinished, work

_VERSIONS = ("dit_tf", "tensorflow", "keras", "numpy", "python", "devices")


def main(options):
    if not options.plan:
        raise ValueError("--plan must be given: a file such as launch/plans/digits-quick.")
    if options.topology and not options.list:
        raise ValueError(f"--topology goes with --list, got --topology={options.topology}.")
    if not options.workdir and not options.list:
        raise ValueError("--workdir must be given: where trainings, table and report go.")
    if options.processes < 1:
        raise ValueError(f"--processes must be at least 1, got {options.processes}.")
    if options.processes > 1 and options.tpu:
        raise ValueError(f"--processes={options.processes} share the cores of CPUs, so it cannot go with --tpu.")
    if options.workdir and is_remote(options.workdir):
        raise ValueError(f"--workdir of a study must be a local directory, got {options.workdir}.")
    plan = read_plan(options.plan)
    trainings = trainings_of(plan)
    rows = rows_of(plan, trainings)
    if options.list:
        return print(*listing(trainings, rows, options.topology), sep="\n")
    require_matplotlib()
    with hold(options.workdir):
        worker, table = Worker(options.workdir), Table(options.workdir)
        programs = enumerate(programs_of(trainings))
        todo = [number for number, mine in programs if unfinished(mine, rows, worker, table)]
        if todo and not options.report:
            devices = [f"--{name}={options[name].value}" for name in DEVICES if options[name].value is not None]
            expected = [expected_seconds(unit) for unit in (*trainings, *rows)]
            if options.processes > 1:
                os.environ["TQDM_DISABLE"] = "1"  # their bars would be drawn over one another
            run_alone(work, [(options.plan, options.workdir, devices, i, expected) for i in todo], options.processes)
        report(plan, trainings, rows, worker, table)


def report(plan, trainings, rows, worker, table):
    with writing_to(worker.workdir):
        found = table.assemble(rows)
        if not found:
            raise ValueError(f"--workdir={worker.workdir} has no row of {plan.path} yet: run it without --report.")
        facts = dict(plan=plan.text, rows=len(found), rows_planned=len(rows), trainings=len(trainings))
        facts |= dict(seeds=sorted({row["seed"] for row in found}), seconds=round(seconds_of(worker.workdir)))
        facts |= {name: found[-1]["provenance"][name] for name in _VERSIONS}
        losses = {training.name: worker.losses(training) for training in trainings}
        pictures = {training.name: worker.pictures(training) for training in trainings}
        images = {name: images for name, images in pictures.items() if images is not None}
        written = write_report(
            StudyData(plan.title, facts, found, losses, images), os.path.join(worker.workdir, "report")
        )
    print(f"{len(found)} of {len(rows)} rows: {table.path}; {written}")


if __name__ == "__main__":
    flags.run(main, flags.define_study)
