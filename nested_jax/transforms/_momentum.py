"""Heavy-ball momentum: an accumulated sum of updates."""

from typing import NamedTuple

import jax
import optax

from nested_jax._core.checks import check_unit_interval
from nested_jax._core.dtypes import (
    cast,
    check_updates,
    in_dtype,
    narrowed,
    transformation,
    zeros_widened,
)
from nested_jax._core.types import ScalarLike, Updates


class ScaleByAccumulatedMomentumState(NamedTuple):
    """State of `scale_by_accumulated_momentum`.

    Attributes:
        momentum: The sum s, shaped like the parameters, in their dtype or float32 if that is wider.
    """

    momentum: Updates


def scale_by_accumulated_momentum(decay: ScalarLike = 0.9) -> optax.GradientTransformation:
    r"""Replace updates by their exponentially weighted sum.

    .. math:: s \leftarrow \rho s + u, \quad s_0 = 0,

    and return s. The gain on a constant update is :math:`1 / (1 - \rho)`; to keep the step size
    when you add momentum, multiply the learning rate by :math:`1 - \rho`. This is `optax.trace`,
    except that the sum is float32 or wider (in bfloat16 a decay of 0.999 rounds to 1 and never
    forgets) and a traced decay does not change dtypes. The average of two levels,
    `scale_by_nested_momentum([rho])`, is this sum times :math:`1 - \rho`.

    Args:
        decay: :math:`\rho \in [0, 1)`, may be traced.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. Its state holds one copy of the parameters.

    Raises:
        TypeError: If `decay` is not a number.
        ValueError: If a concrete `decay` lies outside [0, 1).

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_accumulated_momentum(0.5)
        >>> state = tx.init(jnp.zeros(()))
        >>> for _ in range(3):
        ...     update, state = tx.update(jnp.ones(()), state)
        >>> float(update)  # 1 + 0.5 + 0.25, tends to 2
        1.75

    References:
        Polyak (1964), doi:10.1016/0041-5553(64)90137-5.
    """
    decay = check_unit_interval("decay", decay)

    def init_fn(params):
        return ScaleByAccumulatedMomentumState(momentum=zeros_widened(params))

    def update_fn(updates, state, params):
        del params
        check_updates(updates, state.momentum)
        factor = in_dtype(decay)
        momentum = jax.tree.map(
            lambda s, u: factor(s.dtype)[0] * s + cast(u, s.dtype), state.momentum, updates
        )
        return narrowed(momentum, updates), ScaleByAccumulatedMomentumState(momentum=momentum)

    return transformation(init_fn, update_fn, ScaleByAccumulatedMomentumState)
