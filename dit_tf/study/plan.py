"""The plan of a study: grids of trainings, and how their models are scored. A text of headings and flags:

    # The paper in miniature                                  the first comment is the title
    [train sizes]                                             a grid of trainings
    --flagfile=launch/flags/study-digits.flags
    --model=DiT-Mi/2|DiT-Ti/2                                 an axis of it: one value each, of the last flag before |
    --path=linear | --path=vp --prediction=noise              an axis of which several flags change together
    --seed=0|1|2

    [score quality of sizes]                                  the first one of a training is what models are compared by
    --steps=every --num_samples=1000 --sampler=ddim

A training's flags are those of dit_tf.train; a scoring's are listed in docs/flags.md under dit_tf.study.
"""

import dataclasses
import itertools
import re

_HEADINGS = "[train NAME] or [score NAME of TRAINING ...]"
_NAME = re.compile(r"[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Axis:
    """The alternatives of one line, each a tuple of flags."""

    line: int
    alternatives: tuple

    def always(self, flag):
        return all(flag in flags for flags in self.alternatives)


@dataclasses.dataclass(frozen=True)
class Section:
    """kind: "train" or "score"; of: of a scoring, the groups of trainings whose models it scores."""

    kind: str
    name: str
    of: tuple
    line: int
    axes: list

    def grid(self):
        """Yields (what tells this one from the others, its flags), the last axis first."""
        for chosen in itertools.product(*(axis.alternatives for axis in self.axes)):
            telling = (flag for axis, flags in zip(self.axes, chosen) for flag in flags if not axis.always(flag))
            words = (flag.removeprefix("--").replace("/", "-") for flag in telling)
            yield ",".join(words), [flag for flags in chosen for flag in flags]

    def line_of(self, sentence):
        """The line that an error speaks of: that of the first flag that it names and that stands in this section."""
        for quoted in ("--{}", "'{}'"):
            for axis in self.axes:
                names = {re.match(r"--(\w+)", flag)[1] for flags in axis.alternatives for flag in flags}
                if any(re.search(quoted.format(name) + r"(?!\w)", sentence) for name in names):
                    return axis.line
        return self.line


@dataclasses.dataclass(frozen=True)
class Plan:
    path: str
    title: str
    text: str
    sections: list

    def of_kind(self, kind):
        return [section for section in self.sections if section.kind == kind]

    def error(self, line, rule):
        return ValueError(f"--plan={self.path}, line {line}: {rule}")


def read_plan(path):
    """ValueError, with the line and the rule, where the text is no plan."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"--plan={path} cannot be read ({said}): plans are in launch/plans.") from error
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    plan = Plan(path, comments[0] if comments else path, text, [])
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line.startswith("["):
            plan.sections.append(_section(plan, number, line))
        elif line and not plan.sections:
            raise plan.error(number, f"flags must stand under a heading, {_HEADINGS}, got {line!r}.")
        elif line:
            plan.sections[-1].axes.append(Axis(number, _alternatives(plan, number, line)))
    for kind in ("train", "score"):
        if not plan.of_kind(kind):
            raise ValueError(f"--plan={path} must have a heading [{kind} ...]: {_HEADINGS}.")
    return plan


def _section(plan, number, line):
    words = line.removeprefix("[").removesuffix("]").split()
    kind, name, *rest = *words[:2], *[""] * (2 - len(words)), *words[2:]
    known = {section.name for section in plan.sections if section.kind == "train"}
    as_training = kind == "train" and not rest
    as_scoring = kind == "score" and rest[:1] == ["of"] and len(rest) > 1
    if not line.endswith("]") or not _NAME.fullmatch(name) or not (as_training or as_scoring):
        raise plan.error(number, f"a heading must be {_HEADINGS}, got {line!r}.")
    unknown = [group for group in rest[1:] if group not in known]
    if unknown:
        raise plan.error(
            number, f"it must be of trainings that stand above ({', '.join(sorted(known))}), got {unknown[0]}."
        )
    if kind == "score" and name in [section.name for section in plan.of_kind("score")]:
        raise plan.error(number, f"every [score] must have a name of its own, got {name} again.")
    return Section(kind, name, tuple(rest[1:]), number, [])


def _alternatives(plan, number, line):
    """ "--a=1 --b=2|3" -> (("--a=1", "--b=2"), ("--a=1", "--b=3")), "--a=1|2 --b=3" -> (("--a=1",), ("--a=2", "--b=3"))
    and "--a=1 --b=2 | --a=3" -> (("--a=1", "--b=2"), ("--a=3",))."""
    first, *others = (part.strip() for part in line.split("|"))
    found = [first.split()]
    for part in others:
        *before, last = found[0] or [""]
        found.append(part.split() if part.startswith("--") else [*before, *f"{last.partition('=')[0]}={part}".split()])
    for flag in (flag for flags in found for flag in flags or [""]):
        if not re.match(r"--\w+(=.|$)", flag):
            raise plan.error(number, f"a line must be flags, --name=value, with | between their values, got {line!r}.")
    if len(set(map(tuple, found))) < len(found):
        raise plan.error(number, f"the values between | must be different, got {line!r}.")
    return tuple(map(tuple, found))
