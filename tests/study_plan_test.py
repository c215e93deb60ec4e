"""The plan of a study: what its lines mean, and that a bad one is refused with its line and the rule."""

import pathlib

import pytest

from dit_tf.study.grid import rows_of, trainings_of
from dit_tf.study.plan import read_plan

GOOD = """# A small one
[train small]
--model=DiT-Mi/4|DiT-Mi/2 --global_batch_size=16  # of the last alone
--train_steps=100 --steps_per_execution=50 --log_every=50 --checkpoint_every=50 --sample_every=0
--seed=0|1
[train flow]
--model=DiT-Mi/4 --objective=flow --train_steps=100 --keep_model_every=50
--path=linear | --path=vp --prediction=noise
[score quality of small flow]
--steps=every
--num_samples=70 --features=pixels
[score guided of small]
--features=pixels
--sampler=ddim --num_steps=8 --cfg_scale=1.5|2
"""
PLANS = sorted(pathlib.Path(__file__).parents[1].glob("launch/plans/*"))


@pytest.fixture
def planned(tmp_path):
    def read(text):
        path = tmp_path / "plan"
        path.write_text(text)
        plan = read_plan(str(path))
        trainings = trainings_of(plan)
        return trainings, rows_of(plan, trainings)

    return read


def test_a_line_is_an_axis_of_the_grid(planned):
    trainings, rows = planned(GOOD)
    names = [training.name for training in trainings]
    assert names == [
        "small/model=DiT-Mi-4,seed=0", "small/model=DiT-Mi-4,seed=1",
        "small/model=DiT-Mi-2,global_batch_size=16,seed=0", "small/model=DiT-Mi-2,global_batch_size=16,seed=1",
        "flow/path=linear", "flow/path=vp,prediction=noise",
    ]  # fmt: skip
    assert [training.config.global_batch_size for training in trainings] == [256, 256, 16, 16, 256, 256]
    assert [training.config.seed for training in trainings] == [0, 1, 0, 1, 0, 0]
    assert trainings[-1].config.path == "vp" and trainings[-1].config.prediction == "noise"
    by_scoring = [[row for row in rows if row.scoring.name == name] for name in ("quality", "guided")]
    assert [row.step for row in by_scoring[0]] == [100] * 4 + [50, 100] * 2
    assert [row.scoring.asked.cfg_scale for row in by_scoring[1]] == [1.5] * 4 + [2.0] * 4
    assert [row.baseline for row in rows] == [True] * 8 + [False] * 8


def test_the_key_of_a_row_is_what_it_is_of_and_not_what_it_is_called(planned):
    _, rows = planned(GOOD)
    assert len({row.key for row in rows}) == len(rows)
    _, renamed = planned(
        GOOD.replace("small", "tiny").replace("--steps=every\n", "--steps=every --label_policy=random\n")
    )
    assert [row.key for row in renamed] == [row.key for row in rows]
    _, others = planned(GOOD.replace("--num_samples=70", "--num_samples=71"))
    assert {row.key for row in others} & {row.key for row in rows} == {row.key for row in rows[8:]}


def test_trainings_that_begin_with_other_weights_have_rows_of_their_own(planned):
    """What they begin with is read when they begin: until then their configurations are equal."""
    _, rows = planned(GOOD.replace("--path=linear |", "--path=linear --init_from=a | --path=linear --init_from=b |"))
    assert len({row.key for row in rows if row.training.group == "flow"}) == 3 * 2


@pytest.mark.parametrize(
    "old, new, line, rule",
    [
        ("# A small one", "--seed=1", 1, "flags must stand under a heading"),
        ("[train small]", "[trian small]", 2, "a heading must be [train NAME] or"),
        ("[train small]", "[train small", 2, "a heading must be"),
        ("[train small]", "[train]", 2, "a heading must be"),
        ("of small flow]", "of smal flow]", 9, "it must be of trainings that stand above (flow, small), got smal"),
        ("[score guided of", "[score quality of", 12, "a name of its own, got quality again"),
        ("--seed=0|1", "seed=0|1", 5, "a line must be flags, --name=value"),
        ("--seed=0|1", "--seed=0|0", 5, "the values between | must be different"),
        ("--seed=0|1", "--seed=0|one", 5, "one"),
        ("--seed=0|1", "--sede=0|1", 5, "Unknown command line flag 'sede'"),
        ("--model=DiT-Mi/4|DiT-Mi/2", "--model=DiT-Mi/4|DiT-Mu/2", 3, "DiT-Mu/2"),
        ("--model=DiT-Mi/4|DiT-Mi/2", "--workdir=here", 3, "--workdir must be left out"),
        ("--path=vp --prediction=noise", "--path=vq", 8, "--path must be one of"),
        ("--checkpoint_every=50", "--checkpoint_every=30", 4, "--checkpoint_every must be a multiple"),
        ("--steps=every", "--steps=75", 10, "--steps must be last, every, or among the steps"),
        ("--cfg_scale=1.5|2", "--cfg_scale=1.5|-2", 14, "--cfg_scale must not be negative"),
        ("--sampler=ddim --num_steps=8", "--sampler=sde --num_steps=8", 14, "--sampler must be one of ddpm"),
        ("--features=pixels\n--sampler=ddim", "--solver=dopri5\n--sampler=ode", 13, "--solver=dopri5 must be left out"),
        ("--num_samples=70", "--num_samples=0", 11, "--num_samples must be at least 1"),
        ("--num_samples=70", "--num_samples=70 --label_policy=all", 11, "--label_policy must be one of"),
    ],
)
def test_a_bad_plan_is_refused_with_the_line_and_the_rule(planned, old, new, line, rule):
    assert old in GOOD
    with pytest.raises(ValueError) as caught:
        planned(GOOD.replace(old, new))
    message = str(caught.value)
    assert f"plan, line {line}: " in message and rule in message and "\n" not in message


def test_a_plan_that_is_not_there_and_one_without_scores(planned, tmp_path):
    with pytest.raises(ValueError, match="--plan=.*nowhere cannot be read"):
        read_plan(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"must have a heading \[score ...\]"):
        planned(GOOD.split("[score")[0])


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_the_plans_that_are_shipped(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    plan = read_plan(str(path))
    trainings = trainings_of(plan)
    rows = rows_of(plan, trainings)
    assert all(any(row.training is training and row.baseline for row in rows) for training in trainings)
    if path.name == "digits-full":
        assert {training.config.seed for training in trainings} == {0, 1, 2}
        sizes = {t.config.model for t in trainings if t.config.objective == "ddpm" and t.config.codec == "pixels"}
        assert sizes == {f"DiT-{size}/{patch}" for size in ("Mi", "Na", "Ti", "Xs") for patch in (1, 2, 4)}
