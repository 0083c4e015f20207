"""Quasi-hyperbolic momentum: a mixture of the gradient and its exponential average."""

from typing import NamedTuple

import optax

from nested_jax._core.cascade import average
from nested_jax._core.checks import check_fraction, check_unit_interval
from nested_jax._core.dtypes import (
    check_updates,
    complement,
    narrowed,
    transformation,
    zeros_widened,
)
from nested_jax._core.types import ScalarLike, Updates


class ScaleByQhmState(NamedTuple):
    """State of `scale_by_qhm`, which needs no step count.

    Attributes:
        momentum: The average m, shaped like the parameters, in their dtype or float32 if that is
            wider.
    """

    momentum: Updates


def scale_by_qhm(
    decay: ScalarLike = 0.999, *, nu: ScalarLike = 0.7
) -> optax.GradientTransformation:
    r"""Mix updates with their exponential average.

    .. math:: m \leftarrow \beta m + (1 - \beta) u, \quad m_0 = 0,

    and return :math:`(1 - \nu) u + \nu m`. With :math:`\nu = 1` this is averaged momentum,
    `scale_by_nested_momentum([decay])`, with :math:`\nu = 0` plain gradient descent, and with
    :math:`\nu = \beta` Nesterov's momentum times :math:`1 - \beta`. The gain on a constant update
    is 1. `theory.qhm` is its state space.

    Args:
        decay: :math:`\beta \in [0, 1)`, may be traced. The default is the paper's.
        nu: :math:`\nu \in [0, 1]`, the share of the average, may be traced. The default is the
            paper's.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. Its state holds one copy of the parameters.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If a concrete `decay` lies outside [0, 1), or a concrete `nu` outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_qhm(0.5, nu=0.5)
        >>> update, state = tx.update(jnp.ones(()), tx.init(jnp.zeros(())))
        >>> float(update)  # half of 1 and half of the average, 0.5
        0.75

    References:
        Ma & Yarats (2019), equations 3 and 4, doi:10.48550/arXiv.1810.06801.
    """
    decay = check_unit_interval("decay", decay)
    nu = check_fraction("nu", nu)

    def init_fn(params):
        return ScaleByQhmState(momentum=zeros_widened(params))

    def update_fn(updates, state, params):
        del params
        check_updates(updates, state.momentum)
        momentum = average(decay, complement(decay), state.momentum, updates)
        mixture = average(nu, complement(nu), momentum, updates)
        return narrowed(mixture, updates), ScaleByQhmState(momentum=momentum)

    return transformation(init_fn, update_fn, ScaleByQhmState)
