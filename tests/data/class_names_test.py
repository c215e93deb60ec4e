"""Claims of class tables: what is typed for a class is its label, or is refused with what to type instead."""

import collections
import configparser
import pathlib
import re
import time

import pytest
import tensorflow_datasets as tfds

from dit_tf.data.class_names import UNLABELLED, ClassTable, imagenet, numbered

ONE_TO_TEN = ClassTable(tuple(str(n) for n in range(1, 11)))
ANIMALS = ClassTable(("red_fox", "Arctic fox, white fox", "crane", "wolf"), ("a1", "b2", "c3", "D4"))


@pytest.fixture(scope="module")
def table():
    return imagenet()


@pytest.fixture(scope="module")
def owners(table):
    """{synonym in lower case: labels that have it}, found without the table's own search."""
    owners = collections.defaultdict(set)
    for label, name in enumerate(table.names):
        for synonym in name.split(", "):
            owners[synonym.lower()].add(label)
    return owners


def refusal(table, text, **flag):
    with pytest.raises(ValueError) as error:
        table.find(text, **flag)
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_imagenet_has_the_classes_of_tensorflow_datasets(table, tmp_path):
    builder = tfds.builder("imagenet2012", data_dir=tmp_path)
    assert list(table.ids) == builder.info.features["label"].names


def test_imagenet_has_the_known_names(table):
    known = {
        0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 88: "macaw", 207: "golden retriever",
        281: "tabby, tabby cat", 360: "otter", 417: "balloon", 974: "geyser", 979: "valley, vale", 985: "daisy",
        387: "lesser panda, red panda, panda, bear cat, cat bear, Ailurus fulgens", 999: "toilet tissue, toilet paper, "
        "bathroom tissue",
    }  # fmt: skip
    assert {label: table.names[label] for label in known} == known
    assert len(table) == len(set(table.ids)) == 1000


def test_names_of_imagenet_have_no_stray_blanks_or_commas(table):
    for name in table.names:
        assert name.isascii() and name.count(",") == name.count(", ")
        assert all(synonym and synonym == synonym.strip() for synonym in name.split(", "))


def test_every_number_and_synset_finds_its_label(table):
    assert [table.find(str(label)) for label in range(1000)] == list(range(1000))
    assert [table.find(synset) for synset in table.ids] == list(range(1000))


def test_every_name_of_one_class_finds_it(table, owners):
    alone = {name: labels for name, labels in owners.items() if len(labels) == 1}
    assert len(alone) > 1500
    assert all({table.find(name)} == labels for name, labels in alone.items())


def test_every_name_of_several_classes_is_refused_with_all_of_them(table, owners):
    shared = {name: labels for name, labels in owners.items() if len(labels) > 1}
    assert {"crane", "maillot", "panda", "cardigan"} <= shared.keys()
    for name, labels in shared.items():
        message = refusal(table, name)
        for label in labels:
            assert f" {label} {table.ids[label]} {table.names[label]}" in message


def test_every_whole_name_finds_its_class_unless_another_has_it(table, owners):
    for label, name in enumerate(table.names):
        if owners.get(name.lower(), {label}) == {label}:
            assert table.find(name) == label


@pytest.mark.parametrize(
    "text, label",
    [
        (" golden_retriever ", 207),
        ("GOLDEN  Retriever", 207),
        ("tinca tinca", 0),
        (" 207", 207),
        ("0207", 207),
        ("n02099601\t", 207),
        ("maillot, tank suit", 639),
    ],
)
def test_blanks_case_and_underscores_do_not_matter(table, text, label):
    assert table.find(text) == label


def test_accents_match_however_they_are_written():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert ClassTable((composed,)).find(decomposed) == ClassTable((decomposed,)).find(composed) == 0


def test_an_id_matches_exactly():
    assert ANIMALS.find("D4") == 3
    assert "'d4'" in refusal(ANIMALS, "d4")


def test_an_id_goes_before_a_name():
    assert ClassTable(("b", "a"), ("a", "b")).find("a") == 0


@pytest.mark.parametrize("text", ["1000", "-1", "+1000", "9" * 5000])
def test_a_number_out_of_range_names_the_range(table, text):
    assert refusal(table, text, flag="--class") == f"--class must be from 0 to 999, got {text}."


def test_where_classes_are_called_by_numbers_numbers_are_names():
    assert [ONE_TO_TEN.find(str(n)) for n in range(1, 11)] == list(range(10))
    for text in ("0", "11", "-1"):
        assert "numbers are names here" in refusal(ONE_TO_TEN, text)
    # One number among the names is enough, as a synonym or an id too.
    assert ClassTable(("ten, 2", "20", "30")).find("2") == 0
    assert "'1'" in refusal(ClassTable(("two", "three"), ("2", "3")), "1")


def test_a_message_offers_no_number_that_cannot_be_typed():
    table = ClassTable(("12, dozen", "13, dozen, baker's"))
    assert refusal(table, "dozen").endswith(": 12, dozen; 13, dozen, baker's.")


