"""Division by the root of a factored second moment, as in Adafactor."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import (
    check_choice,
    check_flag,
    check_fraction,
    check_number_or_schedule,
    check_positive,
    check_static_count,
    check_unit_interval,
)
from nested_jax._core.dtypes import (
    check_arrays,
    complement,
    incremented,
    place,
    squared,
    transformation,
    widened,
    widened_real,
)
from nested_jax._core.types import ScalarLike, ScalarOrSchedule

# How the axes of an array are ordered; its last two are factored. Equal sizes: the later axis.
AXIS_ORDERS = {
    "largest": lambda shape: sorted(range(len(shape)), key=lambda axis: (shape[axis], axis)),
    "last": lambda shape: list(range(len(shape))),
}


class FactoredMoment(NamedTuple):
    """The second moment of one leaf that is factored over two axes, i before j in their order.

    Attributes:
        row: Average of the squares over axis j, shaped like the leaf without j.
        column: Average of the squares over axis i, shaped like the leaf without i.
    """

    row: jax.Array
    column: jax.Array


class ScaleByFactoredRmsState(NamedTuple):
    """State of `scale_by_factored_rms`.

    Attributes:
        count: Number of updates so far, int32.
        moments: A tree like the parameters, with a `FactoredMoment` in place of each leaf that
            is factored and the whole second moment, shaped like the leaf, in place of each
            other; of the leaf's dtype, or float32 if that is wider, and real.
    """

    count: jax.Array
    moments: Any


def scale_by_factored_rms(
    decay_rate: ScalarLike = 0.8,
    *,
    b2: ScalarOrSchedule | None = None,
    b2_cap: ScalarLike | None = None,
    eps: ScalarLike = 1e-30,
    factored: bool = True,
    min_dim_size_to_factor: int = 2,
    factored_dims: str = "largest",
) -> optax.GradientTransformation:
    r"""Divide updates by the root of a second moment that is kept as row and column means.

    For a matrix g, with :math:`t = 1, 2, \dots` and :math:`R_0 = C_0 = 0`,

    .. math::

        R_i &\leftarrow \beta_t R_i + (1 - \beta_t)\, \mathrm{mean}_j (|g_{ij}|^2 + \epsilon), \\
        C_j &\leftarrow \beta_t C_j + (1 - \beta_t)\, \mathrm{mean}_i (|g_{ij}|^2 + \epsilon), \\
        V_{ij} &= R_i C_j / \mathrm{mean}(R), \quad
        u_{ij} = g_{ij} / \sqrt{V_{ij}}, \quad \beta_t = 1 - t^{-c},

    and u leaves. V is the best rank-one fit of the average of :math:`|g|^2 + \epsilon` in the
    generalised Kullback-Leibler divergence, and that average itself where it has rank one. An
    array of more axes is a batch of such matrices; vectors, scalars and what is not factored keep
    :math:`V \leftarrow \beta_t V + (1 - \beta_t) (|g|^2 + \epsilon)` whole. As
    :math:`\beta_1 = 0` there is no bias to correct, and u is 1 in size at first (for a vector:
    the sign of g). An n x m matrix costs n + m numbers of state, instead of Adam's n m.

    `b2` replaces :math:`\beta_t`. A constant one is not bias-corrected: the first updates are too
    large by :math:`1 / \sqrt{1 - b_2^t}`, which the paper leaves to clipping. As a function of
    the step (t - 1) it may be corrected: :math:`b_2 (1 - b_2^{t - 1}) / (1 - b_2^t)` is exactly
    Adam's :math:`v / (1 - b_2^t)`.

    Squares are formed in float32 or wider: of entries beyond 1.8e19 they are infinite there, and
    an average never forgets an infinity. In a vector such an entry leaves as 0 from then on, and
    in a matrix, by 0 times infinity, no entry is finite from then on: clip before, or use float64.

    Args:
        decay_rate: c > 0; the averages grow longer as the run does, for c = 1 over all of it.
            May be traced. The default is the paper's.
        b2: A constant in [0, 1), may be traced, or a function of the step (from 0), in place of
            :math:`1 - t^{-c}`.
        b2_cap: The most that :math:`\beta_t` may be, in [0, 1], may be traced; 1 is no cap, as
            is None. Zhai et al. take 0.999.
        eps: :math:`\epsilon > 0` (:math:`\epsilon_1` in the paper), may be traced. Zero gradients
            leave as zeros.
        factored: Whether anything is factored. Static.
        min_dim_size_to_factor: The least size of both axes for them to be factored, at least 1.
            Static. The default factors every matrix, as the paper does; optax takes 128.
        factored_dims: Which axes are factored if there are more than two: the two "largest" (as
            optax; of equal ones the later), or the "last" two. Static.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept and
        `params` is not used.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a concrete number is out of range, or `factored_dims` no such word.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.scale_by_factored_rms()
        >>> gradient = jnp.outer(jnp.array([1.0, -4.0]), jnp.array([2.0, 8.0, 16.0]))
        >>> state = tx.init(gradient)
        >>> update, state = tx.update(gradient, state)
        >>> jnp.round(update, 3)  # the squares have rank one
        Array([[ 1.,  1.,  1.],
               [-1., -1., -1.]], dtype=float32)
        >>> state.moments.row.shape, state.moments.column.shape
        ((2,), (3,))

    References:
        Shazeer & Stern (2018), Algorithms 4 and 5 and section 7.2,
        doi:10.48550/arXiv.1804.04235. The cap is of Zhai et al. (2022), appendix,
        doi:10.48550/arXiv.2106.04560. Unlike `optax.scale_by_factored_rms`, statistics are
        float32 or wider: in float16 eps is 0, and zero gradients become NaN.
    """
    check_positive("decay_rate", decay_rate)
    if b2 is not None:
        check_number_or_schedule("b2", b2, check_unit_interval)
    if b2_cap is not None:
        check_fraction("b2_cap", b2_cap)
    check_positive("eps", eps)
    check_flag("factored", factored)
    check_static_count("min_dim_size_to_factor", min_dim_size_to_factor, 1)
    check_choice("factored_dims", factored_dims, AXIS_ORDERS)

    def axes_of(shape):
        axes = AXIS_ORDERS[factored_dims](shape)[-2:] if factored else []
        fits = len(axes) == 2 and min(shape[axis] for axis in axes) >= min_dim_size_to_factor
        return tuple(axes) if fits else None

    def weights_at(count):
        """Return beta_t and 1 - beta_t, neither of them as the rounded rest of the other."""
        t = count.astype(float) + 1
        if b2 is None:
            take = t ** -jnp.asarray(decay_rate, t.dtype)
            keep = 1 - take
        elif callable(b2):
            keep = jnp.asarray(b2(count), t.dtype)
            take = 1 - keep
        else:
            keep, take = jnp.asarray(b2, t.dtype), jnp.asarray(complement(b2), t.dtype)
        if b2_cap is not None:
            keep = jnp.minimum(keep, jnp.asarray(b2_cap, t.dtype))
            take = jnp.maximum(take, jnp.asarray(complement(b2_cap), t.dtype))
        return keep, take

    def init_fn(params):
        check_arrays(params)
        moments = jax.tree.map(lambda p: _zero_moment(p, axes_of(p.shape)), params)
        return ScaleByFactoredRmsState(count=jnp.zeros((), jnp.int32), moments=moments)

    def update_fn(updates, state, params):
        del params
        keep, take = weights_at(state.count)
        check_arrays(updates)
        leaves, treedef = jax.tree.flatten_with_path(updates)
        pairs = []
        for (path, g), moment in zip(leaves, treedef.flatten_up_to(state.moments), strict=True):
            axes = axes_of(g.shape)
            if [x.shape for x in jax.tree.leaves(moment)] != _moment_shapes(g.shape, axes):
                rule = "Updates must have the shapes of the parameters"
                raise ValueError(f"{rule}, got {g.shape}{place(path)}.")
            pairs.append(_divide(g, moment, keep, take, eps, axes=axes))
        fresh = ScaleByFactoredRmsState(
            count=incremented(state.count),
            moments=treedef.unflatten([moment for _, moment in pairs]),
        )
        return treedef.unflatten([u for u, _ in pairs]), fresh

    return transformation(init_fn, update_fn)


def _zero_moment(param, axes):
    def zeros(axis=()):
        # The shape of a sum, which knows its sharding where that is part of the type.
        like = jax.eval_shape(lambda p: jnp.sum(p, axis), param)
        return jnp.zeros_like(like, widened_real(param.dtype))

    return zeros() if axes is None else FactoredMoment(row=zeros(axes[1]), column=zeros(axes[0]))


def _moment_shapes(shape, axes):
    if axes is None:
        return [shape]
    return [shape[:k] + shape[k + 1 :] for k in reversed(axes)]


# Compiled on its own, so that leaves of one shape are traced once, however many they are.
@functools.partial(jax.jit, static_argnames="axes")
def _divide(g, moment, keep, take, eps, *, axes):
    """Return the update of one leaf, and its moment."""
    dtype = jax.tree.leaves(moment)[0].dtype
    keep, take, eps = (jnp.asarray(x, dtype) for x in (keep, take, eps))
    wide = g.astype(jnp.promote_types(dtype, widened(g.dtype)))
    square = squared(wide) + eps  # Here and not behind the means: XLA's program is then faster.
    if axes is None:
        moment = keep * moment + take * square
        # Not `rsqrt`: of 1e-30 its derivative, 1e45, is infinite in float32, and 0 times that NaN.
        return (wide / jnp.sqrt(moment)).astype(g.dtype), moment
    i, j = axes
    row = keep * moment.row + take * jnp.mean(square, j)
    column = keep * moment.column + take * jnp.mean(square, i)
    mean = jnp.mean(row, i - (j < i), keepdims=True)
    # R / mean(R), as it is written, underflows to 0 where a row of zeros meets one of 1e12, and
    # 0 / 0 is NaN. So the mean goes to the columns; the rows come first, as g / sqrt(R) is small.
    by_row = jnp.expand_dims(1 / jnp.sqrt(row), j)
    by_column = jnp.expand_dims(1 / jnp.sqrt(column), i) * jnp.expand_dims(jnp.sqrt(mean), j)
    return (wide * by_row * by_column).astype(g.dtype), FactoredMoment(row, column)
