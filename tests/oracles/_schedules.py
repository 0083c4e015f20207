"""Schedules, and steps along given directions that they scale."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

from tests.oracles._trees import Array, at


class Schedule(NamedTuple):
    """A multiplier eta(step) that knows how many steps the cycle of `step` has."""

    multiplier: Callable[[int], float]
    cycle_steps: Callable[[int], float]

    def __call__(self, step: int) -> float:
        """Return eta at the 0-based step."""
        return self.multiplier(step)


def multiplier(schedule: Schedule | None, step: int) -> float:
    """Return eta at the step; no schedule is eta = 1."""
    return 1.0 if schedule is None else schedule(step)


def constant(total: int) -> Schedule:
    """Return eta = 1 for a run of `total` steps."""
    return Schedule(lambda step: 1.0, lambda step: float(total))


def step_drop(total: int, drops=(0.3, 0.6, 0.8), factor: float = 0.1) -> Schedule:
    """Multiply by `factor` at each of `drops`, fractions of the run (AdamW 2019, section 4.1).

    A drop takes effect at the first integer step with step >= drop * total. The product is exact,
    the drop being the decimal it is written as (0.3 is 3/10, not the nearest binary number).
    """
    boundaries = [Fraction(str(drop)) * total for drop in drops]
    return Schedule(
        lambda step: math.prod([factor for boundary in boundaries if step >= boundary], start=1.0),
        lambda step: float(total),
    )


def half_cosine(fraction: float, floor: float) -> float:
    """Return floor + (1 - floor) (1 + cos(pi fraction)) / 2 (SGDR 2017, eq. 5)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))


def cosine(total: int, floor: float = 0.0) -> Schedule:
    """Fall from 1 to `floor` along half a cosine; `floor` from step `total` on."""
    return Schedule(lambda step: half_cosine(min(1.0, step / total), floor), lambda _: float(total))


def warm_restarts(first_cycle: int, growth: float = 1.0, floor: float = 0.0) -> Schedule:
    """Restart the cosine, cycle i having T_i = T_0 growth^i steps (SGDR 2017, eq. 5).

    Cycle i holds the steps with start_i <= step < start_i + T_i: step T_0 is the first of the next.
    Lengths are exact rationals, never rounded to whole steps; `growth` is the decimal it is written
    as (T_0 = 100 and 1.1 restart at 210, where float64 says 210.00000000000003).
    """
    assert growth >= 1, "Shrinking cycles would never reach late steps."

    def cycle(step):  # T_cur / T_i and T_i
        start, length = Fraction(0), Fraction(str(first_cycle))
        while step >= start + length:
            start += length
            length *= Fraction(str(growth))
        return float((step - start) / length), float(length)

    return Schedule(lambda step: half_cosine(cycle(step)[0], floor), lambda step: cycle(step)[1])


def warmup_linear_decay(total: int, *, warmup_steps: int, floor: float = 0.0) -> Schedule:
    """Rise to 1 in `warmup_steps`, then fall to `floor` at step `total` (BERT 2019, A.2).

    The rise is (step + 1) / `warmup_steps`, which is not 0 at step 0, and the fall begins at step
    `warmup_steps`.
    """

    def eta(step):
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if step >= total:
            return floor
        return floor + (1 - floor) * (total - step) / (total - warmup_steps)

    return Schedule(eta, lambda _: float(total))


def with_warmup(schedule: Schedule, steps: int) -> Schedule:
    """Multiply a schedule by min(1, (step + 1) / steps); `steps` = 0 means no warm-up.

    The ramp starts at 1/steps, not at 0, and is 1 first at step `steps` - 1. The inner schedule is
    not delayed: both clocks start at step 0, and the cycle is the inner one's.
    """
    ramp = (lambda step: min(1.0, (step + 1) / steps)) if steps else (lambda step: 1.0)
    return Schedule(lambda step: ramp(step) * schedule(step), schedule.cycle_steps)


def walk(theta, directions, learning_rate, schedule) -> Iterator[Array]:
    """Step theta <- theta - eta_t alpha_t u_t along given directions."""
    for step, u in enumerate(directions):
        theta = theta - multiplier(schedule, step) * at(learning_rate, step) * u
        yield theta
