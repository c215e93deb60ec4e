"""A run's flags repeat it; the page about the flags is the flags."""

import dataclasses
import pathlib
import re
import runpy

import pytest
from absl import flags as absl_flags

from dit_tf import flags
from dit_tf.config import RunConfig
from dit_tf.flags.command_line import define_compile_cache
from dit_tf.sample import sampler_options
from dit_tf.samplers.options import SamplerOptions

_REPOSITORY = pathlib.Path(__file__).parents[1]
_CHANGES = {
    "train": ["--workdir=runs/a b#1", "--nolearn_sigma", "--horizontal_flip", "--learning_rate=0.1", "--seed=3"],
    "sample": ["--labels=3, 1,golden retriever", "--output=a=b.npz", "--eta=1e-5", "--guidance_interval=.1,.9"],
}


def defined(command):
    values = absl_flags.FlagValues()
    flags.COMMANDS[command](values)
    return values


def parsed(command, *arguments):
    values = defined(command)
    assert values([command, *arguments]) == [command]  # nothing is left over
    return values


def contents(values):
    return {name: values[name].value for name in values}


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("command", flags.COMMANDS)
def test_a_resolved_run_is_repeated_by_its_flag_file(command, changed, tmp_path):
    run = parsed(command, *(_CHANGES.get(command, []) if changed else []))
    file = tmp_path / "flags.txt"
    file.write_text(flags.resolved(run))
    assert contents(parsed(command, f"--flagfile={file}")) == contents(run)
    assert len(file.read_text().splitlines()) == sum(value is not None for value in contents(run).values())


@pytest.mark.parametrize("command", flags.COMMANDS)
def test_no_number_is_infinite_and_seeds_have_63_bits(command):
    """absl says it in a sentence with the flag's name, and ends with exit code 1."""
    values = defined(command)
    floats = [name for name in values if isinstance(values[name].parser, absl_flags.FloatParser)]
    wrong = [(name, text) for name in floats for text in ("nan", "inf", "-inf")]
    wrong += [("seed", str(seed)) for seed in (-1, 2**63, 2**64 - 1) if "seed" in values]
    for name, text in wrong:
        with pytest.raises(absl_flags.IllegalFlagValueError, match=f"flag --{name}={text}: "):
            parsed(command, f"--{name}={text}")
    if "seed" in values:
        assert parsed(command, f"--seed={2**63 - 1}").seed == 2**63 - 1


def test_every_change_of_the_test_above_is_one():
    for command, arguments in _CHANGES.items():
        run, default = contents(parsed(command, *arguments)), contents(parsed(command))
        assert sum(run[name] != default[name] for name in run) == len(arguments)


def test_a_flag_file_overrides_the_defaults_of_a_later_version(tmp_path):
    """Every value is in the file, so a default that changes does not change an old run."""
    file = tmp_path / "flags.txt"
    file.write_text(flags.resolved(parsed("train")))
    later = defined("train")
    later["learning_rate"].default = later["learning_rate"].value = 123.0
    later(["train", f"--flagfile={file}"])
    assert later.learning_rate == RunConfig().learning_rate


def test_defaults_are_those_of_the_records():
    """Where a flag has no default of its own, the data set, the objective or the codec decides."""
    values, fields = contents(defined("train")), dataclasses.asdict(RunConfig())
    shared = values.keys() & fields.keys()
    assert len(shared) >= 5
    assert all(values[name] in (None, fields[name]) for name in shared)
    assert sampler_options(parsed("sample")) == SamplerOptions()


def test_defining_flags_touches_no_other_definition():
    """Importing an entry, or documenting them all, defines nothing globally."""
    for command in flags.COMMANDS:
        defined(command)
    assert "cfg_scale" not in absl_flags.FLAGS and "train_steps" not in absl_flags.FLAGS


def test_the_documentation_lists_every_flag_once_with_its_default():
    sections = flags.documentation().split("\n## ")[1:]
    titles = ["Every command", *(f"python -m dit_tf.{name}" for name in flags.COMMANDS)]
    assert [section.split("\n")[0] for section in sections] == titles
    sections[-1], scoring = sections[-1].split("\n### ")  # of the last, study, what its plans take besides
    definers = [define_compile_cache, *flags.COMMANDS.values(), flags.define_scoring]
    for define, section in zip(definers, [*sections, scoring], strict=True):
        rows = re.findall(r"^\| `--(\w+)` \| (.*?) \| (.+) \|$", section, re.MULTILINE)
        values = absl_flags.FlagValues()
        define(values)
        assert sorted(name for name, _, _ in rows) == sorted(values)
        for name, shown, meaning in rows:
            default = values[name].default
            text = str(default).lower() if isinstance(default, bool) else str(default)
            assert shown == ("" if default is None else f"`{text}`")
            assert meaning == values[name].help


def test_the_page_is_up_to_date(capsys):
    runpy.run_module("dit_tf.flags", run_name="__main__")
    printed = capsys.readouterr().out
    assert printed == flags.documentation()
    page = _REPOSITORY / "docs" / "flags.md"
    assert page.exists() and page.read_text() == printed, "run: python -m dit_tf.flags > docs/flags.md"