def test_numbered_classes_are_called_by_their_labels():
    digits = numbered(10)
    assert digits == ClassTable(tuple("0123456789"))
    assert [digits.find(str(n)) for n in range(10)] == list(range(10))
    assert refusal(digits, "10") == "--labels must be from 0 to 9, got 10."
    assert refusal(digits, "seven").startswith("--labels must be a number from 0 to 9 or a name, got 'seven'; ")
    assert refusal(digits, "seven").endswith(" begin with 0; 1; 2.")


def test_an_unknown_name_lists_those_spelt_almost_so(table):
    message = refusal(table, "goldn retriver")
    assert "'goldn retriver'" in message and "207 n02099601 golden retriever" in message


def test_an_unknown_name_lists_those_that_hold_it_as_a_word(table):
    message = refusal(table, "Retriever")
    for label in range(205, 210):
        assert f" {label} {table.ids[label]} {table.names[label]}" in message
    birds = ClassTable(("mixing bowl", "snowy owl of the far north", "owlet, pygmy-owl of the Andes"))
    message = refusal(birds, "owl")
    assert "bowl" not in message and f"1 {birds.names[1]}; 2 {birds.names[2]}" in message


def test_a_long_list_of_near_names_is_cut(table):
    terriers = [label for label, name in enumerate(table.names) if "terrier" in name.replace(",", "").split()]
    message = refusal(table, "terrier")
    listed, more = re.fullmatch(r".*; near it: (.*); and (\d+) more\.", message).groups()
    assert [int(entry.split()[0]) for entry in listed.split("; ")] == terriers[:12]
    assert 0 <= 12 + int(more) - len(terriers) <= 3  # at most three more are spelt almost so


def test_a_name_far_from_all_shows_what_names_look_like(table):
    for text in ("zzzz", "", " ", "_", "n00000000"):
        assert "the classes begin with 0 n01440764 tench, Tinca tinca; 1 " in refusal(table, text)


def test_a_class_without_a_name_is_found_by_its_number_alone():
    table = ClassTable(("", "cat"))
    assert table.find("0") == 0
    assert "got ''" in refusal(table, "")


def test_patterns_are_taken_literally(table):
    for text in ("(", "[a-z]+", ".*", "\\"):
        assert repr(text) in refusal(table, text)


def test_an_unlabelled_table_accepts_nothing():
    assert len(UNLABELLED) == 1 and UNLABELLED.caption(0) == ""
    for text in ("0", "", "cat"):
        assert refusal(UNLABELLED, text).startswith("--labels goes with models that have classes")


def test_a_caption_is_the_first_synonym(table):
    assert [table.caption(label) for label in (0, 207)] == ["tench", "golden retriever"]
    assert numbered(3).caption(2) == "2" and ANIMALS.caption(0) == "red_fox"


@pytest.mark.parametrize(
    "table", [imagenet(), numbered(10), UNLABELLED, ANIMALS, ClassTable(('"\\\n', "\u732b", "\udcff"))]
)
def test_json_gives_back_the_table(table):
    text = table.to_json()
    assert ClassTable.from_json(text) == table
    assert text.isascii()  # a folder's name may hold what no file can be written in, such as half a surrogate pair


def test_json_cut_anywhere_is_refused_in_one_sentence():
    text = ANIMALS.to_json()
    for length in range(len(text)):
        with pytest.raises(ValueError, match=r"^A class table must [^\n]*\.$"):
            ClassTable.from_json(text[:length])


@pytest.mark.parametrize(
    "text",
    [
        "null", "[]", "{}", "7", '{"names": ["a"]}', '{"names": ["a"], "ids": [], "more": []}', "[" * 100_000, "\0",
        '{"names": "ab", "ids": []}', '{"names": [1], "ids": []}', '{"names": ["a"], "ids": null}',
        '{"names": [], "ids": []}', '{"names": ["a"], "ids": ["1", "2"]}', '{"names": [["a"]], "ids": []}', "9" * 5000,
    ],
)  # fmt: skip
def test_damaged_json_is_refused_in_one_short_sentence(text):
    with pytest.raises(ValueError, match=r"^A class table must [^\n]{,200}\.$"):
        ClassTable.from_json(text)


@pytest.mark.parametrize(
    "names, ids, culprit",
    [
        ((), (), "at least one class"),
        (("a", "b"), ("1",), "got 1 ids for 2 names"),
        (("a",), ("1", "2"), "got 2 ids for 1 names"),
        (("a", "b"), ("1", "1"), "got '1'"),
        (("a", "b"), ("1", ""), "got ''"),
    ],
)
def test_a_table_that_cannot_be_is_refused(names, ids, culprit):
    with pytest.raises(ValueError, match=culprit):
        ClassTable(names, ids)


def test_a_search_takes_no_time_to_speak_of(table):
    start = time.perf_counter()
    table.find("toilet paper")
    refusal(table, "a" * 10_000)
    assert time.perf_counter() - start < 1.0  # 15 ms on an idle core; a busy machine is slower


def test_the_names_travel_with_the_package():
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
    assert "imagenet_classes.txt" in setup.get("options.package_data", "dit_tf.data")
