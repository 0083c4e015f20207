"""The record of a schedule, and what all schedules check and return."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import check_callable, check_reals, is_traced, keeps, or_nan, unwrapped
from nested_jax._core.dtypes import widened
from nested_jax._core.types import ScalarLike


@dataclasses.dataclass(frozen=True)
class Schedule:
    r"""A learning-rate multiplier :math:`\eta_t \in [0, 1]` that knows its cycle length.

    Call it with the step, counted from 0, like an optax schedule.

    Attributes:
        multiplier: Function from the step to :math:`\eta_t`.
        cycle_steps: Function from the step to the number of steps in its cycle, for normalized
            weight decay.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> schedule = nj.Schedule(lambda step: 1 / jnp.sqrt(step + 1.0), lambda step: 1000.0)
        >>> float(schedule(3)), schedule.cycle_steps(3)
        (0.5, 1000.0)
    """

    multiplier: Callable[[Any], Any]
    cycle_steps: Callable[[Any], Any]

    def __post_init__(self):
        check_callable("multiplier", self.multiplier)
        check_callable("cycle_steps", self.cycle_steps)

    def __call__(self, step: ScalarLike) -> ScalarLike:
        """Return the multiplier at a step, counted from 0."""
        return self.multiplier(step)


def whole_number(name, value, low):
    """Return whether a number is whole and at least `low`, and the number to use."""
    rule = f"be a whole number of at least {low}"

    def holds(x):
        # A schedule is differentiable in its steps, so a traced number may lie between two steps.
        return (x >= low) & (x < np.inf if is_traced(x) else x % 1 == 0)

    return keeps(name, value, rule, holds), unwrapped(value)


def made(valid, multiplier, cycle_steps):
    """Return a schedule; its values are NaN unless `valid`."""

    def checked(function):
        def at(step):
            check_reals("step", step)
            if isinstance(step, float) and not math.isfinite(step):
                raise ValueError(f"`step` must be finite, got {step}.")
            return or_nan(valid, function(step))

        return at

    return Schedule(checked(multiplier), checked(cycle_steps))


def float_of(*numbers):
    """Return JAX's default float dtype or that of float arrays in `numbers`, at least float32."""
    return widened(jnp.result_type(float, *numbers))


def one_cycle(steps, dtype):
    """Return the length of the cycle as a function of the step."""
    return lambda step: jnp.full(jnp.shape(step), steps, dtype)
