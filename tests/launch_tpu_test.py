"""launch/tpu.sh calls gcloud as its dry run says, keeps a training going over preemptions, and refuses bad input."""

import shlex

import pytest

from tests.launch_stubs import LAUNCH, Desk


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "desk")


PLACE = ("--name=pup", "--zone=us-central2-b", "--project=my-project")
RUN = (f"--flagfile={LAUNCH}/flags/digits.flags", "--workdir=gs://bucket/run")
COMMANDS = [
    ("create", "--type=v4-8"),
    ("create", "--type=v3-32", "--spot", "--version=tpu-other"),
    ("create", "--type=v5litepod-16", "--queued", "--spot"),
    ("install",),
    ("run", *RUN),
    ("tail",),
    ("tail", "--worker=all"),
    ("stop",),
    ("delete",),
    ("delete", "--queued"),
    ("status",),
]


def printed(result):
    assert result.returncode == 0, result.stderr
    return [shlex.split(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_dry_run_prints_what_a_real_run_calls(desk, command):
    dry = desk.run(*command, *PLACE, "--dry_run")
    assert desk.calls() == []
    real = desk.run(*command, *PLACE)
    assert real.returncode == 0, real.stderr
    assert printed(dry) == desk.calls() != []


def test_printed_lines_survive_blanks_and_apostrophes(desk):
    flagfile = desk.root / "it's a file"
    flagfile.touch()
    run = ("run", *PLACE, f"--flagfile={flagfile}", RUN[1])
    assert printed(desk.run(*run, "--dry_run"))[0][5] == str(flagfile)
    assert printed(desk.run("install", *PLACE, "--dry_run", TMPDIR="/a b"))[0][3] == "--file=/a b/dit_tf-pup.tar.gz"


def test_create_plain_spot_and_queued(desk):
    at = "--zone=us-central2-b --project=my-project"
    for flags, line in [
        ("", f"tpu-vm create pup {at} --version=tpu-ubuntu2204-base --accelerator-type=v4-8"),
        ("--spot", f"tpu-vm create pup {at} --version=tpu-ubuntu2204-base --accelerator-type=v4-8 --spot"),
        (
            "--queued --spot",
            f"queued-resources create pup {at} --node-id=pup --runtime-version=tpu-ubuntu2204-base "
            "--accelerator-type=v4-8 --spot",
        ),
    ]:
        result = desk.run("create", *PLACE, "--type=v4-8", "--dry_run", *flags.split())
        assert result.stdout == f"gcloud compute tpus {line}\n"
    real = desk.run("create", *PLACE, "--type=v4-8", "--queued")
    assert "costs money" in real.stderr and "delete --name=pup" in real.stderr and "--queued" in real.stderr


@pytest.mark.parametrize(
    "kind, image",
    [("v2-8", "tpu-ubuntu2204-base"), ("v3-2048", "tpu-ubuntu2204-base"), ("v4-4096", "tpu-ubuntu2204-base"),
     ("v5litepod-256", "v2-alpha-tpuv5-lite"), ("v5p-16", "v2-alpha-tpuv5"), ("v6e-8", "v2-alpha-tpuv6e")],
)  # fmt: skip
def test_every_generation_has_its_image(desk, kind, image):
    result = desk.run("create", *PLACE, f"--type={kind}", "--dry_run")
    assert f" --version={image} --accelerator-type={kind}" in result.stdout


def test_on_a_slice_the_flag_file_and_the_start_reach_all_hosts(desk):
    copy, start = printed(desk.run("run", *PLACE, *RUN, "--dry_run"))
    assert copy[3:7] == ["tpu-vm", "scp", f"{LAUNCH}/flags/digits.flags", "pup:dit_tf.flags"]
    assert "--worker=all" in copy and "--worker=all" in start
    assert start[-1] == "--command=bash dit_tf/launch/tpu-worker.sh start gs://bucket/run"


@pytest.mark.parametrize("command, flag, value", [
    ("create", "name", "Pup"), ("create", "name", ""), ("create", "name", "pup-"), ("create", "zone", "us-central2"),
    ("create", "project", "p"), ("create", "type", "v4"), ("create", "type", "v4-12"), ("create", "type", "v3-16"),
    ("create", "type", "v6e-16"), ("create", "type", "v5litepod-12"), ("create", "type", "v4-8; rm"),
    ("create", "version", "a b"), ("run", "workdir", "runs/digits"), ("run", "workdir", "gs://bucket"),
    ("run", "workdir", "gs://bucket/a;b"), ("run", "flagfile", "/none.flags"), ("tail", "worker", "some"),
    ("tail", "worker", "-1"),
])  # fmt: skip
def test_a_bad_value_is_one_sentence_with_flag_rule_and_value(desk, command, flag, value):
    result = desk.run(command, f"--{flag}={value}", "--dry_run")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"--{flag} must be ") and result.stderr.endswith(f"; received '{value}'.\n")
    assert result.stderr.count("\n") == 1 and len(result.stderr) < 200 + len(value)


@pytest.mark.parametrize("arguments, beginning, received", [
    ((), "tpu.sh takes a command first, create, ", "received ''"),
    (("crate",), "tpu.sh takes a command first, create, ", "received 'crate'"),
    (("tail", *PLACE, "--spot"), "tail takes the flags --name, ", "received '--spot'"),
    (("tail", *PLACE, "name=pup"), "tail takes the flags --name, ", "received 'name=pup'"),
    (("tail", *PLACE, "--name zone=x"), "tail takes the flags --name, ", "received '--name zone=x'"),
    (("tail", *PLACE, "--worker"), "--worker must be ", "received ''"),
    (("create", *PLACE, "--spot=yes"), "--spot takes no value", "received '--spot=yes'"),
    (("create", *PLACE), "create needs --type=...", "received none"),
    (("stop", PLACE[0]), "stop needs --zone=...", "received none"),
    (("run", *PLACE, RUN[0]), "run needs --workdir=...", "received none"),
    (("recreate", *PLACE, *RUN), "recreate needs --type=...", "received none"),
])  # fmt: skip
def test_a_bad_line_is_one_sentence(desk, arguments, beginning, received):
    desk.assert_refused(arguments, beginning, received)


def test_without_gcloud_only_the_dry_run_works(desk):
    (desk.bin / "gcloud").unlink()
    assert desk.run("tail", *PLACE, "--dry_run").returncode == 0
    result = desk.run("tail", *PLACE)
    assert result.returncode == 1 and result.stderr.startswith("tpu.sh needs gcloud") and result.stderr.count("\n") == 1


def test_status_asks_no_further_than_there_is_something(desk):
    desk.answers(states=["WAITING_FOR_RESOURCES"])
    assert desk.run("status", *PLACE, "--queued").stdout == "WAITING_FOR_RESOURCES\n"
    desk.answers(states=["ACTIVE", "READY"])
    assert desk.run("status", *PLACE, "--queued").stdout == "ACTIVE\nREADY\ntraining: finished\n"


RECREATE = ("recreate", *PLACE, *RUN, "--type=v3-32", "--spot")


@pytest.mark.parametrize(
    "flags, states",
    [([], ["PREEMPTED", "READY", "READY"]), (["--queued"], ["SUSPENDED", "ACTIVE", "READY", "ACTIVE", "READY"])],
)
def test_recreate_replaces_a_preempted_tpu_and_deletes_it_when_the_training_has_finished(desk, flags, states):
    desk.answers(states=states, trainings=["training: none", "training: finished"])
    real = desk.run(*RECREATE, *flags)
    assert real.returncode == 0, real.stderr
    calls = desk.calls()
    assert [words[4] for words in calls if words[4] in ("create", "delete")] == ["delete", "create", "delete"]
    assert printed(desk.run(*RECREATE, *flags, "--dry_run")) == calls


def test_recreate_tends_a_running_training_and_creates_what_is_missing(desk):
    states = ["failNOT_FOUND: no pup", "CREATING", "READY", "READY", "READY", "PREEMPTED", "READY", "READY"]
    trainings = [f"training: {state}" for state in ("none", "running", "running", "none", "finished")]
    desk.answers(states=states, trainings=trainings)
    assert desk.run(*RECREATE).returncode == 0
    verbs = [words[4] for words in desk.calls() if words[4] in ("create", "delete")]
    assert verbs == ["create", "delete", "create", "delete"]


def test_recreate_waits_longer_and_longer_and_gives_up(desk):
    desk.answers(states=["failNOT_FOUND"] * 30, creates=["failno capacity"] * 30)
    result = desk.run(*RECREATE)
    assert result.returncode == 1 and "gives up after 24 failures in a row" in result.stderr
    assert desk.slept() == [30, 60, 120, 240, 480] + [900] * 18


def test_recreate_neither_creates_nor_deletes_where_it_cannot_see(desk):
    desk.answers(states=["failnetwork is down"] * 30)
    result = desk.run(*RECREATE)
    assert result.returncode == 1 and "network is down" in result.stderr
    assert {words[4] for words in desk.calls()} == {"describe"}


@pytest.mark.parametrize("outcome, code, deleted", [("failed with exit code 1", 1, True), ("stopped", 0, False)])
def test_recreate_ends_with_a_training_that_another_start_would_not_mend(desk, outcome, code, deleted):
    desk.answers(trainings=[f"training: {outcome}"])
    assert desk.run(*RECREATE).returncode == code
    calls = desk.calls()
    assert [words[4] for words in calls if words[4] in ("create", "delete")] == ["delete"] * deleted
    assert any("--command=tail -n 50 dit_tf-run/train.log" in words for words in calls) == deleted
