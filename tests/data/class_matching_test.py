"""Classes of one table found in another: by id, by name, never by place."""

import numpy as np
import pytest

from dit_tf.data.class_names import UNLABELLED, ClassTable, imagenet, numbered

_MODEL = ClassTable(("ant", "bee, honey bee", "cat"))


@pytest.mark.parametrize(
    "names, labels",
    [(("ant", "cat"), [0, 2]), (("cat", "ant"), [2, 0]), (("Honey_Bee",), [1]), (("bee, honey bee", "CAT"), [1, 2])],
)
def test_fewer_classes_and_another_order_are_found_by_name(names, labels):
    np.testing.assert_array_equal(ClassTable(names).labels_in(_MODEL, "--dataset=x"), labels)


def test_synsets_are_found_by_their_id():
    whole = imagenet()
    some = ClassTable(("anything", "else"), (whole.ids[517], whole.ids[134]))  # both are called crane
    np.testing.assert_array_equal(some.labels_in(whole, ""), [517, 134])
    with pytest.raises(ValueError, match="1 class.*crane"):
        ClassTable(("crane",)).labels_in(whole, "--dataset=x")


def test_what_the_model_lacks_is_named():
    sentence = r"^--dataset=folder:d has 1 class\(es\) that the model was not trained on: 1 zebra; the model's begin with"
    with pytest.raises(ValueError, match=sentence):
        ClassTable(("bee", "zebra")).labels_in(_MODEL, "--dataset=folder:d")


def test_classes_known_by_number_must_be_as_many():
    np.testing.assert_array_equal(_MODEL.labels_in(numbered(3), ""), [0, 1, 2])
    with pytest.raises(ValueError, match="has 3 classes, the model has 4 classes"):
        _MODEL.labels_in(numbered(4), "--dataset=x")
    for one, other in ((UNLABELLED, _MODEL), (_MODEL, UNLABELLED)):
        with pytest.raises(ValueError, match="no classes"):
            one.labels_in(other, "--dataset=x")


def test_shared_classes_keep_their_rows():
    assert ClassTable(("cat", "dog", "ant")).shared_with(_MODEL) == {0: 2, 2: 0}
    assert _MODEL.shared_with(_MODEL) == {0: 0, 1: 1, 2: 2}
    assert _MODEL.shared_with(UNLABELLED) == _MODEL.shared_with(numbered(3)) == {}


@pytest.mark.parametrize(
    "other, said",
    [
        (ClassTable(("bee", "cat")), "3 here, 2 there"),
        (ClassTable(("ant", "zebra", "cat")), "label 1 is bee, honey bee here and zebra there"),
        (_MODEL, ""),
    ],
)
def test_the_difference_of_two_tables_is_said(other, said):
    assert _MODEL.difference(other) == said


def test_null_means_no_class_where_none_is_called_so():
    assert _MODEL.find("null", null_label=3) == 3 and _MODEL.caption(3) == "null"
    assert ClassTable(("ant", "null")).find("Null", null_label=2) == 1
    for text in ("null", "3"):
        with pytest.raises(ValueError, match="--labels must be"):
            _MODEL.find(text)
