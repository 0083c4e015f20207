"""Division by the root of Adafactor's factored second moment."""

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
    is_traced,
    or_nan,
)
from nested_jax._core.dtypes import (
    check_arrays,
    check_structure,
    complement,
    incremented,
    place,
    positive_root,
    squared,
    transformation,
    widened,
    widened_real,
)
from nested_jax._core.types import ScalarLike, ScalarOrSchedule
from nested_jax.transforms._rate import value_at

# Orders of an array's axes; the last two are factored. Of equal sizes the later axis comes last.
AXIS_ORDERS = {
    "largest": lambda shape: sorted(range(len(shape)), key=lambda axis: (shape[axis], axis)),
    "last": lambda shape: list(range(len(shape))),
}


class FactoredMoment(NamedTuple):
    """The second moment of one leaf, factored over two axes; i precedes j in the axis order.

    With `factored_dims="largest"` the larger axis is j, so a matrix with more rows than columns has
    the means of its columns in `row`.

    Attributes:
        row: Averaged mean square over axis j, shaped like the leaf without j.
        column: Averaged mean square over axis i, shaped like the leaf without i.
    """

    row: jax.Array
    column: jax.Array


class ScaleByFactoredRmsState(NamedTuple):
    """State of `scale_by_factored_rms`.

    Attributes:
        count: Number of updates so far, int32.
        moments: A tree like the parameters. A factored leaf has a `FactoredMoment`; any other leaf
            has its whole second moment, shaped like the leaf. All are real, in the leaf's dtype
            or float32 if that is wider.
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
    r"""Divide updates by the root of a second moment stored as row and column means.

    For a matrix g, with :math:`t = 1, 2, \dots` and :math:`R_0 = C_0 = 0`,

    .. math::

        R_i &\leftarrow \beta_t R_i + (1 - \beta_t)\, \mathrm{mean}_j (|g_{ij}|^2 + \epsilon), \\
        C_j &\leftarrow \beta_t C_j + (1 - \beta_t)\, \mathrm{mean}_i (|g_{ij}|^2 + \epsilon), \\
        V_{ij} &= R_i C_j / \mathrm{mean}(R), \quad
        u_{ij} = g_{ij} / \sqrt{V_{ij}}, \quad \beta_t = 1 - t^{-c},

    and return u. V is the best rank-one fit to the average of :math:`|g|^2 + \epsilon` in the
    generalised Kullback-Leibler divergence, and is exact if that average has rank one. An array
    with more axes is a batch of such matrices. Vectors, scalars and other unfactored leaves keep
    the whole :math:`V \leftarrow \beta_t V + (1 - \beta_t) (|g|^2 + \epsilon)`, with
    :math:`V_0 = 0`. Because :math:`\beta_1 = 0`, there is no bias to correct, and the first u has
    size 1 (for a vector, the sign of g). An n x m matrix needs n + m numbers of state, where Adam's
    second moment needs n m.

    `b2` replaces :math:`\beta_t`. A constant `b2` is not bias-corrected: the first updates are
    too large by :math:`1 / \sqrt{1 - b_2^t}`, which the paper leaves to clipping. A function of
    the step (t - 1) can correct it: :math:`b_2 (1 - b_2^{t - 1}) / (1 - b_2^t)` gives exactly
    Adam's :math:`v / (1 - b_2^t)`.

    Squares are computed in float32 or wider. In float32 the square of an entry beyond 1.8e19 is
    infinite, and an average never forgets an infinity. From then on, that entry of a vector is 0,
    and no entry of a matrix is finite (0 times infinity). Clip before, or use float64.

    Args:
        decay_rate: c > 0. The averages lengthen during the run; with c = 1 they cover all of it.
            May be traced. The default is the paper's.
        b2: A constant in [0, 1), may be traced, or a function of the step (from 0), in place of
            :math:`1 - t^{-c}`.
        b2_cap: The upper limit of :math:`\beta_t`, in [0, 1], may be traced; 1 and None mean no
            cap. Zhai et al. use 0.999.
        eps: :math:`\epsilon > 0` (:math:`\epsilon_1` in the paper), may be traced. Zero gradients
            stay zero.
        factored: Whether to factor any leaf. Static.
        min_dim_size_to_factor: Factor only if both axes have this size or more; at least 1. Static.
            The default factors every matrix with axes of 2 or more; optax's default is 128.
        factored_dims: Which of more than two axes to factor: the two "largest" (as in optax; the
            later of equal ones), or the "last" two. Static.

    Returns:
        A transformation of any tree of float or complex arrays; shapes and dtypes are kept, and
        `params` is not used.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a concrete number is out of range, or `factored_dims` is another word.

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
        doi:10.48550/arXiv.1804.04235. The cap is from Zhai et al. (2022), appendix,
        doi:10.48550/arXiv.2106.04560. Unlike in `optax.scale_by_factored_rms`, the
        statistics are float32 or wider: in float16 eps is 0, and zero gradients become NaN.
    """
    decay_rate = check_positive("decay_rate", decay_rate)
    # In the first step 1 to the power of NaN is 1, and with `b2` no step reads the rate.
    valid = decay_rate == decay_rate if is_traced(decay_rate) else True
    if b2 is not None:
        b2 = check_number_or_schedule("b2", b2, check_unit_interval)
    if b2_cap is not None:
        b2_cap = check_fraction("b2_cap", b2_cap)
    eps = check_positive("eps", eps)
    check_flag("factored", factored)
    check_static_count("min_dim_size_to_factor", min_dim_size_to_factor, 1)
    check_choice("factored_dims", factored_dims, AXIS_ORDERS)

    def axes_of(shape):
        axes = AXIS_ORDERS[factored_dims](shape)[-2:] if factored else []
        fits = len(axes) == 2 and min(shape[axis] for axis in axes) >= min_dim_size_to_factor
        return tuple(axes) if fits else None

    def weights_at(count):
        """Return beta_t and 1 - beta_t, avoiding cancellation where possible."""
        t = count.astype(float) + 1
        if b2 is None:
            take = t ** -jnp.asarray(decay_rate, t.dtype)
            keep = 1 - take
        elif callable(b2):
            keep = value_at("b2", b2, count, t.dtype, check_unit_interval)
            take = 1 - keep
        else:
            keep, take = jnp.asarray(b2, t.dtype), jnp.asarray(complement(b2), t.dtype)
        if b2_cap is not None:
            keep = jnp.minimum(keep, jnp.asarray(b2_cap, t.dtype))
            take = jnp.maximum(take, jnp.asarray(complement(b2_cap), t.dtype))
        return or_nan(valid, (keep, take))

    def init_fn(params):
        check_arrays(params)
        moments = jax.tree.map(lambda p: _zero_moment(p, axes_of(p.shape)), params)
        return ScaleByFactoredRmsState(count=jnp.zeros((), jnp.int32), moments=moments)

    def update_fn(updates, state, params):
        del params
        keep, take = weights_at(state.count)
        check_arrays(updates)
        leaves, treedef = jax.tree.flatten_with_path(updates)
        moments, wanted = jax.tree.flatten(state.moments, is_leaf=_is_factored)
        check_structure(treedef, wanted)
        pairs = []
        for (path, g), moment in zip(leaves, moments, strict=True):
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

    return transformation(init_fn, update_fn, ScaleByFactoredRmsState)


def _zero_moment(param, axes):
    def zeros(axis=()):
        # Take the shape of a sum: it carries the sharding where that is part of the type.
        like = jax.eval_shape(lambda p: jnp.sum(p, axis), param)
        return jnp.zeros_like(like, widened_real(param.dtype))

    return zeros() if axes is None else FactoredMoment(row=zeros(axes[1]), column=zeros(axes[0]))


def _is_factored(node):
    return isinstance(node, FactoredMoment)


def _moment_shapes(shape, axes):
    if axes is None:
        return [shape]
    return [shape[:k] + shape[k + 1 :] for k in reversed(axes)]


# Jitted separately, so that all leaves of one shape share one trace.
@functools.partial(jax.jit, static_argnames="axes")
def _divide(g, moment, keep, take, eps, *, axes):
    """Return the update of one leaf, and its moment."""
    dtype = jax.tree.leaves(moment)[0].dtype
    keep, take, eps = (jnp.asarray(x, dtype) for x in (keep, take, eps))
    wide = g.astype(jnp.promote_types(dtype, widened(g.dtype)))
    square = squared(wide) + eps  # Faster in XLA than adding eps after the means.
    if axes is None:
        moment = keep * moment + take * square
        # `positive_root`: an eps below the smallest normal number is 0, and 0 / 0 is NaN.
        # Not `rsqrt`: its derivative at 1e-30, 1e45, is infinite in float32; 0 times that is NaN.
        return (wide / positive_root(moment)).astype(g.dtype), moment
    i, j = axes
    row = keep * moment.row + take * jnp.mean(square, j)
    column = keep * moment.column + take * jnp.mean(square, i)
    mean = jnp.mean(row, i - (j < i), keepdims=True)
    # R / mean(R) underflows to 0 if one row is 0 and another 1e12, and 0 / 0 is NaN. So multiply
    # the columns by the mean. Apply the rows first, because g / sqrt(R) is small.
    by_row = jnp.expand_dims(1 / positive_root(row), j)
    by_column = jnp.expand_dims(1 / positive_root(column), i) * jnp.expand_dims(jnp.sqrt(mean), j)
    return (wide * by_row * by_column).astype(g.dtype), FactoredMoment(row, column)
