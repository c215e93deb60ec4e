"""The configuration that lies beside a checkpoint: what it refuses, and that it comes back as it was."""

import dataclasses
import json

import pytest

from dit_tf.config import RunConfig


def test_json_and_back():
    config = RunConfig(model="DiT-XL/2", image_size=256, horizontal_flip=True, learning_rate=1 / 3, seed=-(2**62))
    assert RunConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["image_size"] == 256


def test_averages_come_from_flags_and_from_json_in_any_order():
    config = RunConfig(ema_decays=["0.999", "0.99"], ema_stds=["0.1", "0.05"])
    assert (config.ema_decays, config.ema_stds) == ((0.99, 0.999), (0.05, 0.1))
    assert RunConfig.from_json(config.to_json()) == config
    assert RunConfig(ema_stds=None) == RunConfig()
    assert config.differences(RunConfig()) == [
        "--ema_decays=0.99,0.999 here,  there",
        "--ema_stds=0.05,0.1 here,  there",
    ]


def test_fields_that_a_later_version_added_take_their_defaults():
    assert RunConfig.from_json('{"model": "DiT-S/8"}') == RunConfig(model="DiT-S/8")


def test_fields_that_this_version_does_not_know_are_named():
    with pytest.raises(ValueError, match="does not know: colour, size"):
        RunConfig.from_json('{"size": 1, "model": "DiT-S/8", "colour": 2}')


def test_differences_name_the_flag_and_both_values():
    here, there = RunConfig(model="DiT-S/8", seed=1), RunConfig(model="DiT-S/4", seed=1, learn_sigma=False)
    assert here.differences(there) == ["--model=DiT-S/8 here, DiT-S/4 there", "--learn_sigma=True here, False there"]
    assert here.differences(dataclasses.replace(here)) == []


@pytest.mark.parametrize(
    "field, value, rule",
    [
        ("objective", "flaw", "must be one of ddpm, flow, got 'flaw'"),
        ("path", "gvp", "goes with --objective=flow, got --path=gvp with --objective=ddpm"),
        ("loss_weight", "velocity", "goes with --objective=flow, got --loss_weight=velocity"),
        ("precision", "float16", "must be one of float32, bfloat16, got 'float16'"),
        ("class_dropout_prob", -0.1, "must be at least 0.0 and below 1.0, got -0.1"),
        ("class_dropout_prob", 1.0, "must be at least 0.0 and below 1.0, got 1.0"),
        ("ema_decay", 1.0, "must be at least 0.0 and below 1.0, got 1.0"),
        ("ema_decay", float("nan"), "must be at least 0.0 and below 1.0, got nan"),
        ("ema_decays", ["0.5", "1"], "must be at least 0.0 and below 1.0, got 1.0"),
        ("ema_decays", ["0.9999"], "has 0.9999, which is --ema_decay"),
        ("ema_decays", ["x"], "must be numbers with commas between them, got 'x'"),
        ("ema_stds", ["0.1", "0.10"], "must be different numbers, got 0.1,0.1"),
        ("ema_stds", ["0.1", "0.3"], "must be above 0 and below 0.2887, got 0.3"),
        ("ema_stds", [0.0], "must be above 0"),
        ("ema_stds", ["nan"], "must be above 0 and below 0.2887, got nan"),
        ("learning_rate", 0.0, "must be positive, got 0.0"),
        ("image_size", 0, "must be at least 1, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(field, value, rule):
    with pytest.raises(ValueError, match=f"^--{field} {rule}"):
        RunConfig(**{field: value})


def test_the_ends_of_the_ranges_are_allowed():
    config = RunConfig(class_dropout_prob=0.0, ema_decay=0.0, image_size=1)
    assert config.class_dropout_prob == 0.0
