"""Schedules that stay at 1 or fall: constant, drops, cosines, restarts."""

import contextlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import (
    check_at_least,
    check_fraction,
    increasing_fractions,
    is_traced,
    keeps,
    unwrapped,
)
from nested_jax._core.types import ScalarLike
from nested_jax.schedules._cycles import cycle, leaps, minus_one, passed
from nested_jax.schedules._pairs import difference, pair
from nested_jax.schedules._schedule import Schedule, float_of, made, one_cycle, whole_number


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
    valid, total_steps = whole_number("total_steps", total_steps, 1)
    dtype = float_of(total_steps)
    return made(valid, lambda step: jnp.ones(jnp.shape(step), dtype), one_cycle(total_steps, dtype))


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
    valid, total_steps = whole_number("total_steps", total_steps, 1)
    increasing, drops = increasing_fractions("drops", drops)
    valid &= increasing
    factor = check_fraction("factor", factor)
    dtype = float_of(total_steps, factor, *drops)

    def multiplier(step):
        clock, value = pair(step, dtype), jnp.ones(jnp.shape(step), dtype)
        for drop in drops:
            # A product, not a power: exact for factors such as 1/2, and differentiable at 0.
            behind = passed(drop, total_steps, clock)
            value = value * jnp.where(behind, jnp.asarray(factor, dtype), 1)
        return value

    return made(valid, multiplier, one_cycle(total_steps, dtype))


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
    valid, total_steps = whole_number("total_steps", total_steps, 1)
    floor = check_fraction("floor", floor)
    dtype = float_of(total_steps, floor)

    def multiplier(step):
        total = pair(total_steps, dtype)
        remaining = difference(total, pair(step, dtype))
        return _half_cosine(remaining / total.high, floor, dtype)

    return made(valid, multiplier, one_cycle(total_steps, dtype))


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
    dtype = float_of(first_cycle, growth, floor)
    known = not (is_traced(first_cycle) or is_traced(growth))
    # A schedule may be built inside a trace and used after it, so known numbers leave no tracers.
    with jax.ensure_compile_time_eval() if known else contextlib.nullcontext():
        table = leaps(pair(first_cycle, dtype), minus_one(growth, dtype))

    def at(step):
        return cycle(table, pair(first_cycle, dtype), minus_one(growth, dtype), pair(step, dtype))

    def multiplier(step):
        remaining, steps = at(step)
        return _half_cosine(remaining / steps, floor, dtype)

    return made(valid, multiplier, lambda step: at(step)[1])


def _half_cosine(remaining, floor, dtype):
    """Return the multiplier when the fraction `remaining` of a cycle is left."""
    # Not (1 + cos) / 2, which cancels where the cosine is near -1.
    raised = jnp.sin(jnp.pi / 2 * jnp.clip(remaining, 0, 1)) ** 2
    floor = jnp.asarray(floor, dtype)
    return raised + floor * (1 - raised)
