"""`python -m dit_tf.train --eval_every`: scores of the averaged weights in the log, also after a kill."""

import json

import pytest

from dit_tf import evaluate, evaluate_training, flags, train
from dit_tf.evaluation import feature_set

_EVALUATED = ["--eval_every=20", "--eval_samples=100", "--eval_num_steps=5", "--features=pixels", "--sample_every=0"]
_SHORT = ["--train_steps=40", "--checkpoint_every=20", "--log_every=20", "--xla=false"]


def evaluations(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "FD-pixels-100" in line]


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Of 100 images, three batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_training, "_BATCH", 40)
        yield


@pytest.fixture(scope="module")
def run(parse, tiny_flags):
    def trained(workdir, *more):
        train.main(parse(flags.define_train, *tiny_flags, *_SHORT, *_EVALUATED, f"--workdir={workdir}", *more))
        return evaluations(workdir)

    return trained


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("evaluated")
    return workdir, run(workdir)


def test_scores_are_logged_and_are_those_of_the_command(unbroken, parse, tiny_flags, tmp_path):
    workdir, lines = unbroken
    assert [line["step"] for line in lines] == [20, 40]
    assert all(set(line) == {"step", "FD-pixels-100", "precision-pixels-100", "recall-pixels-100"} for line in lines)
    assert lines[0]["FD-pixels-100"] > lines[1]["FD-pixels-100"]  # it learns, at this stage
    data_dir = next(flag for flag in tiny_flags if flag.startswith("--data_dir"))
    more = ["--features=pixels", "--reference=digits", "--num_samples=100", "--num_steps=5"]
    output = tmp_path / "metrics.json"
    evaluate.main(parse(flags.define_evaluate, f"--workdir={workdir}", *more, data_dir, f"--output={output}"))
    direct = json.loads(output.read_text())["fd_pixels"]
    # The same images, but for a grey level here and there: another program draws them.
    assert lines[1]["FD-pixels-100"] == pytest.approx(direct, rel=1e-3)


def test_two_replicas_give_the_scores_of_one(unbroken, run, tmp_path, capsys):
    """By the strategy that trains. Sums over two shares of a batch are in another order: weights differ by 1e-6."""
    (two,) = run(tmp_path, "--logical_cpus=2", "--train_steps=20")
    printed = "".join(capsys.readouterr())
    assert "FD-pixels-100" in printed and "2 replica(s) of 8 examples" in printed
    assert two["FD-pixels-100"] == pytest.approx(unbroken[1][0]["FD-pixels-100"], rel=1e-2)


def test_a_run_that_is_killed_while_it_evaluates_goes_on(run, unbroken, monkeypatch, tmp_path):
    """Also at the last step, where there is nothing left to train. What was drawn is not drawn again."""
    extract, calls = feature_set.PartialArray.append, {20: [], 40: []}

    def killed(self, rows, note=None):
        for step, counts in calls.items():
            if f"{step:08d}" in self.path:
                counts.append(self.count)
                if len(counts) == 2:
                    raise SystemExit
        extract(self, rows, note)

    monkeypatch.setattr(feature_set.PartialArray, "append", killed)
    for done in (0, 1):
        with pytest.raises(SystemExit):
            run(tmp_path)
        assert len(evaluations(tmp_path)) == done
    assert run(tmp_path) == unbroken[1]
    assert calls == {20: [0, 40, 40, 80], 40: [0, 40, 40, 80]}
    assert [path.name for path in (tmp_path / "evaluation").iterdir() if "reference" not in path.name] == []
    assert len(evaluations(tmp_path)) == 2 and run(tmp_path) == unbroken[1]  # and not once more when all is done


@pytest.mark.parametrize(
    "more, said",
    [
        (["--eval_every=15"], ["--eval_every must be a multiple of --steps_per_execution (10)", "15"]),
        (["--eval_samples=0"], ["--eval_samples must be at least 1", "0"]),
        (["--eval_samples=20"], ["as many images as there are features, got 20 of 64"]),
        (["--features=inception", "--inception=nowhere.pb"], ["16 pixels a side"]),
        (["--eval_cfg_scale=-1"], ["--cfg_scale must not be negative"]),
        (["--reference=nowhere"], ["--reference=nowhere must be"]),
        (["--logical_cpus=0", "--eval_num_steps=1001"], ["--num_steps must be from 1 to 1000", "1001"]),
    ],
)
def test_bad_flags_are_told_before_the_training(run, tmp_path, more, said):
    with pytest.raises(ValueError) as error:
        run(tmp_path, *more)
    assert all(word in str(error.value) for word in said), error.value
    assert not (tmp_path / "metrics.jsonl").exists()
