"""What a training has seen, and what was changed on its way: history.json, beside every checkpoint.

    {"examples": 384000,                                    seen up to the checkpoint's step
     "changes": [{"step": 1000, "examples": 256000, "changed": {"global_batch_size": [256, 128]}}],
     "averages": {"ema_std_0.1": 1000}}                     the steps at which averages began that did so late

Version 0.1.0 wrote none: nothing was changed, and every step had seen a batch.
"""

import dataclasses
import json

from dit_tf.training.ema import Exponential, PowerFunction

FILE = "history.json"


@dataclasses.dataclass(frozen=True)
class History:
    """As of `step`, from which on every step sees `batch_size` examples."""

    step: int
    examples: int
    batch_size: int
    changes: tuple = ()  # dicts, as in the file
    averages: dict = dataclasses.field(default_factory=dict)

    def examples_at(self, step):
        return self.examples + (step - self.step) * self.batch_size

    def to_json(self, step):
        """The file of a checkpoint at that step."""
        content = dict(examples=self.examples_at(step), changes=self.changes, averages=self.averages)
        return json.dumps(content, indent=1)

    @classmethod
    def read(cls, text, step, batch_size):
        """text: of the checkpoint of that step; None: of version 0.1.0. batch_size: of the run up to there."""
        if text is None:
            return cls(step, step * batch_size, batch_size)
        try:
            content = json.loads(text)
            examples, changes, averages = (content[name] for name in ("examples", "changes", "averages"))
            good = examples == _examples(changes, step, batch_size)
            good = good and all(type(began) is int and 0 <= began <= step for began in averages.values())
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise ValueError(f"the {FILE} of the checkpoint of step {step} is damaged: remove that checkpoint.")
        return cls(step, examples, batch_size, tuple(changes), averages)

    def changed(self, before, after, names):
        """From here on with another configuration, in the fields of these names."""
        if not names:
            return dataclasses.replace(self, batch_size=after.global_batch_size)
        told = {name: [getattr(before, name), getattr(after, name)] for name in names}
        change = dict(step=self.step, examples=self.examples, changed=told)
        began = {name: self.step for name in averages_of(after) - averages_of(before)}
        if "ema_decay" in names:
            began["ema"] = self.step  # goes on from what it was
        kept = {"ema"} | averages_of(after)
        averages = {name: step for name, step in self.averages.items() if name in kept} | began
        return History(self.step, self.examples, after.global_batch_size, (*self.changes, change), averages)


def _examples(changes, step, batch_size):
    """How many are seen after `step`, at the present batch size, by what was changed on the way; None where the changes
    do not fit together."""
    sizes = [batch_size]  # before and after every change, from the last to the first
    for change in reversed(changes):
        before, after = change["changed"].get("global_batch_size", (sizes[-1], sizes[-1]))
        if after != sizes[-1]:
            return None
        sizes.append(before)
    seen, last = 0, 0
    for change, size in zip(changes, reversed(sizes)):
        seen, last = seen + (change["step"] - last) * size, change["step"]
        if seen != change["examples"]:
            return None
    return seen + (step - last) * batch_size


def told(change):
    """One of the file's changes, in words."""
    changed = [(name, *map(_shown, values)) for name, values in change["changed"].items()]
    return ", ".join(f"{name} {after} (was {before})" for name, before, after in changed)


def _shown(value):
    return ",".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else value


def averages_of(config):
    """The names, in checkpoints, of the averages beside the one of ema_decay."""
    averages = [*map(Exponential, config.ema_decays), *map(PowerFunction, config.ema_stds)]
    return {average.name for average in averages}
