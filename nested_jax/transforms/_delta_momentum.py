"""Delta momentum: momentum that erases what it holds along the current gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import (
    check_choice,
    check_flag,
    check_non_negative,
    check_unit_interval,
)
from nested_jax._core.dtypes import (
    cast,
    check_updates,
    in_dtype,
    narrowed,
    squared,
    transformation,
    zeros_widened,
)
from nested_jax._core.types import ScalarLike, Updates
from nested_jax.transforms._matrices import adjoint, normalized, product


class ScaleByDeltaMomentumState(NamedTuple):
    """State of `scale_by_delta_momentum`, which needs no step count.

    Attributes:
        momentum: The memory m, shaped like the parameters, in their dtype or float32 if that is
            wider.
    """

    momentum: Updates


def scale_by_delta_momentum(
    decay: ScalarLike = 0.9,
    *,
    erasure: ScalarLike = 1.0,
    reading: str = "matrix",
    normalize: bool = True,
) -> optax.GradientTransformation:
    r"""Accumulate updates in a memory that first erases what it holds along the new update.

    With the update g, the memory m of a leaf, :math:`m_0 = 0`, and the keys K or k made of g,

    =============  ==========================================================  ====================
    `reading`      recurrence, whose m is returned                             keys
    =============  ==========================================================  ====================
    ``"matrix"``   :math:`m \leftarrow \beta m - \rho\, m K^\mathsf{H} K + g`  the rows of a matrix
    ``"vector"``   :math:`m \leftarrow \beta m - \rho\, k k^\mathsf{H} m + g`  the whole leaf
    ``"scalar"``   :math:`m \leftarrow (\beta - \rho \|k\|^2)\, m + g`         the whole leaf
    =============  ==========================================================  ====================

    A leaf of rank above 2 is a batch of matrices for ``"matrix"``, the last axis being that of the
    keys. A leaf of rank below 2 is one row, for which ``"matrix"`` equals ``"vector"``. With
    `erasure` 0 all three are `scale_by_accumulated_momentum`.

    The keys are the update divided by its norm (:math:`K = G / \|G\|`, the Frobenius norm of each
    matrix, or :math:`k = g / \|g\|`), or the update itself if `normalize` is False. **The printed
    form** has raw keys: :math:`m \leftarrow m (\alpha - g^\mathsf{T} g) - \eta P g`, which is
    ``normalize=False, erasure=1.0``. Its bracket is a number for a column g (``"scalar"``) and a
    matrix for a gradient whose rows are the keys (``"matrix"``); public implementations use all
    three readings.

    The printed form is not scale-free. The factor :math:`\alpha - \|g\|^2` of the memory is
    negative once :math:`\|g\|^2 > \alpha`, so old momentum is returned with the wrong sign, and
    below -1 once :math:`\|g\|^2 > 1 + \alpha`, so the memory grows at each step. Normalized keys
    keep every factor of the memory in :math:`[\beta - \rho, \beta]`, which cannot grow for
    :math:`\rho \le 1 + \beta`. With them ``"scalar"`` is momentum of decay :math:`\beta - \rho`.

    Args:
        decay: :math:`\beta \in [0, 1)`, the paper's :math:`\alpha`; may be traced.
        erasure: :math:`\rho \ge 0`, the share of the memory along a key of length 1 that one step
            erases; may be traced.
        reading: ``"matrix"``, ``"vector"`` or ``"scalar"``. Static.
        normalize: Whether to divide the keys by their norm. Static.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used. Its state holds one copy of the parameters. The keys of a zero update
        are 0.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete `decay` lies outside [0, 1), a concrete `erasure` is negative or
            not finite, or `reading` is not one of the three words.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_delta_momentum(0.5)
        >>> state = tx.init(jnp.zeros(2))
        >>> for gradient in ([2.0, 2.0], [1.0, 0.0]):
        ...     update, state = tx.update(jnp.array(gradient), state)
        >>> update  # half of (2, 2), less all of it along (1, 0), plus (1, 0)
        Array([0., 1.], dtype=float32)

    References:
        Behrouz, Razaviyayn, Zhong & Mirrokni (2025), Nested Learning, equations 48 and 49,
        doi:10.48550/arXiv.2512.24695. Departures: keys of length 1 by default; the learning rate
        and its sign come after the transform, and P is the identity.
    """
    decay = check_unit_interval("decay", decay)
    erasure = check_non_negative("erasure", erasure)
    check_choice("reading", reading, READINGS)
    check_flag("normalize", normalize)
    recalled = READINGS[reading]

    def init_fn(params):
        return ScaleByDeltaMomentumState(momentum=zeros_widened(params))

    def update_fn(updates, state, params):
        del params
        check_updates(updates, state.momentum)
        factors = in_dtype(decay, erasure)

        def leaf(m, u):
            keep, erase = factors(m.dtype)
            g = cast(u, m.dtype)
            keys = normalized(g, by_matrix=reading == "matrix") if normalize else g
            return keep * m - erase * recalled(m, keys) + g

        momentum = jax.tree.map(leaf, state.momentum, updates)
        return narrowed(momentum, updates), ScaleByDeltaMomentumState(momentum=momentum)

    return transformation(init_fn, update_fn, ScaleByDeltaMomentumState)


def _recalled_by_rows(m: jax.Array, keys: jax.Array) -> jax.Array:
    """Return m K^H K, K being the last two axes of the keys."""
    if m.ndim < 2:
        return _recalled_by_leaf(m, keys)
    # Graphics cards would round the factors to 10 bits.
    exact = functools.partial(product, precision=jax.lax.Precision.HIGHEST)
    # The smaller of the two squares, so that no product is larger than the leaf needs.
    if m.shape[-2] < m.shape[-1]:
        return exact(exact(m, adjoint(keys)), keys, like=m)
    return exact(m, exact(adjoint(keys), keys), like=m)


def _recalled_by_leaf(m: jax.Array, key: jax.Array) -> jax.Array:
    """Return k (k^H m)."""
    return jnp.sum(jnp.conj(key) * m) * key


def _scaled_by_square(m: jax.Array, key: jax.Array) -> jax.Array:
    """Return |k|^2 m."""
    return jnp.sum(squared(key)) * m


READINGS = {
    "matrix": _recalled_by_rows,
    "vector": _recalled_by_leaf,
    "scalar": _scaled_by_square,
}
