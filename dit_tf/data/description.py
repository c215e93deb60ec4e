"""One line about a data set that is opened: what a user would want to know before a day of training on it."""


def opened(source, split):
    """Print it -> the `DatasetSpec` of the split. ValueError as `Source.spec`."""
    spec = source.spec(split)
    print(description(source, split, spec), flush=True)
    return spec


def description(source, split, spec):
    """Images, classes, channels, sizes, and what was skipped and why."""
    kind = "latents of images" if spec.is_latents else f"image{'s' * (spec.num_examples != 1)}"
    parts = [f"{spec.num_examples:,} {kind}", _classes(spec)]
    parts.append(f"{spec.channels} channel{'s' * (spec.channels != 1)}")
    parts.append(_sizes(source.sides(split), spec.num_examples))
    skipped = source.skipped(split)
    if sum(skipped.values()):
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(skipped.items()) if count)
        parts.append(f"skipped {sum(skipped.values())} ({reasons})")
    return f"{source.name}, {split}: {', '.join(part for part in parts if part)}"


def _classes(spec):
    if spec.num_classes == 1 and spec.classes.names == ("",):
        return "no classes"
    return f"{spec.num_classes:,} class{'es' * (spec.num_classes != 1)}"


def _sizes(sides, count):
    """Of the smallest, the median and the largest area, height x width."""
    if not sides:
        return ""
    sides = sorted(sides, key=lambda side: side[0] * side[1])
    if sides[0] == sides[-1]:
        text = f"{sides[0][0]}x{sides[0][1]} pixels"
        return text if len(sides) in (1, count) else f"{text} (of {len(sides)} that were looked at)"
    low, middle, high = (f"{h}x{w}" for h, w in (sides[0], sides[(len(sides) - 1) // 2], sides[-1]))
    looked = "" if len(sides) == count else f", of {len(sides)} that were looked at"
    return f"{low} to {high} pixels (median {middle}{looked})"
