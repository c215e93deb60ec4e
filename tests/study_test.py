"""python -m dit_tf.study: its table does not depend on when it was interrupted, nor on what else its plan holds."""

import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import time
from multiprocessing import connection, forkserver

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import evaluate, flags
from dit_tf.study import __main__ as study
from tests.commands import Command

PLAN = """# Two seeds, for the tests
[train sizes]
{data} --model=DiT-64x1x2/4
--global_batch_size=16 --learning_rate=1e-3 --ema_decay=0.9 --sample_every=0
--train_steps=40 --steps_per_execution=10 --log_every=10 --checkpoint_every=20 --keep_model_every=20
--seed=0|1
[score quality of sizes]
--steps=every --sampler=ddim --num_steps=5 --num_samples=80 --label_policy=balanced --features=pixels
[score guided of sizes]
--sampler=ddim --num_steps=5 --num_samples=80 --label_policy=balanced --features=pixels
--cfg_scale=1.5|2
"""
ROWS = 2 * 2 + 2 * 2


@pytest.fixture(scope="module")
def data(tiny_flags):
    return next(flag for flag in tiny_flags if flag.startswith("--data_dir"))


@pytest.fixture(scope="module")
def plan(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "two-seeds"
    path.write_text(PLAN.format(data=data))
    return path


@pytest.fixture(scope="module")
def run(parse):
    return lambda *arguments: study.main(parse(flags.define_study, *arguments))


@pytest.fixture(scope="module")
def unbroken(run, plan, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    run(f"--plan={plan}", f"--workdir={workdir}")
    return workdir


def command(plan, workdir, processes=1):
    """`python -m dit_tf.study`, begun, its parts with TensorFlow imported: the server that they are forked from is
    forked too."""
    program = "import runpy; runpy.run_module('dit_tf.study', run_name='__main__', alter_sys=True)"
    arguments = f"--plan={plan}", f"--workdir={workdir}", f"--processes={processes}"
    begin = "from tests.study_test import fork_the_server; fork_the_server()"
    return Command("-c", f"{begin}; {program}", *arguments, together=True)


def fork_the_server():
    """As multiprocessing's `ensure_running`, which would start Python anew."""
    server, address = forkserver._forkserver, connection.arbitrary_address("AF_UNIX")
    readable, writable = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        pid = os.fork()
        if not pid:
            os.close(writable)
            try:
                forkserver.main(listener.detach(), readable, ["dit_tf.study.work"])
            finally:
                os._exit(0)
    os.close(readable)
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, writable, pid


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "table.jsonl").read_text().splitlines()]


def test_one_row_for_each_run_checkpoint_and_sampler(unbroken):
    rows = rows_of(unbroken)
    assert len(rows) == ROWS
    told = {(row["model"], row["seed"], row["step"], row["cfg_scale"]) for row in rows}
    assert len(told) == ROWS
    for row in rows:
        assert row["training_macs"] == 3 * row["macs"] * 16 * row["step"]
        assert row["sampling_macs"] == row["macs"] * 5 * (2 if row["cfg_scale"] != 1 else 1) and row["evaluations"] == 5
        assert row["baseline"] == (row["score"] == "quality") and 0 <= row["class_agreement"] <= 1
        assert row["fd_pixels"] > 0 and row["loss"] > 0
        provenance = row["provenance"]
        assert provenance["tensorflow"] and provenance["samples"]["seed"] == 0
        assert set(provenance["features_sha256"]) == {"reference", "samples"}
        assert str(unbroken) not in json.dumps(row)
    with open(unbroken / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(line["fd_pixels"]) for line in table] == [row["fd_pixels"] for row in rows]
    assert len({line["weights_sha256"] for line in table}) == 4


