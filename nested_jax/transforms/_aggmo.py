"""Aggregated momentum: the mean of momentum buffers with several decays."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from nested_jax._core.cascade import average, check_decays
from nested_jax._core.dtypes import check_updates, narrowed, transformation, zeros_widened
from nested_jax._core.types import ScalarLike, Updates


class ScaleByAggmoState(NamedTuple):
    """State of `scale_by_aggmo`, which needs no step count.

    Attributes:
        momenta: One tree per decay, in their order: the sum v, shaped like the parameters, in their
            dtype or float32 if that is wider.
    """

    momenta: tuple[Updates, ...]


def scale_by_aggmo(
    decays: Sequence[ScalarLike] | np.ndarray | jax.Array = (0.0, 0.9, 0.99),
) -> optax.GradientTransformation:
    r"""Replace updates by the mean of their sums with several decays.

    .. math:: v_i \leftarrow \beta_i v_i + u, \quad i = 1, \dots, K, \quad \text{from } v_i = 0,

    and return :math:`\frac{1}{K} \sum_i v_i`, so the learning rate is that of the paper. Each
    buffer is that of `scale_by_accumulated_momentum`, which this transform equals for one decay.
    Slow buffers gather speed along directions of low curvature. Fast buffers damp the oscillations
    of the slow ones. The gain on a constant update is the mean of :math:`1 / (1 - \beta_i)`.
    `theory.aggmo` is its state space.

    Args:
        decays: :math:`\beta_1, \dots, \beta_K \in [0, 1)`: a sequence of scalars or an array of
            shape (K,). K >= 1 is static, the values may be traced. The defaults are the paper's.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. Its state holds K copies of the parameters.

    Raises:
        TypeError: If an entry of `decays` is not a number.
        ValueError: If `decays` is empty or an array of rank other than 1, or a concrete decay lies
            outside [0, 1).

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_aggmo([0.0, 0.5])
        >>> state = tx.init(jnp.zeros(()))
        >>> for _ in range(3):
        ...     update, state = tx.update(jnp.ones(()), state)
        >>> float(update)  # The mean of 1 and 1 + 0.5 + 0.25
        1.375

    References:
        Lucas, Sun, Zemel & Grosse (2019), equation 3, doi:10.48550/arXiv.1804.00325. Departure:
        their velocities contain the minus sign of the step; here it comes with the learning rate.
    """
    decays = check_decays(decays, least=1)

    def init_fn(params):
        return ScaleByAggmoState(momenta=tuple(zeros_widened(params) for _ in decays))

    def update_fn(updates, state, params):
        del params
        if len(state.momenta) != len(decays):
            rule = f"`state` must be of {len(decays)} decays"
            raise ValueError(f"{rule}, got {len(state.momenta)} momenta.")
        check_updates(updates, state.momenta[0])
        momenta = tuple(
            average(decay, 1.0, v, updates) for decay, v in zip(decays, state.momenta, strict=True)
        )
        mean = jax.tree.map(lambda *vs: sum(vs) / len(vs), *momenta)
        return narrowed(mean, updates), ScaleByAggmoState(momenta=momenta)

    return transformation(init_fn, update_fn, ScaleByAggmoState)
