"""The 14 optimizers whose heatmaps are drawn: their words, their two numbers, their cells."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import optax

import nested_jax as nj

RATES = (-11, -1)
"""AdamW's learning rates: from the one power of two to the other."""
CAPS = (-10, 0)
"""Caps of the relative step."""
NORMALIZED_DECAYS = (-9, 2)
"""Decays in units of the root of the steps of a cycle; the paper's advice is -5.3 to -4.3."""
THRESHOLDS = (-6, 5)
"""Adafactor's clip thresholds."""
FIRST_CYCLE = 1 / 15
"""Share of a run that the first of its four cycles takes, under warm restarts that double."""


class Variant(NamedTuple):
    """An optimizer with all its words; what is left are two numbers.

    Attributes:
        family: "AdamW", "factored AdamW" or "Adafactor".
        schedule: A word of `SCHEDULES`; None for Adafactor, which has none.
        normalized: Whether the weight decay is.
        momentum: The first moment's decay; None for none.
    """

    family: str
    schedule: str | None
    normalized: bool
    momentum: float | None

    @property
    def title(self) -> str:
        """What it is called in the report."""
        words = [] if self.schedule is None else [self.schedule.replace("_", " ")]
        if self.family == "AdamW":
            words.append("normalized" if self.normalized else "not normalized")
        else:
            words.append("no momentum" if self.momentum is None else f"momentum {self.momentum}")
        return f"{self.family}: {', '.join(words)}"

    @property
    def across(self) -> str:
        """Name of the second number."""
        return "clip_threshold" if self.family == "Adafactor" else "weight_decay"


SCHEDULES: dict[str, Callable[[int], nj.Schedule]] = {
    "fixed": nj.constant,
    "step_drop": nj.step_drop,
    "cosine": nj.cosine,
    "warm_restarts": lambda steps: nj.warm_restarts(max(1.0, FIRST_CYCLE * steps), growth=2.0),
}


def _variants() -> Iterator[tuple[str, Variant]]:
    for normalized, suffix in ((False, ""), (True, "-normalized")):
        for schedule in SCHEDULES:
            yield f"adamw-{schedule}{suffix}", Variant("AdamW", schedule, normalized, 0.9)
    momenta = ((None, ""), (0.9, "-momentum"))
    for schedule in ("cosine", "warm_restarts"):
        for momentum, suffix in momenta:
            name = f"factored-{schedule}{suffix}"
            yield name, Variant("factored AdamW", schedule, True, momentum)
    for momentum, suffix in momenta:
        yield f"adafactor{suffix}", Variant("Adafactor", None, False, momentum)


VARIANTS: dict[str, Variant] = dict(_variants())


def cells(variant: Variant, steps: int) -> dict[str, np.ndarray]:
    """Return the two axes of a heatmap, all of powers of two, for runs of so many steps."""
    low, high = RATES if variant.family == "AdamW" else CAPS
    rates = nj.powers_of_two(low, high)
    if variant.across == "clip_threshold":
        return {"learning_rate": rates, "clip_threshold": nj.powers_of_two(*THRESHOLDS)}
    low, high = NORMALIZED_DECAYS
    # In units of their own both heatmaps of a schedule show the same range of decays.
    shift = 0 if variant.normalized else unit(steps)
    return {"learning_rate": rates, "weight_decay": nj.powers_of_two(low - shift, high - shift)}


def unit(steps: int) -> int:
    """Return the power of two next to the root of the steps: a normalized decay of 1."""
    return round(np.log2(steps) / 2)


def optimizer(
    variant: Variant, steps: int, learning_rate: Any, across: Any
) -> optax.GradientTransformation:
    """Return the optimizer of a cell."""
    schedule = None if variant.schedule is None else SCHEDULES[variant.schedule](steps)
    if variant.family == "AdamW":
        assert variant.momentum is not None
        return nj.adamw(
            learning_rate,
            weight_decay=across,
            b1=variant.momentum,
            normalized=variant.normalized,
            schedule=schedule,
        )
    if variant.family == "factored AdamW":
        return nj.factored_adamw(
            learning_rate, weight_decay=across, b1=variant.momentum, schedule=schedule
        )
    return nj.adafactor(learning_rate, b1=variant.momentum, clip_threshold=across)


def units(variant: Variant) -> dict[str, str]:
    """Return the units of axes and results."""
    decay = "per √step" if variant.normalized else "per step"
    across = {"weight_decay": decay, "clip_threshold": "root mean square"}[variant.across]
    losses = dict.fromkeys(("train_loss", "test_loss"), "nats")
    errors = dict.fromkeys(("train_error", "test_error"), "share of images")
    return {"learning_rate": "per step", variant.across: across, **losses, **errors}
