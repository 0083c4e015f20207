"""Online convex losses whose best fixed decision is known exactly: where regret is a number."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nested_jax._core.checks import (
    check_non_negative,
    check_positive,
    check_reals,
    is_traced,
    or_nan,
)
from nested_jax._core.dtypes import floating_dtype, widened
from nested_jax._core.types import ScalarLike
from nested_jax.problems._problem import Problem

SUM_TOLERANCE = 1e-6  # Of probabilities that come in float32.


class OnlineWorld(NamedTuple):
    """The moving state of the problem: all losses so far, which add up to one of their kind.

    Attributes:
        row: The row that is due next, where they come in turn.
        slope: Sum of the slopes so far, float32 or wider.
        curvature: Sum of the curvatures so far, likewise; None without curvatures.
    """

    row: Int[Array, ""]
    slope: Float[Array, " dim"]
    curvature: Float[Array, " dim"] | None

    def comparator(self, radius: ScalarLike = 1.0) -> Float[Array, " dim"]:
        r"""Return the best fixed decision in hindsight, in a box about 0.

        .. math:: \theta^*_i = \arg \min_{|\theta_i| \le r}
            B_i \theta_i + \tfrac 1 2 H_i \theta_i^2 = \mathrm{clip}(-B_i / H_i, -r, r),

        where B and H are the sums of slopes and curvatures. It is a corner of the box where
        :math:`H_i = 0`, and 0 where :math:`B_i` is 0 too.

        Args:
            radius: r > 0; may be traced.

        Returns:
            :math:`\theta^*`, in the dtype of the sums.

        Raises:
            TypeError: If `radius` is not a number.
            ValueError: If a concrete `radius` is not positive and finite.
        """
        radius = check_positive("radius", radius)
        radius = jnp.asarray(radius, self.slope.dtype)
        corner = -radius * jnp.sign(self.slope)
        if self.curvature is None:
            return corner
        curved = self.curvature > 0
        inside = -self.slope / jnp.where(curved, self.curvature, 1)
        return jnp.where(curved, jnp.clip(inside, -radius, radius), corner)

    def regret(self, loss: ScalarLike, radius: ScalarLike = 1.0) -> Float[Array, " "]:
        r"""Return the loss beyond that of the best fixed decision in a box.

        .. math:: R(T) = \sum_{t=1}^T f_t(\theta_t)
            - \min_{|\theta_i| \le r} \sum_{t=1}^T f_t(\theta)

        Args:
            loss: Sum of the losses so far: T times `Rollout.mean_loss` of a run without warm-up.
            radius: r > 0; may be traced.

        Returns:
            R(T). It may be negative for an optimizer that leaves the box.

        Raises:
            TypeError: If `radius` is not a number.
            ValueError: If a concrete `radius` is not positive and finite.
        """
        best = self.comparator(radius)
        return jnp.asarray(loss) - _total(best, self.slope, self.curvature)


class OnlineBatch(NamedTuple):
    """The loss of one step.

    Attributes:
        slope: b.
        curvature: h, or None.
    """

    slope: Float[Array, " dim"]
    curvature: Float[Array, " dim"] | None


def online_convex(
    slopes: Any,
    curvatures: Any = None,
    *,
    probabilities: Any = None,
    dtype: Any = None,
) -> Problem:
    r"""Build online convex optimization: a table's functions, one a step, in turn or drawn.

    .. math:: f_t(\theta) = \sum_i b_{k_t, i} \theta_i + \tfrac 1 2 h_{k_t, i} \theta_i^2,
        \qquad \theta_0 = 0,

    with the row :math:`k_t` being t modulo the number of rows, or drawn with given probabilities.
    Without curvatures it is the linear problem, whose gradients are the slopes themselves and
    which needs bounds (on what an optimizer plays: they are no part of the loss). A sum of such
    losses has the same form, so the best fixed decision in hindsight is known exactly:
    `world.comparator()` returns it and `world.regret(loss)` compares with it.

    Args:
        slopes: b: a table of shape (rows, dim), the values may be traced.
        curvatures: :math:`h \ge 0`, of the shape of `slopes`; may be traced; None for 0.
        probabilities: Of the rows, summing to 1; may be traced; None: the rows come in turn, the
            first one first.
        dtype: Of parameters and batches; JAX's default float if not given, and 32 bits where it
            does not allow 64.

    Returns:
        A problem whose parameters have shape (dim,), with `OnlineBatch` and `OnlineWorld`. Draws
        are row numbers, or None where rows come in turn.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape does not fit, or a concrete number is out of range.

    Example:
        >>> import jax, nested_jax as nj
        >>> problem = nj.online_convex([[4.0], [-1.0], [-1.0]])  # 2 every three steps: go left
        >>> trace = nj.rollout(nj.momentum(0.1, decay=0.0), problem, jax.random.key(0), 30)
        >>> trace.world.slope, trace.world.comparator(radius=1.0)
        (Array([20.], dtype=float32), Array([-1.], dtype=float32))
        >>> float(trace.world.regret(30 * trace.mean_loss)) > 0
        True

    References:
        Zinkevich (2003), "Online convex programming and generalized infinitesimal gradient
        ascent". The tables on which Adam does not converge are those of Reddi, Kale & Kumar
        (2018), section 3, doi:10.48550/arXiv.1904.09237.
    """
    dtype = floating_dtype(dtype)
    valid, b = _table("slopes", slopes, dtype)
    h = p = None
    if curvatures is not None:
        fits, h = _table("curvatures", curvatures, dtype, b.shape, low=0)
        valid &= fits
    if probabilities is not None:
        fits, p = _probabilities(probabilities, len(b))
        valid &= fits
    # Slopes reach every result. A curvature of NaN would not reach the comparator.
    b = or_nan(valid, b)

    def init(key):
        del key
        slope = jnp.zeros(b.shape[1], widened(dtype))
        curvature = None if h is None else jnp.zeros(b.shape[1], widened(dtype))
        world = OnlineWorld(jnp.zeros((), jnp.int32), slope, curvature)
        return jnp.zeros(b.shape[1], dtype), world

    def draw(key):
        return None if p is None else jax.random.choice(key, len(b), p=p).astype(jnp.int32)

    def observe(draws, world):
        row = world.row if draws is None else draws
        batch = OnlineBatch(b[row], None if h is None else h[row])
        # None is an empty tree, and the sums are the wider of the two.
        slope, curvature = jax.tree.map(jnp.add, tuple(world[1:]), tuple(batch))
        return batch, OnlineWorld((row + 1) % len(b), slope, curvature)

    def loss(params, batch):
        return _total(params, batch.slope, batch.curvature)

    return Problem(init=init, draw=draw, observe=observe, loss=loss)


def _total(params, slope, curvature):
    value = jnp.sum(slope * params)
    return value if curvature is None else value + 0.5 * jnp.sum(curvature * jnp.square(params))


def _table(name, values, dtype, shape=None, low=-np.inf):
    """Check a table of shape (rows, dim), both at least 1, or of `shape`.

    Returns:
        Whether traced values keep their rule, for `or_nan`; and the table.
    """
    table = _floats(name, values)
    rule = "be a table of shape (rows, dim)" if shape is None else f"have the shape {shape}"
    if table.ndim != 2 or not table.size or shape not in (None, table.shape):
        raise ValueError(f"`{name}` must {rule}, got an array of shape {table.shape}.")
    valid = True
    if is_traced(table):
        valid = jnp.all(jnp.isfinite(table) & (table >= low))
    else:
        wrong = table[~(np.isfinite(table) & (table >= low))]
        if wrong.size:
            kind = "finite" if low == -np.inf else "non-negative and finite"
            raise ValueError(f"`{name}` must be {kind}, got {wrong[0]}.")
    return valid, jnp.asarray(table, dtype)


def _probabilities(values, rows):
    p = _floats("probabilities", values)
    if p.shape != (rows,):
        raise ValueError(f"`probabilities` must have the shape ({rows},), got {p.shape}.")
    valid = True
    if is_traced(p):
        # Rounding each of the probabilities moves their sum.
        tolerance = SUM_TOLERANCE + rows * float(jnp.finfo(jnp.float32).eps)
        valid = jnp.all(p >= 0) & (jnp.abs(jnp.sum(jnp.asarray(p, float)) - 1) <= tolerance)
    else:
        for i, value in enumerate(p):
            check_non_negative(f"probabilities[{i}]", value)
        if abs(p.sum() - 1) > SUM_TOLERANCE:
            raise ValueError(f"`probabilities` must sum to 1, got {p.sum()}.")
    return valid, jnp.asarray(p, float)


def _floats(name, values):
    """Return numbers as a float64 array, or traced ones as they are."""
    check_reals(name, values, "be an array of numbers")
    try:
        array = values if is_traced(values) else np.asarray(values)
    except jax.errors.TracerArrayConversionError:
        array = jnp.asarray(values)  # A list with traced numbers in it.
    except ValueError as error:
        raise ValueError(f"`{name}` must have rows of one length, got {values!r}.") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"`{name}` must be an array of numbers, got {values!r}.")
    return array if is_traced(array) else array.astype(np.float64)
