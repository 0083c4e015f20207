"""The optimizer, axes and units of each heatmap."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
WARMUP = 1 / 16
"""Share of the steps in the linear warm-up; common values are 0.01 to 0.1."""
SCHEDULES: dict[str, Callable[[int], nj.Schedule]] = {
    "fixed": nj.constant,
    "step_drop": nj.step_drop,
    "cosine": nj.cosine,
    "warm_restarts": lambda steps: nj.warm_restarts(max(1.0, FIRST_CYCLE * steps), growth=2.0),
    "warmup_linear_decay": lambda steps: nj.warmup_linear_decay(
        steps, warmup_steps=round(WARMUP * steps)
    ),
}
LENGTH_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Lengths that are compared, as multiples of the heatmaps' steps."""
LENGTH_RATES = (-9, -6)
"""Learning rates at which lengths are compared, from one power of two to another."""


def axes_of(variant: Variant, steps: int) -> dict[str, np.ndarray]:
    """Return the two axes of a heatmap, whose values are powers of two."""
    relative = variant.family in ("factored AdamW", "Adafactor")
    rates = nj.powers_of_two(*(CAPS if relative else RATES))
    if variant.across == "clip_threshold":
        return {"learning_rate": rates, "clip_threshold": nj.powers_of_two(*THRESHOLDS)}
    # Both heatmaps of a schedule cover the same decays, each in its own units. The unit of a
    # normalized decay is the power of two closest to the root of the steps.
    shift = 0 if variant.normalized else round(np.log2(steps) / 2)
    low, high = NORMALIZED_DECAYS
    return {"learning_rate": rates, "weight_decay": nj.powers_of_two(low - shift, high - shift)}


def lengths(steps: int) -> list[int]:
    """Return the lengths that are compared, in steps."""
    return sorted({max(1, round(factor * steps)) for factor in LENGTH_FACTORS})


def length_axes() -> dict[str, np.ndarray]:
    """Return rates and normalized decays, the same ones for every length."""
    return {
        "learning_rate": nj.powers_of_two(*LENGTH_RATES),
        "weight_decay": nj.powers_of_two(*NORMALIZED_DECAYS),
    }


class Table(NamedTuple):
    """A schedule at every step of a run: heatmaps that differ in it alone share one program.

    Attributes:
        multiplier: The schedule's multiplier of the learning rate.
        cycle_steps: Number of steps in the cycle of each step.
    """

    multiplier: jax.Array
    cycle_steps: jax.Array


def table(variant: Variant, steps: int) -> Table | None:
    """Return the schedule of a heatmap; Adafactor has its own."""
    if variant.schedule is None:
        return None
    return _table(variant.schedule, steps, jax.dtypes.canonicalize_dtype(float))


@functools.cache
def _table(name: str, steps: int, dtype: Any) -> Table:
    del dtype  # It names the table: what follows computes in it.
    schedule, at = SCHEDULES[name](steps), jnp.arange(steps)
    return Table(jnp.asarray(schedule(at)), jnp.asarray(schedule.cycle_steps(at)))


def optimizer(
    variant: Variant, schedule: Table | None, learning_rate: Any, across: Any
) -> optax.GradientTransformation:
    """Return the optimizer of a cell, under the schedule of its heatmap."""
    if schedule is None:
        return nj.adafactor(learning_rate, b1=variant.momentum, clip_threshold=across)
    known = nj.Schedule(
        lambda step: schedule.multiplier[step], lambda step: schedule.cycle_steps[step]
    )
    if variant.family == "factored AdamW":
        return nj.factored_adamw(
            learning_rate, weight_decay=across, b1=variant.momentum, schedule=known
        )
    assert variant.momentum is not None
    if variant.family == "Adam + L2":
        adam = nj.adam(learning_rate, b1=variant.momentum, schedule=known)
        return optax.chain(optax.add_decayed_weights(across), adam)
    return nj.adamw(
        learning_rate,
        weight_decay=across,
        b1=variant.momentum,
        normalized=variant.normalized,
        schedule=known,
    )


def units(variant: Variant) -> dict[str, str]:
    """Return the units of axes and results."""
    decay = "per √step" if variant.normalized else "per step"
    decay = "nats" if variant.family == "Adam + L2" else decay
    across = {"weight_decay": decay, "clip_threshold": "root mean square"}[variant.across]
    losses = dict.fromkeys(("train_loss", "validation_loss"), "nats")
    errors = dict.fromkeys(("train_error", "validation_error"), "share of images")
    return {"learning_rate": "per step", variant.across: across, **losses, **errors}