def test_a_row_has_the_numbers_of_evaluate(unbroken, parse, data, tmp_path):
    row = next(row for row in rows_of(unbroken) if row["step"] == 20 and row["score"] == "quality" and row["seed"] == 1)
    weights, output = unbroken / "runs" / row["run"] / "models" / "00000020.keras", tmp_path / "metrics.json"
    sampling = ["--sampler=ddim", "--num_steps=5", "--num_samples=80", "--label_policy=balanced", data]
    scoring = ["--features=pixels", "--reference=digits", f"--weights={weights}", f"--output={output}"]
    evaluate.main(parse(flags.define_evaluate, *sampling, *scoring))
    metrics = json.loads(output.read_text())
    assert {name: row[name] for name in ("fd_pixels", "precision_pixels", "recall_pixels")} == {
        name: pytest.approx(metrics[name], rel=1e-6) for name in ("fd_pixels", "precision_pixels", "recall_pixels")
    }
    assert metrics["provenance"]["samples"]["weights_sha256"] == row["provenance"]["samples"]["weights_sha256"]


def test_the_report_shows_the_same_noise_through_every_model(unbroken):
    pictures = [np.load(path) for path in sorted(unbroken.glob("runs/**/pictures.npy"))]
    assert len(pictures) == 2 and all(p.shape == (10, 8, 8, 1) and p.dtype == np.uint8 for p in pictures)
    page = (unbroken / "report" / "report.html").read_text()
    assert (
        "Two seeds, for the tests" in page
        and "FD-pixels-80" in page
        and "http://" not in page.replace("www.w3.org", "")
    )


def test_a_plan_that_has_grown_keeps_its_rows(unbroken, run, plan, tmp_path):
    """And computes those alone that are new."""
    before = {path: path.stat().st_mtime_ns for path in unbroken.glob("rows/*")}
    grown = tmp_path / "grown"
    more = "[score fewer of sizes]\n--num_samples=70 --sampler=ddim --num_steps=5 --features=pixels\n"
    grown.write_text(plan.read_text() + more)
    run(f"--plan={grown}", f"--workdir={unbroken}")
    try:
        assert len(rows_of(unbroken)) == ROWS + 2
        assert {path: path.stat().st_mtime_ns for path in before} == before
    finally:
        run(f"--plan={plan}", f"--workdir={unbroken}", "--report")
    assert len(rows_of(unbroken)) == ROWS


