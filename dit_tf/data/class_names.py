"""What the labels of a data set or a model mean: a class is typed as its number, its id or its name."""

import collections
import dataclasses
import difflib
import importlib.resources
import json
import re
import unicodedata

import numpy as np

_NUMBER = re.compile(r"[+-]?[0-9]+")
NULL = "null"  # what no class is typed as
_MOST_NEAR = 12  # classes that a message about an unknown name lists


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """The classes of labels 0..K-1.

    names: of class i, synonyms separated by ", " ("tench, Tinca tinca").
    ids: other unique names, as ImageNet's synsets ("n01440764"); empty, or one per class.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.names:
            raise ValueError("A class table must have at least one class, got none.")
        if self.ids and len(self.ids) != len(self.names):
            counts = f"{len(self.ids)} ids for {len(self.names)} names"
            raise ValueError(f"A class table must have no ids or one per class, got {counts}.")
        useless = [name for name, count in collections.Counter(self.ids).items() if count > 1 or not name]
        if useless:
            raise ValueError(f"The ids of a class table must differ and not be empty, got {useless[0]!r}.")

    def __len__(self):
        return len(self.names)

    def find(self, text, flag="--labels", null_label=None):
        """The label of the class that `text` means. null_label: what "null" means where no class is called so.

        A number is a label, unless some class is itself called by a number other than its label: then numbers are
        names. An id matches exactly. Of a name, one synonym or the whole; blanks around it and case do not matter, and
        underscores are blanks. ValueError, with the classes that may have been meant, where not exactly one class fits.
        """
        if self == UNLABELLED:
            raise ValueError(f"{flag} goes with models that have classes; leave it out for this one, got {text!r}.")
        stripped, wanted = text.strip(), _folded(text)
        if stripped in self.ids:
            return self.ids.index(stripped)
        if _NUMBER.fullmatch(stripped) and not self._numbers_are_names():
            # Python refuses to read thousands of digits, and 20 are too many for a label.
            label = int(stripped) if len(stripped) < 20 else len(self)
            if not 0 <= label < len(self):
                raise ValueError(f"{flag} must be from 0 to {len(self) - 1}, got {stripped}.")
            return label
        found = [label for label in range(len(self)) if wanted in self._called(label)]
        if not found and wanted == NULL and null_label is not None:
            return null_label
        if len(found) > 1:
            raise ValueError(
                f"{flag} must mean one class, got {stripped!r}, which {len(found)} are called; "
                f"type what stands first: {self._listing(found)}."
            )
        if not found:
            raise ValueError(f"{flag} must be {self._rule()}, got {stripped!r}; {self._hint(wanted)}.")
        return found[0]

    def labels_in(self, model, title):
        """int64 (K,): the label that each of these classes has in the table of a model, by id, else by name.

        A model that knows its classes by number alone must have as many. ValueError, which begins with `title`, what
        the data set was given as, names the first classes that the model lacks.
        """
        if UNLABELLED in (self, model) or model.by_number:
            if len(self) != len(model):
                raise ValueError(f"{title} has {_count(self)}, the model has {_count(model)}.")
            return np.arange(len(self))
        places = {}  # id, whole name or synonym: the labels that are called so
        for label in range(len(model)):
            for name in model._called(label) | set(model.ids[label : label + 1]):
                places.setdefault(name, []).append(label)
        names = self.ids if self.ids and model.ids else map(_folded, self.names)
        found = [places.get(name, []) for name in names]
        missing = [label for label, labels in enumerate(found) if len(labels) != 1]
        if missing:
            raise ValueError(
                f"{title} has {len(missing)} class(es) that the model was not trained on: "
                f"{self._listing(missing[:3])}; the model's begin with {model._listing(range(min(3, len(model))))}."
            )
        return np.array([label for (label,) in found])

    def shared_with(self, other):
        """{label: label in the other table} of the classes that both have, by id, else by whole name."""
        if self == other:
            return {label: label for label in range(len(self))}
        if UNLABELLED in (self, other) or self.by_number or other.by_number:
            return {}
        theirs = {name: label for label, name in enumerate(other.ids if self.ids and other.ids else other._folded)}
        names = self.ids if self.ids and other.ids else self._folded
        return {label: theirs[name] for label, name in enumerate(names) if name in theirs}

    @property
    def _folded(self):
        return [_folded(name) for name in self.names]

    @property
    def by_number(self):
        """Whether no more is known of the classes than how many there are."""
        return self == numbered(len(self))

    def difference(self, other):
        """What is another class in another table, to be said after "holds a run of other classes"; "" where all are
        the same."""
        if len(self) != len(other):
            return f"{len(self)} here, {len(other)} there"
        for label in range(len(self)):
            mine, theirs = (table.ids[label] if table.ids else table.names[label] for table in (self, other))
            if mine != theirs:
                return f"label {label} is {mine} here and {theirs} there"
        return "" if self.names == other.names else "they have other names"

    def caption(self, label):
        """A short name under a picture: the first synonym; of the null label "null"."""
        if label == len(self):
            return NULL
        return self.names[label].split(", ")[0]

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text):
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            fields = None
        lists = list(fields.values()) if isinstance(fields, dict) and set(fields) == {"names", "ids"} else [None]
        if not all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in lists):
            raise ValueError(f"A class table must be JSON with two lists of strings, names and ids, got {text[:40]!r}.")
        return cls(tuple(fields["names"]), tuple(fields["ids"]))

    def _called(self, label):
        """The names of a class as `find` compares them: each synonym and the whole."""
        whole = _folded(self.names[label])
        return {whole, *whole.split(", ")} - {""}

    def _numbers_are_names(self):
        if all(name == str(label) for label, name in enumerate(self.names)):
            return False  # both readings of a number agree, and labels have the clearer message
        called = {*self.ids}.union(*map(self._called, range(len(self))))
        return any(map(_NUMBER.fullmatch, called))

    def _rule(self):
        names = "an id or a name" if self.ids else "a name"
        if self._numbers_are_names():
            return f"{names} (numbers are names here)"
        return f"a number from 0 to {len(self) - 1}{', ' if self.ids else ' or '}{names}"

    def _hint(self, wanted):
        near = self._near(wanted)
        if not near:
            return f"nothing is near it, and the classes begin with {self._listing(range(min(3, len(self))))}"
        more = f"; and {len(near) - _MOST_NEAR} more" if len(near) > _MOST_NEAR else ""
        return f"near it: {self._listing(near[:_MOST_NEAR])}{more}"

    def _near(self, wanted):
        """Labels of the classes that have `wanted` as a word or words of a name, then of those spelt almost so."""
        called = [(name, label) for label in range(len(self)) for name in self._called(label)]
        word = re.compile(rf"(?<!\w){re.escape(wanted)}(?!\w)")
        labels = [label for name, label in called if wanted and word.search(name)]
        for near in difflib.get_close_matches(wanted, sorted({name for name, _ in called}), n=3):
            labels += [label for name, label in called if name == near]
        return list(dict.fromkeys(labels))

    def _listing(self, labels):
        """Number, id and whole name of classes, less the numbers where they cannot be typed."""
        columns = [self.ids, self.names] if self.ids else [self.names]
        if not self._numbers_are_names():
            columns.insert(0, [str(label) for label in range(len(self))])
        # Once what is the same: a class called by its label.
        return "; ".join(" ".join(dict.fromkeys(column[label] for column in columns)) for label in labels)


UNLABELLED = ClassTable(names=("",))  # one class: what an unconditional model has


def numbered(count):
    """Classes of which no more is known than that there are so many: each is called by its label."""
    return ClassTable(tuple(map(str, range(count))))


def imagenet():
    """The 1000 classes of ILSVRC 2012 in the order of their synsets: that of TensorFlow Datasets' imagenet2012, and of
    every published model."""
    # The synsets lie beside the names: TensorFlow Datasets has them too, but not at one place in all its versions.
    text = importlib.resources.files("dit_tf.data").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    ids, names = zip(*(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")))
    return ClassTable(names, ids)


def _count(table):
    return "no classes" if table == UNLABELLED else f"{len(table)} classes"


def _folded(text):
    # macOS writes the accents of folder names as characters of their own; keyboards do not.
    return " ".join(unicodedata.normalize("NFC", text).replace("_", " ").split()).casefold()
