"""Geometric series of numbers and matrices, accurate near 1."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import check_count, check_int_fits, check_reals, is_traced, or_nan
from nested_jax._core.dtypes import complement
from nested_jax._core.types import ScalarLike
from nested_jax.theory._solving import solve


def geometric_sum(ratio: ScalarLike, terms: ScalarLike) -> jax.Array:
    r"""Return the sum of the first powers of a number or a matrix.

    .. math:: S_n = \sum_{i=0}^{n-1} A^i, \quad S_0 = 0 .

    For numbers, the sum is :math:`(1 - r^n) / (1 - r)`, computed without cancellation near r = 1,
    and n at r = 1. For matrices, it is built up by doubling,

    .. math:: S_{p+q} = S_p + A^p S_q,

    in :math:`\log_2 n` products. No inverse is taken, so 1 may be an eigenvalue. For matrices, only
    forward-mode differentiation is supported (`jax.jacfwd`).

    Args:
        ratio: r, a scalar, or A, of shape (size, size); may be traced.
        terms: n >= 0, an integer; may be traced.

    Returns:
        The sum, with the shape and dtype of `ratio`; JAX's default float for other dtypes.

    Raises:
        TypeError: If `terms` is not an integer.
        ValueError: If `ratio` is neither a scalar nor a square matrix, or `terms` is negative.

    Example:
        >>> import jax.numpy as jnp, nested_jax.theory as theory
        >>> float(theory.geometric_sum(0.5, 3)), float(theory.geometric_sum(1.0, 3))
        (1.75, 3.0)
        >>> theory.geometric_sum(jnp.array([[1.0, 1.0], [0.0, 1.0]]), 3)
        Array([[3., 3.],
               [0., 3.]], dtype=float32)
    """
    valid = check_count("terms", terms)
    check_int_fits("terms", terms)
    return or_nan(valid, _geometric_sum(*_as_ratio(ratio), jnp.asarray(terms)))


def _geometric_sum(below, ratio, terms):
    if ratio.ndim:
        return _doubled_sum(ratio, terms)
    # Below 1/2 nothing cancels, and negative numbers have no real logarithm.
    near = ratio > 0.5
    growth = jnp.expm1(terms * jnp.log1p(jnp.where(near, -below, 0)))
    growth = jnp.where(near, growth, jnp.where(near, 1, ratio) ** terms - 1)
    count = terms.astype(ratio.dtype)
    # The value and derivative at 1, where autodiff cannot take the limit.
    at_one = count - count * (count - 1) / 2 * below
    return jnp.where(below == 0, at_one, -growth / jnp.where(below == 0, 1, below))


def geometric_limit(ratio: ScalarLike) -> jax.Array:
    r"""Return the sum of all powers of a number or a matrix.

    .. math:: \sum_{i=0}^{\infty} A^i = (I - A)^{-1},

    computed by solving. The series converges if the spectral radius of A is below 1. This is tested
    by repeated squaring, beyond the precision of the dtype, so everything runs on the device and
    under `jax.jit`.

    Args:
        ratio: r, a scalar, or A, of shape (size, size); may be traced.

    Returns:
        The sum, with the shape of `ratio`. If `ratio` is traced and the series diverges: inf for
        numbers of at least 1, otherwise NaN.

    Raises:
        ValueError: If `ratio` is neither a scalar nor a square matrix, or is concrete and its
            powers do not vanish.

    Example:
        >>> import jax.numpy as jnp, nested_jax.theory as theory
        >>> float(theory.geometric_limit(0.75))
        4.0
        >>> theory.geometric_limit(jnp.array([[0.5, 0.5], [0.0, 0.5]]))
        Array([[2., 2.],
               [0., 2.]], dtype=float32)
    """
    below, ratio = _as_ratio(ratio)
    if ratio.ndim:
        vanishes = is_negligible(late_power(ratio))
        limit = solve(below, jnp.eye(len(ratio), dtype=ratio.dtype))
        other = jnp.nan
    else:
        vanishes = (below > 0) & (below < 2)
        limit = 1 / jnp.where(vanishes, below, 1)
        other = jnp.where(below <= 0, jnp.inf, jnp.nan)
    if not is_traced(vanishes) and not vanishes:
        raise ValueError(
            f"`ratio` must have a spectral radius below 1, got {spectral_radius(ratio):.6g}."
        )
    return jnp.where(vanishes, limit, other)


@jax.jit
def late_power(matrix: jax.Array) -> jax.Array:
    """Return a power so high that any decay below 1 in the dtype vanishes and any growth is inf."""
    info = jnp.finfo(matrix.dtype)
    # 2^8 times 1 / eps: a decay of 1 - eps leaves exp(-256).
    return jax.lax.fori_loop(0, info.nmant + 8, lambda _, power: power @ power, matrix)


def is_negligible(power: jax.Array) -> jax.Array:
    """Return whether all entries of a late power are 0 up to rounding; False for NaN."""
    return jnp.all(jnp.abs(power) < jnp.finfo(power.dtype).eps)


def spectral_radius(ratio: Any) -> float:
    """Return the largest magnitude of an eigenvalue of a concrete number or matrix."""
    matrix = np.atleast_2d(np.asarray(ratio))
    if not np.isfinite(matrix).all():
        return np.nan
    return float(np.max(np.abs(np.linalg.eigvals(matrix)), initial=0))


def _as_ratio(ratio):
    """Return 1 - ratio, to the last digit even if the ratio is a Python float, and the ratio."""
    check_reals("ratio", ratio)
    # Integers become floats at once: they need not fit JAX's default integers.
    dtype = jnp.result_type(0, *jax.tree.leaves(ratio))
    values = jnp.asarray(ratio, None if jnp.issubdtype(dtype, jnp.floating) else float)
    if values.ndim not in (0, 2) or (values.ndim and values.shape[0] != values.shape[1]):
        raise ValueError(
            f"`ratio` must be a scalar or a square matrix, got an array of shape {values.shape}."
        )
    if values.ndim:
        return jnp.eye(len(values), dtype=values.dtype) - values, values
    return jnp.asarray(complement(ratio), values.dtype), values


def _doubled_sum(matrix, terms):
    one = jnp.eye(len(matrix), dtype=matrix.dtype)

    def double(carry):
        # `total` and `power` cover the low bits of n so far: the sum of those terms, and the power
        # that follows. `block_power` and `block_total` are the power and sum of 1, 2, 4, ... terms.
        rest, total, power, block_power, block_total = carry
        odd = rest % 2 == 1
        total = jnp.where(odd, total + power @ block_total, total)
        power = jnp.where(odd, power @ block_power, power)
        block_total += block_power @ block_total
        return rest // 2, total, power, block_power @ block_power, block_total

    start = (terms, jnp.zeros_like(matrix), one, matrix, one)
    return jax.lax.while_loop(lambda carry: carry[0] > 0, double, start)[1]
