"""A run goes on as what it was: the same classes, data and options, or those that were changed on purpose."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from dit_tf import build
from dit_tf.config import RESUMABLE, RunConfig
from dit_tf.data.class_names import ClassTable
from dit_tf.resumption import check_names, check_same_run, on_purpose, stored_config
from dit_tf.runtime.background_saver import BackgroundSaver
from dit_tf.runtime.checkpoint import Checkpoints
from dit_tf.train_history import FILE, History, told

_CLASSES = ClassTable(("a", "b"))
_CONFIG = RunConfig(dataset="folder:d/one", num_classes=2, data_digest="1" * 64, folder_reading=2)


@pytest.fixture
def left(tmp_path):
    """left(config, classes) -> the `Checkpoints` of a run of that configuration."""

    def save(config=_CONFIG, classes=_CLASSES, text=None):
        checkpoints = Checkpoints(str(tmp_path))
        texts = {build.RUN: text or config.to_json(), build.CLASSES: classes.to_json()}
        checkpoints.save(1, {"step": tf.Variable(1)}, texts)
        return checkpoints

    return save


def of_version_010(config):
    """run.json as that version wrote it."""
    fields = dataclasses.asdict(config)
    for name in ("data_digest", "folder_reading", "warmup_steps", "schedule", "schedule_steps"):
        del fields[name]
    return json.dumps(fields)


def test_another_table_of_classes_is_refused_naming_the_difference(left):
    old = dataclasses.replace(_CONFIG, folder_reading=1)
    for config, text in ((_CONFIG, None), (old, of_version_010(old))):
        checkpoints = left(text=text)
        check_same_run(config, _CLASSES, checkpoints)
        with pytest.raises(ValueError, match="other classes .label 0 is b here and a there") as error:
            check_same_run(config, ClassTable(("b", "z")), checkpoints, allow_new_data=True)
        assert "\n" not in str(error.value)


def test_other_data_are_refused_unless_they_are_allowed(left):
    checkpoints, other = left(), dataclasses.replace(_CONFIG, data_digest="2" * 64)
    with pytest.raises(ValueError, match="a run on other data: what --dataset=folder:d/one holds .*--allow_new_data"):
        check_same_run(other, _CLASSES, checkpoints)
    check_same_run(other, _CLASSES, checkpoints, allow_new_data=True)
    assert on_purpose(other, _CONFIG) == ["data_digest"]


@pytest.mark.parametrize("path", ["folder:d/one/", "folder:/elsewhere/two", "folder:./d/one"])
def test_where_the_data_lie_is_not_what_they_are(left, path):
    moved = dataclasses.replace(_CONFIG, dataset=path)
    check_same_run(moved, _CLASSES, left())
    assert on_purpose(moved, _CONFIG) == []
    with pytest.raises(ValueError, match="--dataset=latents:d here, folder:d/one there"):
        check_same_run(dataclasses.replace(_CONFIG, dataset="latents:d"), _CLASSES, left())


def test_a_run_of_version_010_has_no_digest_and_must_stay_where_it_is(left):
    config = dataclasses.replace(_CONFIG, folder_reading=1)
    checkpoints = left(text=of_version_010(config))
    assert stored_config(checkpoints) == dataclasses.replace(config, data_digest="")
    check_same_run(config, _CLASSES, checkpoints)
    check_same_run(dataclasses.replace(config, dataset="folder:d/../d/one/"), _CLASSES, checkpoints)
    assert on_purpose(config, stored_config(checkpoints)) == []
    with pytest.raises(ValueError, match="of version 0.1.0 on --dataset=folder:d/one, .* say so with --allow_new_data"):
        check_same_run(dataclasses.replace(config, dataset="folder:two"), _CLASSES, checkpoints)


@pytest.mark.parametrize("name", RESUMABLE)
def test_what_is_named_may_differ(left, name):
    value = (0.1,) if name in ("ema_decays", "ema_stds") else 2 * getattr(_CONFIG, name) or 0.5
    changed = dataclasses.replace(_CONFIG, **{name: value if name != "ema_decay" else 0.99})
    checkpoints = left()
    with pytest.raises(ValueError, match=f"another configuration .*; to go on with another, add --resume_with={name}"):
        check_same_run(changed, _CLASSES, checkpoints)
    check_same_run(changed, _CLASSES, checkpoints, [name])
    both = dataclasses.replace(changed, model="DiT-S/2")
    with pytest.raises(ValueError, match="--model=DiT-S/2 here"):
        check_same_run(both, _CLASSES, checkpoints, [name])
    assert on_purpose(changed, _CONFIG) == [name]


def test_only_some_options_may_be_named():
    check_names(RESUMABLE)
    check_names(None)
    with pytest.raises(ValueError, match="--resume_with must name some of learning_rate, .*, got 'model'"):
        check_names(["learning_rate", "model"])


# What a run has seen


def test_examples_are_counted_through_every_change():
    """1,000 steps of 256, then 500 of 128, then 10 of 64."""
    first, second, third = (dataclasses.replace(_CONFIG, global_batch_size=size) for size in (256, 128, 64))
    history = History.read(None, 1000, 256)
    assert (history.examples, history.examples_at(1001)) == (256_000, 256_256)
    history = history.changed(first, second, ["global_batch_size"])
    history = History.read(history.to_json(1500), 1500, 128)
    assert history.examples == 256_000 + 500 * 128 == 320_000
    history = history.changed(second, third, ["global_batch_size"])
    assert history.examples_at(1510) == 320_640
    assert [(c["step"], c["examples"], told(c)) for c in history.changes] == [
        (1000, 256_000, "global_batch_size 128 (was 256)"), (1500, 320_000, "global_batch_size 64 (was 128)"),
    ]  # fmt: skip


def test_averages_that_begin_late_have_their_step():
    before = dataclasses.replace(_CONFIG, ema_stds=(0.1,), ema_decay=0.9, global_batch_size=8)
    after = dataclasses.replace(before, ema_stds=(0.05, 0.1), ema_decay=0.8)
    history = History.read(None, 70, 8).changed(before, after, ["ema_stds", "ema_decay"])
    assert [history.began(name) for name in ("ema_std_0.05", "ema_std_0.1", "ema")] == [70, 0, 70]
    dropped = History.read(history.to_json(90), 90, 8).changed(after, before, ["ema_stds"])
    again = History.read(dropped.to_json(99), 99, 8).changed(before, after, ["ema_stds"])
    assert [again.began(name) for name in ("ema_std_0.05", "ema_std_0.1", "ema")] == [99, 0, 70]
    assert "ema_stds 0.05,0.1 (was 0.1)" in told(history.changes[0])


def test_a_damaged_history_is_named(rng):
    """Cut short, or with some bytes changed: refused, or the numbers it says."""
    text = History(5, 40, 8).to_json(6)
    for i in range(100):
        mutated = bytearray(text.encode())
        if i % 2:
            mutated = mutated[: rng.integers(len(text))]
        else:
            mutated[rng.integers(len(text))] = rng.integers(32, 127)
        try:
            history = History.read(mutated.decode(), 6, 8)
        except ValueError as error:
            assert f"the {FILE} of the checkpoint of step 6 is damaged" in str(error)
        else:
            assert (history.examples, history.changes) == (48, ())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    checkpoints = Checkpoints(str(tmp_path))
    with BackgroundSaver(checkpoints) as saver:
        saver.save(1, {"a": tf.Variable([1.0]), "step": tf.Variable(1)}, {})
        saver.save(2, {"a": tf.Variable([value]), "step": tf.Variable(2)}, {})
        with pytest.raises(ValueError, match="after step 2 is not finite .the first is a.: no checkpoint was written"):
            saver.wait()
    assert checkpoints.steps() == [1]
