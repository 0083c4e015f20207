"""Schedules that rise before they fall."""

import jax.numpy as jnp

from nested_jax._core.checks import check_fraction, check_reals, is_traced, keeps, record
from nested_jax._core.types import ScalarLike
from nested_jax.schedules._pairs import at_most, difference, pair
from nested_jax.schedules._schedule import Schedule, float_of, made, one_cycle, whole_number


def warmup_linear_decay(
    total_steps: ScalarLike, *, warmup_steps: ScalarLike, floor: ScalarLike = 0.0
) -> Schedule:
    r"""Ramp the multiplier up to 1, then decay it to `floor`, both along straight lines.

    .. math::

        \eta_t = \begin{cases}
            (t + 1) / W & t < W \\
            f + (1 - f)\, (T - t) / (T - W) & W \le t < T \\
            f & t \ge T
        \end{cases}

    The multiplier is 1 at the steps W - 1 and W. With concrete numbers this is
    `optax.join_schedules` of `optax.linear_schedule(1 / W, 1, W - 1)` and
    `optax.linear_schedule(1, f, T - W)` at step W. Without a warm-up (W = 0) it is
    `optax.linear_schedule(1, f, T)`.

    Args:
        total_steps: T >= 1, a whole number; may be traced.
        warmup_steps: W from 0 to T, a whole number; may be traced.
        floor: f in [0, 1]; may be traced.

    Returns:
        A schedule of one cycle of T steps.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If a concrete value is out of range, or W is greater than T.

    Example:
        >>> import nested_jax as nj
        >>> schedule = nj.warmup_linear_decay(6, warmup_steps=2)
        >>> [float(schedule(step)) for step in range(7)]
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    References:
        Devlin et al., BERT: pre-training of deep bidirectional transformers (2019), appendix A.2,
        doi:10.48550/arXiv.1810.04805. Their ramp starts at 0, so that the first step is lost; here
        it starts at 1 / W.
    """
    valid, total_steps = whole_number("total_steps", total_steps, 1)
    whole, warmup_steps = whole_number("warmup_steps", warmup_steps, 0)
    valid &= whole & _at_most_total(warmup_steps, total_steps)
    floor = check_fraction("floor", floor)
    dtype = float_of(total_steps, warmup_steps, floor)

    def multiplier(step):
        total = pair(total_steps, dtype)
        # Of whole numbers with W < T, the difference is at least 1; W = T leaves no decay.
        span = jnp.maximum(difference(total, pair(warmup_steps, dtype)), 1)
        remaining = jnp.clip(difference(total, pair(step, dtype)) / span, 0, 1)
        decayed = remaining + jnp.asarray(floor, dtype) * (1 - remaining)
        # One factor is 1 wherever the other is below 1.
        return _ramp(step, warmup_steps, dtype) * decayed

    return made(valid, multiplier, one_cycle(total_steps, dtype))


def _at_most_total(warmup_steps, total_steps):
    """Raise if a concrete warm-up is longer than the run; return whether it fits."""
    if not is_traced(total_steps):
        total = float(total_steps)
        rule = f"be at most `total_steps` = {total_steps}"
        return keeps("warmup_steps", warmup_steps, rule, lambda x: x <= total)
    if not is_traced(warmup_steps):  # Check it later.
        record(total_steps, lambda total: _at_most_total(warmup_steps, total))
    # Pairs, because float32 rounds large integers, and int32 does not hold every Python integer.
    dtype = float_of(total_steps, warmup_steps)
    return at_most(pair(warmup_steps, dtype), pair(total_steps, dtype))


def with_warmup(schedule: Schedule, steps: ScalarLike) -> Schedule:
    r"""Add a linear warm-up: multiply a schedule by :math:`\min(1, (t + 1) / W)`.

    The ramp starts at 1 / W and reaches 1 at step W - 1. It does not delay the schedule.

    Args:
        schedule: A `Schedule`.
        steps: W >= 0, a whole number; may be traced. 0 means no warm-up.

    Returns:
        A schedule with the cycles of `schedule`.

    Raises:
        TypeError: If `schedule` is not a `Schedule`, or `steps` is not a number.
        ValueError: If `steps` is not a whole number or negative.

    Example:
        >>> import nested_jax as nj
        >>> schedule = nj.with_warmup(nj.constant(100), 4)
        >>> [float(schedule(step)) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"`schedule` must be a Schedule, which has cycles, got {schedule!r}.")
    valid, steps = whole_number("steps", steps, 0)

    def multiplier(step):
        value = schedule(step)
        check_reals("schedule(step)", value)
        value = jnp.asarray(value)
        dtype = float_of(value, steps)
        return _ramp(step, steps, dtype) * value

    return made(valid, multiplier, schedule.cycle_steps)


def _ramp(step, steps, dtype):
    """Return min(1, (step + 1) / steps); 1 without a warm-up."""
    # Cast the counter before adding 1: it may be the largest integer.
    done = jnp.asarray(step, dtype) + 1
    return jnp.minimum(done / jnp.maximum(jnp.asarray(steps, dtype), 1), 1)
