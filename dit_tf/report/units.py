"""Numbers as a reader takes them in: multiply-adds in short units, steps in thousands."""

_UNITS = ((1e18, "EMACs"), (1e15, "PMACs"), (1e12, "TMACs"), (1e9, "GMACs"), (1e6, "MMACs"), (1e3, "kMACs"))


def unit_of(values):
    """(divisor, "GMACs"): the largest unit that leaves the largest number above 1."""
    return next((unit for unit in _UNITS if max(values) >= unit[0]), _UNITS[-1])


def step_name(step):
    return plain(step) if step < 10_000 else f"{plain(step / 1000)}k"


def plain(value):
    return f"{value:,.0f}".replace(",", " ") if value >= 10_000 else f"{value:g}"
