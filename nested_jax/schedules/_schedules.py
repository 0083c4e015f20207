"""Schedules: multipliers of the learning rate that know the length of their cycles."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import (
    check_at_least,
    check_callable,
    check_fraction,
    check_reals,
    increasing_fractions,
    is_traced,
    keeps,
    or_nan,
    record,
    unwrapped,
)
from nested_jax._core.dtypes import widened
from nested_jax._core.types import ScalarLike
from nested_jax.schedules._cycles import cycle, leaps, minus_one, passed
from nested_jax.schedules._pairs import at_most, difference, pair


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


def constant(total_steps: ScalarLike) -> Schedule:
    r"""Keep the learning rate: :math:`\eta_t = 1`, one cycle of `total_steps` steps.

    Args:
        total_steps: T >= 1, a whole number; may be traced.

    Returns:
        A schedule. Like all schedules here, it takes integer or floating steps of any shape. It
        returns JAX's default float dtype, or that of float arrays among the arguments; always
        float32 or wider.

    Raises:
        TypeError: If `total_steps` is not a number.
        ValueError: If it is not a whole number of at least 1.

    Example:
        >>> import nested_jax as nj
        >>> schedule = nj.constant(500)
        >>> float(schedule(3)), float(schedule.cycle_steps(3))
        (1.0, 500.0)
    """
    valid, total_steps = _whole("total_steps", total_steps, 1)
    dtype = _float(total_steps)
    return _made(valid, lambda step: jnp.ones(jnp.shape(step), dtype), _one(total_steps, dtype))


def step_drop(
    total_steps: ScalarLike,
    *,
    drops: Sequence[ScalarLike] | np.ndarray | jax.Array = (0.3, 0.6, 0.8),
    factor: ScalarLike = 0.1,
) -> Schedule:
    r"""Multiply the learning rate by `factor` at given fractions of the run.

    .. math:: \eta_t = \gamma^{|\{k : t \ge d_k T\}|}

    With concrete numbers this is `optax.piecewise_constant_schedule`. A step that is less than
    :math:`d_k T` by at most :math:`2^{-40} d_k T` counts as reaching it. In float32, drops of up to
    four decimals therefore take effect at the exact step for T up to :math:`10^7`. A drop from an
    array is known only to the array's precision :math:`\epsilon` and takes effect
    :math:`\epsilon d_k T / 2` early. In float32 that is the exact step for drops of one decimal and
    T up to :math:`8 \cdot 10^5`.

    Args:
        total_steps: T >= 1, a whole number; may be traced.
        drops: :math:`d_1 < d_2 < \dots` in (0, 1], a sequence or a vector of any static length;
            the values may be traced. The defaults of `drops` and `factor` are the paper's.
        factor: :math:`\gamma \in [0, 1]`; may be traced.

    Returns:
        A schedule of one cycle of T steps.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete value is out of range, or the drops do not increase.

    Example:
        >>> import nested_jax as nj
        >>> schedule = nj.step_drop(10, factor=0.5)
        >>> [float(schedule(step)) for step in (0, 2, 3, 6, 8)]
        [1.0, 1.0, 0.5, 0.25, 0.125]

    References:
        Loshchilov & Hutter, Decoupled weight decay regularization (2019), section 4.1,
        doi:10.48550/arXiv.1711.05101.
    """
    valid, total_steps = _whole("total_steps", total_steps, 1)
    increasing, drops = increasing_fractions("drops", drops)
    valid &= increasing
    factor = check_fraction("factor", factor)
    dtype = _float(total_steps, factor, *drops)

    def multiplier(step):
        clock, value = pair(step, dtype), jnp.ones(jnp.shape(step), dtype)
        for drop in drops:
            # A product, not a power: exact for factors such as 1/2, and differentiable at 0.
            behind = passed(drop, total_steps, clock)
            value = value * jnp.where(behind, jnp.asarray(factor, dtype), 1)
        return value

    return _made(valid, multiplier, _one(total_steps, dtype))


def cosine(total_steps: ScalarLike, *, floor: ScalarLike = 0.0) -> Schedule:
    r"""Decay the multiplier from 1 to `floor` along half a cosine, then hold it.

    .. math::

        \eta_t = f + (1 - f)\, \tfrac12 \left(1 + \cos \frac{\pi \min(t, T)}{T}\right)

    With concrete numbers this is `optax.cosine_decay_schedule(1.0, total_steps, floor)`.

    Args:
        total_steps: T >= 1, a whole number; may be traced.
        floor: f in [0, 1]; may be traced.

    Returns:
        A schedule of one cycle of T steps.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If `total_steps` is not a whole number of at least 1, or `floor` is not in
            [0, 1].

    Example:
        >>> import nested_jax as nj
        >>> schedule = nj.cosine(6, floor=0.5)
        >>> [round(float(schedule(step)), 6) for step in (0, 2, 3, 4, 6, 99)]
        [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]

    References:
        Loshchilov & Hutter, SGDR: stochastic gradient descent with warm restarts (2017),
        equation 5 with one cycle, doi:10.48550/arXiv.1608.03983.
    """
    valid, total_steps = _whole("total_steps", total_steps, 1)
    floor = check_fraction("floor", floor)
    dtype = _float(total_steps, floor)

    def multiplier(step):
        total = pair(total_steps, dtype)
        remaining = difference(total, pair(step, dtype))
        return _half_cosine(remaining / total.high, floor, dtype)

    return _made(valid, multiplier, _one(total_steps, dtype))


def warm_restarts(
    first_cycle: ScalarLike, *, growth: ScalarLike = 1.0, floor: ScalarLike = 0.0
) -> Schedule:
    r"""Decay the multiplier along half a cosine, restarting in cycles that grow.

    Cycle i = 0, 1, ... has :math:`T_i = T_0 g^i` steps and starts at :math:`b_i`,

    .. math::

        b_i = T_0 \sum_{j < i} g^j, \qquad \eta_t = f + (1 - f)\, \tfrac12
        \left(1 + \cos \frac{\pi (t - b_i)}{T_i}\right) \quad \text{for } b_i \le t < b_{i+1}.

    :math:`b_i` is a real number: starts and lengths are not rounded to whole steps. Step
    :math:`T_0` is the first of cycle 1, so :math:`\eta` never quite reaches f, as in
    `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts` (which needs a whole `growth`). With
    :math:`T_0 = 100` and g = 2 the restarts are at 100, 300, 700, 1500.

    The cycle number is found bit by bit from :math:`b_{n+m} = b_m + g^m b_n`, in double-width
    arithmetic. A step less than 1/1500 before :math:`b_i` counts as its first. In float32, for up
    to :math:`2^{24} - 1` cycles, whole :math:`T_0` and g thus restart at the exact step. So do
    other values, unless :math:`b_i` is within :math:`2^{-40} b_i` of 1/1500 past a step. A Python
    `growth` is taken as its printed decimal, an entry of a float32 array as its stored value (1.1
    is 1.10000002), so late restarts of the two may differ.

    Args:
        first_cycle: :math:`T_0 \ge 1`, a real number; may be traced.
        growth: :math:`g \ge 1`; may be traced. Values above :math:`2^{60}` act as :math:`2^{60}`.
        floor: f in [0, 1]; may be traced.

    Returns:
        A schedule whose `cycle_steps` is :math:`T_i`. It is differentiable in all arguments, but
        only once in `first_cycle` and `growth`.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If a concrete value is out of range.

    Example:
        >>> import nested_jax as nj
        >>> schedule = nj.warm_restarts(100, growth=2)
        >>> [round(float(schedule(step)), 6) for step in (0, 50, 100, 200, 300)]
        [1.0, 0.5, 1.0, 0.5, 1.0]
        >>> [float(schedule.cycle_steps(step)) for step in (99, 100, 299, 300)]
        [100.0, 200.0, 200.0, 400.0]

    References:
        Loshchilov & Hutter, SGDR: stochastic gradient descent with warm restarts (2017),
        equation 5, doi:10.48550/arXiv.1608.03983.
    """
    rule = "be at least 1 and finite"
    valid = keeps("first_cycle", first_cycle, rule, lambda x: (x >= 1) & (x < np.inf))
    first_cycle = unwrapped(first_cycle)  # A traced integer stays one, with all its digits.
    growth = check_at_least("growth", growth, 1)
    floor = check_fraction("floor", floor)
    dtype = _float(first_cycle, growth, floor)
    table = leaps(pair(first_cycle, dtype), minus_one(growth, dtype))

    def at(step):
        return cycle(table, pair(first_cycle, dtype), minus_one(growth, dtype), pair(step, dtype))

    def multiplier(step):
        remaining, steps = at(step)
        return _half_cosine(remaining / steps, floor, dtype)

    return _made(valid, multiplier, lambda step: at(step)[1])


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
    valid, total_steps = _whole("total_steps", total_steps, 1)
    whole, warmup_steps = _whole("warmup_steps", warmup_steps, 0)
    valid &= whole & _at_most_total(warmup_steps, total_steps)
    floor = check_fraction("floor", floor)
    dtype = _float(total_steps, warmup_steps, floor)

    def multiplier(step):
        total = pair(total_steps, dtype)
        # Of whole numbers with W < T, the difference is at least 1; W = T leaves no decay.
        span = jnp.maximum(difference(total, pair(warmup_steps, dtype)), 1)
        remaining = jnp.clip(difference(total, pair(step, dtype)) / span, 0, 1)
        decayed = remaining + jnp.asarray(floor, dtype) * (1 - remaining)
        # One factor is 1 wherever the other is below 1.
        return _ramp(step, warmup_steps, dtype) * decayed

    return _made(valid, multiplier, _one(total_steps, dtype))


def _at_most_total(warmup_steps, total_steps):
    """Raise if a concrete warm-up is longer than the run; return whether it fits."""
    if not is_traced(total_steps):
        total = float(total_steps)
        rule = f"be at most `total_steps` = {total_steps}"
        return keeps("warmup_steps", warmup_steps, rule, lambda x: x <= total)
    if not is_traced(warmup_steps):  # Check it later.
        record(total_steps, lambda total: _at_most_total(warmup_steps, total))
    # Pairs, because float32 rounds large integers, and int32 does not hold every Python integer.
    dtype = _float(total_steps, warmup_steps)
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
    valid, steps = _whole("steps", steps, 0)

    def multiplier(step):
        value = schedule(step)
        check_reals("schedule(step)", value)
        value = jnp.asarray(value)
        dtype = _float(value, steps)
        return _ramp(step, steps, dtype) * value

    return _made(valid, multiplier, schedule.cycle_steps)


def _whole(name, value, low):
    """Return whether a number is whole and at least `low`, and the number to use."""
    rule = f"be a whole number of at least {low}"

    def holds(x):
        # A schedule is differentiable in its steps, so a traced number may lie between two steps.
        return (x >= low) & (x < np.inf if is_traced(x) else x % 1 == 0)

    return keeps(name, value, rule, holds), unwrapped(value)


def _made(valid, multiplier, cycle_steps):
    """Return a schedule; its values are NaN unless `valid`."""

    def checked(function):
        def at(step):
            check_reals("step", step)
            if isinstance(step, float) and not math.isfinite(step):
                raise ValueError(f"`step` must be finite, got {step}.")
            return or_nan(valid, function(step))

        return at

    return Schedule(checked(multiplier), checked(cycle_steps))


def _float(*numbers):
    """Return JAX's default float dtype or that of float arrays in `numbers`, at least float32."""
    return widened(jnp.result_type(float, *numbers))


def _one(steps, dtype):
    return lambda step: jnp.full(jnp.shape(step), steps, dtype)


def _ramp(step, steps, dtype):
    """Return min(1, (step + 1) / steps); 1 without a warm-up."""
    # Cast the counter before adding 1: it may be the largest integer.
    done = jnp.asarray(step, dtype) + 1
    return jnp.minimum(done / jnp.maximum(jnp.asarray(steps, dtype), 1), 1)


def _half_cosine(remaining, floor, dtype):
    """Return the multiplier when the fraction `remaining` of a cycle is left."""
    # Not (1 + cos) / 2, which cancels where the cosine is near -1.
    raised = jnp.sin(jnp.pi / 2 * jnp.clip(remaining, 0, 1)) ** 2
    floor = jnp.asarray(floor, dtype)
    return raised + floor * (1 - raised)
