"""--qk_norm through files and commands; tests/models/blocks_test.py has what it computes."""

import json
import os

import numpy as np
import pytest

from dit_tf import build, convert, flags
from dit_tf.config import RunConfig
from dit_tf.data.class_names import numbered
from dit_tf.preflight import __main__ as preflight
from dit_tf.pretrained.fine_tuning import start_from

_CONFIG = RunConfig(model="DiT-Mi/4", qk_norm=True)


@pytest.fixture
def saved(tmp_path, rng):
    """(the path of a .keras file, the weights in it)"""
    params = [rng.standard_normal(v.shape).astype("float32") for v in build.make_model(_CONFIG).trainable_variables]
    build.save_model(str(tmp_path / "ours.keras"), _CONFIG, numbered(10), params)
    return str(tmp_path / "ours.keras"), params


def test_a_model_comes_back_from_its_file_and_has_no_public_form(saved, parse, tmp_path):
    path, params = saved
    assert build.load_config(path) == _CONFIG
    for variable, value in zip(build.load_model(path).trainable_variables, params, strict=True):
        np.testing.assert_array_equal(variable, value)
    with pytest.raises(ValueError, match=r"--output=.*no place for the scales of --qk_norm, with which .*ours\.keras"):
        convert.main(parse(flags.define_convert, f"--source={path}", f"--output={tmp_path}/out.pt"))
    assert os.listdir(tmp_path) == ["ours.keras"]


def test_a_model_without_it_is_no_beginning_for_one_with_it():
    plain, normalised = build.make_model(RunConfig(model="DiT-Mi/4")), build.make_model(_CONFIG)
    with pytest.raises(ValueError, match=r"--qk_norm must be .* \(4 weights are only here and 0 only there"):
        start_from(normalised, plain, same={})


def test_preflight_counts_the_scales_and_no_products(parse, tmp_path):
    def report(*more):
        output = tmp_path / "report.json"
        preflight.main(
            parse(flags.define_preflight, "--dataset=digits", "--model=DiT-Mi/4", *more, f"--output={output}")
        )
        return json.loads(output.read_text())

    plain, normalised = report(), report("--qk_norm")
    assert normalised["parameters"] == plain["parameters"] + 2 * 2 * 32  # two blocks, of q and of k, heads of 32
    assert normalised["macs"] == plain["macs"]
