"""Delta gradient descent: gradient descent that also erases what the weights give for the inputs.

The name is the field's, without the prefix of transforms that are links of a chain. The learning
rate stands inside a quotient, and the update has its sign, so nothing comes after it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import check_callable
from nested_jax._core.dtypes import (
    cast,
    check_updates,
    in_dtype,
    incremented,
    narrowed,
    squared,
    transformation,
    widened,
    with_arrays,
)
from nested_jax._core.types import Params, ScalarOrSchedule, Schedule
from nested_jax.transforms._rate import check_rate, rate_at


class DeltaGradientDescentState(NamedTuple):
    """State of `delta_gradient_descent`.

    Attributes:
        count: Number of updates so far, int32.
        rate: The learning rate of the last update, schedule included; read by `with_metrics`.
    """

    count: jax.Array
    rate: jax.Array


def delta_gradient_descent(
    learning_rate: ScalarOrSchedule,
    *,
    inputs: Callable[[Any], Any],
    schedule: Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Take gradient steps that also erase what the weights give for the current inputs.

    For weights W with rows of length n, inputs :math:`x \in \mathbf R^n` and gradient g,

    .. math::

        W \leftarrow W (I - \eta' x x^\mathsf{H}) - \eta' g, \quad
        \eta' = \frac{\eta}{1 + \eta \|x\|^2},

    where :math:`\eta` is the learning rate times the schedule. With x = 0 this is gradient descent.

    The erased part is weight decay along x, so linear regression does not find the true weights
    W*. Without noise, and in the mean with it, the weights settle at :math:`\frac23 W^*` for the
    squared loss :math:`|W x - y|^2` and at :math:`\frac12 W^*` for half of it. These shares depend
    neither on the covariance of the inputs nor on the learning rate, if that is stable. Along x,
    one step multiplies the distance to that point by
    :math:`1 - c\, \eta \|x\|^2 / (1 + \eta \|x\|^2)`, where c is 3 for the squared loss and 2 for
    half of it. The squared loss amplifies once :math:`\eta \|x\|^2 > 2`, half of it never does.

    Args:
        learning_rate: :math:`\eta \ge 0`, or a function of the step (from 0); may be traced.
        inputs: A function from the extra argument `batch` of `update` to the inputs of each
            parameter: a tree with the structure of the parameters, with arrays of shape (n,) where
            parameters have shape (..., n), and of shape () where they are scalars. Static.
        schedule: A function of the step (from 0) that multiplies the learning rate; 1 if not given.

    Returns:
        A complete optimizer step, with its sign; add its updates to the parameters. It takes any
        tree of float or complex arrays; shapes and dtypes are kept. Its `update` needs `params` and
        `batch`, both of which `nested_jax.rollout` passes. Its state holds two scalars. The update
        is NaN where :math:`\|x\|^2` overflows.

    Raises:
        TypeError: If `learning_rate` is neither a number nor callable, or `inputs` or `schedule` is
            not callable; in `update`, if inputs are not floating arrays.
        ValueError: If a concrete learning rate is negative or not finite; in `update`, if `params`
            or `batch` is missing, or inputs have another structure or shape.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.delta_gradient_descent(1.0, inputs=lambda batch: batch)
        >>> params, x, target = jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0]), 1.0
        >>> gradient = (params @ x - target) * x  # 0: the target is met
        >>> tx.update(gradient, tx.init(params), params, batch=x)[0]  # half of it is erased
        Array([-0.5, -0. ], dtype=float32)

        On a problem, `inputs` reads the problem's batch:

        >>> import jax
        >>> problem = nj.drifting_regression(dim=3)
        >>> tx = nj.delta_gradient_descent(0.05, inputs=lambda batch: batch.features)
        >>> trace = nj.rollout(tx, problem, jax.random.key(0), 1000, warmup=500)
        >>> bool(trace.mean_loss < 1)
        True

    References:
        Behrouz, Razaviyayn, Zhong & Mirrokni (2025), Nested Learning, equations 56 and 57,
        doi:10.48550/arXiv.2512.24695.
    """
    learning_rate = check_rate(learning_rate, schedule)
    check_callable("inputs", inputs)

    def init_fn(params):
        del params
        return DeltaGradientDescentState(count=jnp.zeros((), jnp.int32), rate=jnp.zeros((), float))

    def update_fn(updates, state, params, batch):
        for name, value in (("params", params), ("batch", batch)):
            if value is None:
                rule = f"`delta_gradient_descent` needs `{name}` in `update`"
                raise ValueError(f"{rule}, got None.")
        check_updates(updates, params)
        found = with_arrays(inputs(batch))
        _check_inputs(found, params)
        rate = rate_at(learning_rate, schedule, state.count, state.rate.dtype)
        rates = in_dtype(rate)

        def leaf(w, u, x):
            dtype = jnp.promote_types(widened(w.dtype), widened(u.dtype))
            w, u, x = (cast(array, dtype) for array in (w, u, x))
            power = jnp.sum(squared(x))
            (eta,) = rates(power.dtype)
            # Infinite power would make the step 0, which looks like an update.
            eta = jnp.where(jnp.isfinite(eta * power), eta / (1 + eta * power), jnp.nan)
            along = jnp.sum(w * x, axis=-1 if w.ndim else (), keepdims=True)
            return -eta.astype(dtype) * (along * jnp.conj(x) + u)

        steps = jax.tree.map(leaf, params, updates, found)
        fresh = DeltaGradientDescentState(incremented(state.count), rate)
        return narrowed(steps, updates), fresh

    return transformation(init_fn, update_fn, DeltaGradientDescentState, reads=("batch",))


def _check_inputs(found: Any, params: Params) -> None:
    """Raise unless each parameter has inputs as long as its rows."""
    structures = jax.tree.structure(found), jax.tree.structure(params)
    if structures[0] != structures[1]:
        rule = "`inputs(batch)` must have the structure of the parameters"
        raise ValueError(f"{rule}, got {structures[0]} for {structures[1]}.")
    for x, p in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            raise TypeError(f"`inputs(batch)` must hold floating arrays, got {x!r}.")
        if jnp.shape(x) != p.shape[-1:]:
            rule = f"`inputs(batch)` must have shape {p.shape[-1:]} for parameters of {p.shape}"
            raise ValueError(f"{rule}, got shape {jnp.shape(x)}.")
