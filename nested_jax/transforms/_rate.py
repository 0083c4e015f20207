"""Scaling by minus the learning rate: the last link of most optimizers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import (
    check_callable,
    check_non_negative,
    check_number,
    check_number_or_schedule,
)
from nested_jax._core.dtypes import (
    cast,
    check_arrays,
    in_dtype,
    incremented,
    narrowed,
    transformation,
    widened,
)
from nested_jax._core.types import ScalarOrSchedule, Schedule


class ScaleByLearningRateState(NamedTuple):
    """State of `scale_by_learning_rate`.

    Attributes:
        count: Number of updates so far, int32.
        rate: The learning rate of the last update, schedule included; read by `with_metrics`.
    """

    count: jax.Array
    rate: jax.Array


def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule, *, schedule: Schedule | None = None
) -> optax.GradientTransformation:
    r"""Multiply updates by minus the learning rate, times a schedule's multiplier.

    .. math:: u \leftarrow -\eta_t \alpha_t u, \quad t = 0, 1, \dots

    With a number and no schedule this is `optax.scale_by_learning_rate`, except that a traced
    learning rate neither promotes nor rounds 16-bit updates: the product is computed in float32 or
    wider and returned in the dtype of the update.

    Args:
        learning_rate: :math:`\alpha \ge 0`, may be traced; or a function of the step (from 0).
        schedule: :math:`\eta`, a function of the step; 1 if not given. A schedule of optax that
            returns learning rates belongs in `learning_rate`, or the two rates are multiplied.

    Returns:
        A transformation of any tree of float or complex arrays; `params` is not used.

    Raises:
        TypeError: If `learning_rate` is neither a number nor callable, or `schedule` is not
            callable.
        ValueError: If a concrete learning rate, also one that a function returns, is negative,
            infinite or NaN.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_learning_rate(0.5, schedule=lambda step: 0.5**step)
        >>> state = tx.init(jnp.zeros(()))
        >>> for _ in range(3):
        ...     update, state = tx.update(jnp.ones(()), state)
        >>> float(update), float(state.rate)
        (-0.125, 0.125)
    """
    learning_rate = check_rate(learning_rate, schedule)

    def init_fn(params):
        del params
        return ScaleByLearningRateState(count=jnp.zeros((), jnp.int32), rate=jnp.zeros((), float))

    def update_fn(updates, state, params):
        del params
        check_arrays(updates)
        rate = rate_at(learning_rate, schedule, state.count, state.rate.dtype)
        factor = in_dtype(-rate)

        def leaf(u):
            wide = widened(u.dtype)
            return factor(wide)[0] * cast(u, wide)

        count = incremented(state.count)
        return narrowed(jax.tree.map(leaf, updates), updates), ScaleByLearningRateState(count, rate)

    return transformation(init_fn, update_fn, ScaleByLearningRateState)


def check_rate(learning_rate, schedule):
    """Check a learning rate and the schedule that multiplies it; return the rate to use."""
    if schedule is not None:
        check_callable("schedule", schedule)
    if hasattr(learning_rate, "cycle_steps"):
        raise TypeError(
            "`learning_rate` must be a number or a function that returns learning rates, got a "
            "`Schedule`, whose values are multipliers: pass it as `schedule`, beside a number."
        )
    return check_number_or_schedule("learning_rate", learning_rate, check_non_negative)


def value_at(name, value, step, dtype, check=check_number):
    """Return a number, or what a function of the step gives at `step`, as an array.

    Args:
        name: Of the argument, for errors.
        value: The number or the function.
        step: The step, from 0.
        dtype: Of the result.
        check: (name, number) to None, or to the number to use, for what a function gives.
    """
    if callable(value):
        found = value(step)
        checked = check(f"{name}(step)", found)
        value = found if checked is None else checked
    return jnp.asarray(value, dtype)


def rate_at(learning_rate, schedule, step, dtype):
    """Return the learning rate at a step, times the schedule's multiplier."""
    rate = value_at("learning_rate", learning_rate, step, dtype, check_non_negative)
    if schedule is None:
        return rate
    return (rate * value_at("schedule", schedule, step, dtype)).astype(dtype)
