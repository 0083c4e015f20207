"""Nesterov momentum, exact for a scheduled learning rate and a scheduled decay."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.cascade import average
from nested_jax._core.checks import (
    check_number_or_schedule,
    check_unit_interval,
)
from nested_jax._core.dtypes import (
    check_updates,
    incremented,
    narrowed,
    transformation,
    with_arrays,
    zeros_widened,
)
from nested_jax._core.states import find_one
from nested_jax._core.types import OptState, Params, ScalarOrSchedule, Schedule, Updates
from nested_jax.transforms._rate import check_rate, rate_at, value_at


class ScaleByNesterovMomentumState(NamedTuple):
    r"""State of `scale_by_nesterov_momentum`.

    Attributes:
        count: Number of updates so far, int32.
        velocity: The last step s of the iterate, shaped like the parameters, in their dtype or
            float32 if that is wider.
        decay: The scalar decay :math:`\rho_t` of the look-ahead: the parameters are
            :math:`\theta_t + \rho_t s_t`. It is 0 before the first update, as is s.
        rate: The learning rate of the last update, schedule included; read by `with_metrics`.
    """

    count: jax.Array
    velocity: Updates
    decay: jax.Array
    rate: jax.Array


def scale_by_nesterov_momentum(
    learning_rate: ScalarOrSchedule,
    *,
    decay: ScalarOrSchedule = 0.9,
    schedule: Schedule | None = None,
) -> optax.GradientTransformation:
    r"""Take Nesterov steps; the parameters are the look-ahead point.

    From :math:`\theta_0` and :math:`s_0 = 0`, for t = 0, 1, ...,

    .. math::

        s_{t+1} = \rho_t s_t - \eta_t \alpha_t \nabla R(\theta_t + \rho_t s_t), \quad
        \theta_{t+1} = \theta_t + s_{t+1} .

    The parameters hold the look-ahead point :math:`p_t = \theta_t + \rho_t s_t`:

    .. math::

        u = -\eta_t \alpha_t g(p_t), \quad s_{t+1} = \rho_t s_t + u, \quad
        p_{t+1} = p_t + \rho_{t+1} s_{t+1} + u .

    The learning rate is *inside* the sum, so this is exact for any schedule of learning rate and
    decay. `optax.sgd(nesterov=True)` rescales the sum of gradients instead, which is the same only
    while both are constant. `nesterov_iterate` returns :math:`\theta_t`; with 16-bit parameters, up
    to the rounding of :math:`p_t`. With decay 0 this is plain gradient descent.

    On a quadratic with condition number :math:`\kappa` and largest curvature L, the error shrinks
    by a factor :math:`1 - 1 / \sqrt\kappa` per step with :math:`\alpha = 1 / L` and
    :math:`\rho = (\sqrt\kappa - 1) / (\sqrt\kappa + 1)`.

    Args:
        learning_rate: :math:`\alpha \ge 0`, or a function of the step (from 0); may be traced.
        decay: :math:`\rho \in [0, 1)`, or a function of the step; may be traced. Step t
            evaluates a function for :math:`\rho_{t+1}`. A number that changes between calls, as
            under `optax.inject_hyperparams`, is also :math:`\rho_{t+1}`, so the iterate is exact.
        schedule: :math:`\eta`, a function of the step (from 0) that multiplies the learning rate;
            1 if not given.

    Returns:
        A complete optimizer step, with its sign; add its updates to the parameters. It takes any
        tree of float or complex arrays; shapes and dtypes are kept, and `params` is not used. Its
        state holds one copy of the parameters.

    Raises:
        TypeError: If `learning_rate` or `decay` is neither a number nor callable, or `schedule` is
            not callable.
        ValueError: If a concrete learning rate is negative or not finite, or a decay lies outside
            [0, 1).

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_nesterov_momentum(0.5, decay=0.5)
        >>> params = jnp.array(1.0)
        >>> update, state = tx.update(params, tx.init(params))  # the gradient of p^2 / 2 is p
        >>> params = params + update
        >>> params, nj.nesterov_iterate(params, state)  # p = theta + 0.5 s, theta = 1 - 0.5
        (Array(0.25, dtype=float32), Array(0.5, dtype=float32))

    References:
        Nesterov (1983), Soviet Mathematics Doklady 27, 372-376, in the form of Sutskever, Martens,
        Dahl & Hinton (2013), equations 3 and 4. The look-ahead point as parameters: Bengio,
        Boulanger-Lewandowski & Pascanu (2013), section 3.5, doi:10.48550/arXiv.1212.0901.
    """
    learning_rate = check_rate(learning_rate, schedule)
    decay = check_number_or_schedule("decay", decay, check_unit_interval)

    def init_fn(params):
        count = jnp.zeros((), jnp.int32)
        scalars = (jnp.zeros((), float) for _ in range(2))
        return ScaleByNesterovMomentumState(count, zeros_widened(params), *scalars)

    def update_fn(updates, state, params):
        del params
        check_updates(updates, state.velocity)
        rate = rate_at(learning_rate, schedule, state.count, state.rate.dtype)
        count = incremented(state.count)
        # The next decay. The parameters already look ahead by the present one.
        ahead = value_at("decay", decay, count, state.decay.dtype, check_unit_interval)
        velocity = average(state.decay, -rate, state.velocity, updates)
        step = average(ahead, -rate, velocity, updates)
        state = ScaleByNesterovMomentumState(count, velocity, ahead, rate)
        return narrowed(step, updates), state

    return transformation(init_fn, update_fn, ScaleByNesterovMomentumState)


def nesterov_iterate(params: Params, state: OptState) -> Params:
    r"""Return the iterate of Nesterov's method, from which the parameters look ahead.

    .. math:: \theta_t = p_t - \rho_t s_t .

    Args:
        params: The parameters p after the optimizer's last update.
        state: The optimizer's state, possibly nested in that of `optax.chain`, `masked`,
            `inject_hyperparams`, `MultiSteps` etc. Masked parameters are returned unchanged.

    Returns:
        :math:`\theta`, with the structure, shapes and dtypes of `params`.

    Raises:
        ValueError: If `state` does not hold exactly one `ScaleByNesterovMomentumState`.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.nesterov(0.5, decay=0.5)
        >>> update, state = tx.update(jnp.array(1.0), tx.init(jnp.array(1.0)))
        >>> nj.nesterov_iterate(1.0 + update, state)  # a step of -0.5; p is 0.25 ahead
        Array(0.5, dtype=float32)
    """
    state = find_one(state, ScaleByNesterovMomentumState)

    def is_masked(node):
        return isinstance(node, optax.MaskedNode)

    def leaf(s, p):
        if is_masked(s):
            return p
        return (p.astype(s.dtype) - state.decay.astype(s.dtype) * s).astype(p.dtype)

    return jax.tree.map(leaf, state.velocity, with_arrays(params), is_leaf=is_masked)
