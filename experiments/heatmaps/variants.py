"""The optimizer, axes and units of each heatmap."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optax

import nested_jax as nj
from experiments.heatmaps.config import Variant

# Axes of the heatmaps, from one power of two to another.
RATES = (-11, -1)
"""Learning rates of AdamW."""
CAPS = (-10, 0)
"""Caps of the relative step."""
NORMALIZED_DECAYS = (-9, 2)
"""Weight decays × root of the steps of a cycle; AdamW's paper recommends -5.3 to -4.3."""
THRESHOLDS = (-6, 5)
"""Clip thresholds of Adafactor."""
FIRST_CYCLE = 1 / 15
"""Share of the steps in the first of four cycles, each twice as long as the one before."""
SCHEDULES: dict[str, Callable[[int], nj.Schedule]] = {
    "fixed": nj.constant,
    "step_drop": nj.step_drop,
    "cosine": nj.cosine,
    "warm_restarts": lambda steps: nj.warm_restarts(max(1.0, FIRST_CYCLE * steps), growth=2.0),
}


def cells(variant: Variant, steps: int) -> dict[str, np.ndarray]:
    """Return the two axes of a heatmap, whose values are powers of two."""
    rates = nj.powers_of_two(*(RATES if variant.family == "AdamW" else CAPS))
    if variant.across == "clip_threshold":
        return {"learning_rate": rates, "clip_threshold": nj.powers_of_two(*THRESHOLDS)}
    # Both heatmaps of a schedule cover the same decays, each in its own units. The unit of a
    # normalized decay is the power of two closest to the root of the steps.
    shift = 0 if variant.normalized else round(np.log2(steps) / 2)
    low, high = NORMALIZED_DECAYS
    return {"learning_rate": rates, "weight_decay": nj.powers_of_two(low - shift, high - shift)}


def optimizer(
    variant: Variant, steps: int, learning_rate: Any, across: Any
) -> optax.GradientTransformation:
    """Return the optimizer of a cell."""
    if variant.schedule is None:
        return nj.adafactor(learning_rate, b1=variant.momentum, clip_threshold=across)
    schedule = SCHEDULES[variant.schedule](steps)
    if variant.family == "factored AdamW":
        return nj.factored_adamw(
            learning_rate, weight_decay=across, b1=variant.momentum, schedule=schedule
        )
    assert variant.momentum is not None
    return nj.adamw(
        learning_rate,
        weight_decay=across,
        b1=variant.momentum,
        normalized=variant.normalized,
        schedule=schedule,
    )


def units(variant: Variant) -> dict[str, str]:
    """Return the units of axes and results."""
    decay = "per √step" if variant.normalized else "per step"
    across = {"weight_decay": decay, "clip_threshold": "root mean square"}[variant.across]
    losses = dict.fromkeys(("train_loss", "test_loss"), "nats")
    errors = dict.fromkeys(("train_error", "test_error"), "share of images")
    return {"learning_rate": "per step", variant.across: across, **losses, **errors}
