"""Weights of one model in another: everything that fits, and of the label table what means the same."""

import numpy as np
import pytest

from dit_tf.models.dit import DiT
from dit_tf.pretrained.dit_map import weights_by_path
from dit_tf.pretrained.fine_tuning import start_from

_TABLE = "label_embedder/table"
_SAME = {label: label for label in range(10)}


def make(seed, **changes):
    options = dict(input_size=8, patch_size=2, in_channels=4, width=32, depth=2, num_heads=2, num_classes=10)
    model, rng = DiT(**options | changes), np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def arrays(model):
    return {path: v.numpy() for path, v in weights_by_path(model).items()}


@pytest.fixture
def source():
    return make(1)


def assert_equal_but_for_the_table(model, source):
    ours, theirs = arrays(model), arrays(source)
    assert ours.keys() == theirs.keys()
    for path in ours.keys() - {_TABLE}:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def test_the_same_classes_keep_everything(source):
    model = make(2)
    sentence = start_from(model, source, _SAME)
    assert_equal_but_for_the_table(model, source)
    np.testing.assert_array_equal(arrays(model)[_TABLE], arrays(source)[_TABLE])
    assert "11 of the label table's 11 rows are kept, 0 begin anew" in sentence


def test_other_classes_keep_the_null_class_alone(source):
    model = make(2, num_classes=4)
    fresh = arrays(model)[_TABLE]
    sentence = start_from(model, source, {})
    assert_equal_but_for_the_table(model, source)
    table = arrays(model)[_TABLE]
    np.testing.assert_array_equal(table[4], arrays(source)[_TABLE][10])
    np.testing.assert_array_equal(table[:4], fresh[:4])
    assert "1 of the label table's 5 rows are kept, 4 begin anew" in sentence


def test_without_classes_the_only_row_is_the_null_class(source):
    model = make(2, num_classes=1, class_dropout_prob=0.0)
    start_from(model, source, {})
    np.testing.assert_array_equal(arrays(model)[_TABLE], arrays(source)[_TABLE][10:])


def test_label_dropout_may_begin_or_end(source):
    without = make(2, class_dropout_prob=0.0)
    start_from(without, source, _SAME)
    np.testing.assert_array_equal(arrays(without)[_TABLE], arrays(source)[_TABLE][:10])
    again = make(3)
    null = arrays(again)[_TABLE][10]
    start_from(again, without, _SAME)
    np.testing.assert_array_equal(arrays(again)[_TABLE], np.concatenate([arrays(without)[_TABLE], null[None]]))


def test_another_resolution_keeps_every_weight_and_computes_its_positions(source):
    model = make(2, input_size=16)
    start_from(model, source, _SAME)
    assert_equal_but_for_the_table(model, source)
    assert model.patch_embedder.position_table.shape[0] == 4 * source.patch_embedder.position_table.shape[0]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(depth=3), ["--model, --block", "10 weights are only here", "block2"]),
        (dict(block="in_context"), ["--model, --block", "only there"]),
        (dict(width=64), ["the shape", "64", "--model"]),
        (dict(learn_sigma=False), ["decoder/linear", "--learn_sigma"]),
        (dict(in_channels=3), ["the shape", "--vae"]),
        (dict(patch_size=4), ["the shape", "--model"]),
    ],
)  # fmt: skip
def test_another_network_is_refused_and_left_as_it_was(source, changes, words):
    model = make(2, **changes)
    before = arrays(model)
    with pytest.raises(ValueError) as error:
        start_from(model, source, _SAME)
    assert "--init_from" in str(error.value) and all(word in str(error.value) for word in words), error.value
    for path, a in arrays(model).items():
        np.testing.assert_array_equal(a, before[path])
