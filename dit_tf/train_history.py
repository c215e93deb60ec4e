"""What a training has seen, and what was changed on its way: history.json, beside every checkpoint.

    {"examples": 384000,                                    seen up to the checkpoint's step
     "changes": [{"step": 1000, "examples": 256000, "changed": {"global_batch_size": [256, 128]}}]}

Version 0.1.0 wrote none: nothing was changed, and every step had seen a batch.
"""

import dataclasses
import json

from dit_tf.training.ema import Exponential, PowerFunction

FILE = "history.json"
_KINDS = {"ema_decays": Exponential, "ema_stds": PowerFunction}


@dataclasses.dataclass(frozen=True)
class History:
    """As of `step`, from which on every step sees `batch_size` examples."""

    step: int
    examples: int
    batch_size: int
    changes: tuple = ()  # dicts, as in the file

    @property
    def changed_here(self):
        """The changes that `step` begins with."""
        return [change for change in self.changes if change["step"] == self.step]

    def began(self, name):
        """The step at which the average of that name in checkpoints began; of "ema", at which it went on with another
        decay. 0 where it is of all steps."""
        steps = [change["step"] for change in self.changes if name in _begun(change["changed"])]
        return steps[-1] if steps else 0

    def examples_at(self, step):
        return self.examples + (step - self.step) * self.batch_size

    def to_json(self, step):
        """The file of a checkpoint at that step."""
        return json.dumps(dict(examples=self.examples_at(step), changes=self.changes), indent=1)

    @classmethod
    def read(cls, text, step, batch_size):
        """text: of the checkpoint of that step; None: of version 0.1.0. batch_size: of the run up to there."""
        if text is None:
            return cls(step, step * batch_size, batch_size)
        try:
            content = json.loads(text)
            examples, changes = content["examples"], content["changes"]
            good = examples == _examples(changes, step, batch_size)
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise ValueError(f"the {FILE} of the checkpoint of step {step} is damaged: remove that checkpoint.")
        return cls(step, examples, batch_size, tuple(changes))

    def changed(self, before, after, names):
        """From here on with another configuration, in the fields of these names."""
        changes = self.changes
        if names:
            changed = {name: [getattr(before, name), getattr(after, name)] for name in names}
            changes = (*changes, dict(step=self.step, examples=self.examples, changed=changed))
        return History(self.step, self.examples, after.global_batch_size, changes)


def _begun(changed):
    """The names of the averages that begin with a change."""
    names = {"ema"} if "ema_decay" in changed else set()
    for field, kind in _KINDS.items():
        before, after = changed.get(field, ((), ()))
        names |= {kind(value).name for value in set(after) - set(before)}
    return names


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
    return {kind(value).name for field, kind in _KINDS.items() for value in getattr(config, field)}
