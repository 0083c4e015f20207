"""Adafactor's step size: relative to the parameters and decreasing over time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import check_flag, check_non_negative, check_transformation
from nested_jax._core.dtypes import (
    cast,
    check_arrays,
    check_updates,
    in_dtype,
    incremented,
    narrowed,
    root_mean_square,
    transformation,
    widened,
)
from nested_jax._core.types import OptState, ScalarLike, ScalarOrSchedule, Schedule
from nested_jax.transforms._rate import check_rate, rate_at, value_at

DEFAULT_CAP = 1e-2  # Shazeer & Stern (2018), Algorithm 6.
WARMUP_SLOPE = 1e-6  # From their experiments; meets 1 / sqrt(t) at t = 10,000, where both are 1e-2.


class ScaleByRelativeStepState(NamedTuple):
    r"""State of `scale_by_relative_step`.

    Attributes:
        step: Number of updates so far, int32. Not called `count`, so that
            `optax.tree_utils.tree_get(state, "count")` finds only one in a finished optimizer.
        rate: :math:`\eta_t \rho_t` of the last update, the scale of a leaf with
            :math:`\mathrm{RMS}(\theta) = 1`; read by `with_metrics`.
        average: State of `average`; empty without it.
    """

    step: jax.Array
    rate: jax.Array
    average: OptState = ()


def scale_by_relative_step(
    learning_rate: ScalarOrSchedule | None = None,
    *,
    relative_step: bool = True,
    warmup_init: bool = False,
    scale_by_parameter: bool = True,
    eps: ScalarLike = 1e-3,
    average: optax.GradientTransformation | None = None,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Multiply updates by minus Adafactor's step size.

    With :math:`t = 1, 2, \dots`, for every leaf :math:`\theta` of the parameters,

    .. math::

        u \leftarrow -\eta_t \rho_t \max(\epsilon, \mathrm{RMS}(\theta)) u, \quad
        \rho_t = \min(\bar\rho, 1 / \sqrt t),

    where :math:`\bar\rho` is `learning_rate`. With `warmup_init`,
    :math:`\rho_t = \min(\bar\rho, 1 / \sqrt t, 10^{-6} t)`, which peaks at
    :math:`10^{-2}` when :math:`t = 10^4`. Without `relative_step`, :math:`\rho_t = \bar\rho`.
    Without `scale_by_parameter`, the factor :math:`\max(\epsilon, \mathrm{RMS}(\theta))` is left
    out. Without both, this is `scale_by_learning_rate`.

    With `average`, a transform A, the result is :math:`\eta_t A(-\rho_t \max(\epsilon,
    \mathrm{RMS}(\theta)) u)`: the multiplier acts at once and the rest through the average. All of
    it is computed in float32 or wider and rounded to the dtype of the update once.

    Args:
        learning_rate: The cap :math:`\bar\rho \ge 0`, or the learning rate itself without
            `relative_step`. A number, may be traced, or a function of the step (from 0). Defaults
            to the paper's cap, 1e-2.
        relative_step: Whether :math:`1 / \sqrt t` bounds :math:`\rho_t`. Static.
        warmup_init: Whether :math:`10^{-6} t` also bounds it. Static.
        scale_by_parameter: Whether steps scale with the root mean square of the parameters. Static.
        eps: :math:`\epsilon \ge 0`, which lets parameters move away from 0 (:math:`\epsilon_2` in
            the paper); may be traced.
        average: A transform of the steps before the multiplier, such as
            `scale_by_nested_momentum([0.9])`; none if not given. Static.
        schedule: The multiplier :math:`\eta`, a function of the step (from 0); 1 if not given.

    Returns:
        A transformation of any tree of float or complex arrays. Its `update` needs `params` with
        `scale_by_parameter`; shapes and dtypes are kept. Its state holds two scalars and the state
        of `average`.

    Raises:
        TypeError: If an argument has the wrong type; in `update` with `scale_by_parameter`, if only
            one of an update and its parameter is complex.
        ValueError: If a concrete number is negative, infinite or NaN, or if `relative_step` is off
            and `learning_rate` is missing or `warmup_init` is on; in `update` with
            `scale_by_parameter`, if `params` is missing or differs from the updates in shape.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_relative_step()
        >>> params = jnp.array([3.0, -3.0])
        >>> update, state = tx.update(jnp.array([1.0, 0.0]), tx.init(params), params)
        >>> update  # -min(1e-2, 1 / sqrt(1)) times RMS(params)
        Array([-0.03, -0.  ], dtype=float32)

    References:
        Shazeer & Stern (2018), section 8 and Algorithms 4 to 6, doi:10.48550/arXiv.1804.04235; the
        warm-up is from their experiments. Departure: the cap is an argument, not a constant.
    """
    for name, flag in (
        ("relative_step", relative_step),
        ("warmup_init", warmup_init),
        ("scale_by_parameter", scale_by_parameter),
    ):
        check_flag(name, flag)
    if learning_rate is None and not relative_step:
        raise ValueError("`learning_rate` must be given without `relative_step`, got None.")
    if warmup_init and not relative_step:
        raise ValueError("`warmup_init` must come with `relative_step`, got relative_step=False.")
    cap = DEFAULT_CAP if learning_rate is None else learning_rate
    cap = check_rate(cap, schedule)
    eps = check_non_negative("eps", eps)
    if average is not None:
        check_transformation("average", average)

    def init_fn(params):
        inner = () if average is None else average.init(params)
        step, rate = jnp.zeros((), jnp.int32), jnp.zeros((), float)
        return ScaleByRelativeStepState(step=step, rate=rate, average=inner)

    def capped_rate_at(count, dtype):
        rate = value_at("learning_rate", cap, count, dtype, check_non_negative)
        t = count.astype(dtype) + 1
        if relative_step:
            rate = jnp.minimum(rate, jax.lax.rsqrt(t))
        if warmup_init:
            rate = jnp.minimum(rate, WARMUP_SLOPE * t)
        return rate

    def scaled(updates, rate, params):
        if not scale_by_parameter:
            return jax.tree.map(lambda u: _step(u, rate), updates)
        if params is None:
            raise ValueError("`scale_by_relative_step` needs `params` in `update`, got None.")
        check_updates(updates, params)
        return jax.tree.map(lambda u, p: _step(u, rate, p, eps), updates, params)

    def update_fn(updates, state, params):
        check_arrays(updates)
        step, dtype = state.step, state.rate.dtype
        capped = capped_rate_at(step, dtype)
        rate = rate_at(capped, schedule, step, dtype)
        if average is None:
            steps, inner = scaled(updates, rate, params), state.average
        else:
            wide = jax.tree.map(lambda u: cast(u, widened(u.dtype)), updates)
            steps, inner = average.update(scaled(wide, capped, params), state.average, params)
            multiplier = in_dtype(rate_at(1.0, schedule, step, dtype))
            steps = jax.tree.map(lambda x: multiplier(x.dtype)[0] * x, steps)
            steps = narrowed(steps, updates)
        return steps, ScaleByRelativeStepState(incremented(step), rate, inner)

    return transformation(init_fn, update_fn, ScaleByRelativeStepState)


# Jitted separately, so that all leaves of one shape share one trace.
@jax.jit
def _step(u, rate, param=None, eps=None):
    size = -rate.astype(widened(u.dtype))
    if param is not None:
        rms = root_mean_square(param)
        size = size * jnp.maximum(rms, jnp.asarray(eps, rms.dtype)).astype(size.dtype)
    return (size * u.astype(size.dtype)).astype(u.dtype)