def test_models_of_colour_are_scored_by_inception(run, tmp_path, inception_file, rng):
    """As the plan for ImageNet has it: images are drawn as they are looked at, and compared with a file."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = tf.io.encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8))
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(pixels.numpy())
    plan = tmp_path / "colour"
    plan.write_text(
        "[train one]\n--xla=false --sample_every=0 --train_steps=2 --steps_per_execution=1 --global_batch_size=8\n"
        f"--dataset=folder:{tmp_path}/photos --image_size=32 --model=DiT-64x1x2/8\n"
        "[score fid of one]\n--sampler=ddim --num_steps=1 --num_samples=16 --batch_size=16\n"
        f"--inception={inception_file} --allow_few_samples --label_policy=balanced\n"
    )
    run(f"--plan={plan}", f"--workdir={tmp_path}/study")
    (row,) = rows_of(tmp_path / "study")
    assert row["features"] == "inception" and row["evaluations"] == 1
    assert all(np.isfinite(row[name]) for name in ("fid", "sfid", "inception_score", "precision", "recall"))
    assert "FID-16" in (tmp_path / "study" / "report" / "report.md").read_text()
    (picture,) = (tmp_path / "study").glob("runs/**/pictures.npy")
    assert np.load(picture).shape == (10, 32, 32, 3)


def killed(plan, workdir, kills, longest, processes=1, part=""):
    """Kills the study so many times, up to `longest` seconds after a part of it has begun; then lets it end. part: how
    many are done by then; empty: any."""
    rng = random.Random(0)
    for left in reversed(range(kills + 1)):
        process = command(plan, workdir, processes)
        if left:
            process.line(f"== {part}")
            time.sleep(rng.uniform(0, longest))
            assert process.poll() is None, "the study was at its end before all kills"
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
        output, _ = process.communicate()
        assert process.returncode in ((-signal.SIGKILL, 75) if left else (0,)), output[-2000:]


def assert_same_tables(workdir, unbroken):
    for name in ("table.jsonl", "table.csv"):
        assert (workdir / name).read_text() == (unbroken / name).read_text()
    assert not [path for path in workdir.rglob("*") if "unfinished" in path.name]


@pytest.fixture(scope="module")
def interrupted(plan, unbroken, tmp_path_factory):
    """(work directory, exit code, output) of a study that has all of its first seed, and that Ctrl-C has ended while it
    trained with its second."""
    workdir = tmp_path_factory.mktemp("interrupted") / "study"
    shutil.copytree(unbroken, workdir, ignore=shutil.ignore_patterns("seed=1", "evaluation", "report", "table.*"))
    for path in workdir.glob("rows/*"):
        if json.loads(path.read_text())["seed"] == 1:
            path.unlink()
    process = command(plan, workdir)
    process.line(f"== {1 + ROWS // 2} of")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=120)
    return workdir, process.returncode, output


def test_ctrl_c_ends_both_processes_with_one_sentence(interrupted):
    _, code, output = interrupted
    assert code == 130 and "Traceback" not in output
    assert "dit_tf.study: interrupted; the same command goes on where it stopped." in output


def test_a_study_that_is_killed_ends_with_the_table_of_one_that_never_was(unbroken, plan, interrupted):
    """Interrupted while it trained, killed while it drew and scored."""
    workdir, *_ = interrupted
    killed(plan, workdir, kills=1, longest=0.5, part=f"{2 + ROWS // 2} of")
    assert_same_tables(workdir, unbroken)


@pytest.mark.kills
def test_ten_kills_at_random_of_two_processes(run, data, tmp_path):
    plan = tmp_path / "more"
    plan.write_text(PLAN.format(data=data).replace("DiT-Mi/4", "DiT-Mi/4|DiT-Mi/2|DiT-Na/4").replace("0|1", "0|1|2"))
    run(f"--plan={plan}", f"--workdir={tmp_path}/unbroken")
    killed(plan, tmp_path / "killed", kills=10, longest=9, processes=2)
    assert_same_tables(tmp_path / "killed", tmp_path / "unbroken")


def test_list_says_what_would_run(plan, run, capsys):
    run(f"--plan={plan}", "--list")
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:4]] == ["sizes/seed=0", "2", "40"]
    assert "2 trainings, 8 rows: about" in lines[-2]
    run(f"--plan={plan}", "--list", "--topology=v4:2x2x4")
    assert "on v4:2x2x4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ([], "--plan must be given"),
        (["--plan=launch/plans/digits-quick"], "--workdir must be given"),
        (["--plan=nowhere", "--workdir={}"], "--plan=nowhere cannot be read"),
        (["--plan=launch/plans/digits-quick", "--workdir={}", "--report"], "has no row of"),
        (
            ["--plan=launch/plans/digits-quick", "--workdir={}", "--processes=0"],
            "--processes must be at least 1, got 0",
        ),
        (
            ["--plan=launch/plans/digits-quick", "--workdir={}", "--processes=2", "--tpu=node"],
            "--processes=2 share the cores of CPUs",
        ),
        (["--plan=launch/plans/digits-quick", "--workdir=gs://b/w"], "must be a local directory, got gs://b/w"),
        (["--plan=launch/plans/digits-quick", "--workdir={}", "--topology=v4:2x2x1"], "--topology goes with --list"),
        (["--plan=launch/plans/digits-quick", "--list", "--topology=v9:2"], "--topology must be KIND:SHAPE"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, monkeypatch, arguments, rule):
    monkeypatch.chdir(pathlib.Path(__file__).parents[1])
    with pytest.raises(ValueError, match=re.escape(rule)):
        run(*(argument.format(tmp_path) for argument in arguments))


def test_a_work_directory_has_one_study_at_a_time(plan, run, tmp_path, monkeypatch):
    from dit_tf.runtime import workdir

    monkeypatch.setattr(workdir, "_PATIENCE_SECONDS", 0.2)
    with workdir.hold(str(tmp_path)):
        with pytest.raises(ValueError, match="is in use by another"):
            run(f"--plan={plan}", f"--workdir={tmp_path}")
    assert os.listdir(tmp_path) == ["lock"]
