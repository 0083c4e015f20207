"""Decoupled weight decay: the W of AdamW."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nested_jax._core.checks import (
    check_flag,
    check_non_negative,
)
from nested_jax._core.dtypes import (
    cast,
    check_structure,
    check_update,
    in_dtype,
    incremented,
    narrowed,
    transformation,
    widened,
)
from nested_jax._core.types import Params, ScalarLike, ScalarOrSchedule, Schedule
from nested_jax.transforms._rate import check_rate, rate_at, value_at


class AddDecoupledWeightDecayState(NamedTuple):
    """State of `add_decoupled_weight_decay`.

    Attributes:
        step: Number of updates so far, int32. Not called `count`, so that
            `optax.tree_utils.tree_get(state, "count")` finds only one in a finished optimizer.
        decay: The fraction of the parameters that the last update subtracted, with schedule,
            learning rate and normalization; read by `with_metrics`.
    """

    step: jax.Array
    decay: jax.Array


def add_decoupled_weight_decay(
    weight_decay: ScalarLike,
    *,
    learning_rate: ScalarOrSchedule | None = None,
    schedule: Schedule | None = None,
    normalized: bool = False,
    mask: Any | Callable[[Params], Any] | None = None,
) -> optax.GradientTransformation:
    r"""Subtract a fraction of the parameters, after the learning rate.

    .. math:: u \leftarrow u - \eta_t \lambda_t \theta, \quad t = 0, 1, \dots

    where u is the final update of :math:`\theta`. Put this *last* in a chain, after
    `scale_by_learning_rate`, which sets the sign and the learning rate. The schedule's multiplier
    :math:`\eta_t` scales both step and decay. The learning rate does not scale the decay, so the
    two can be tuned separately. Let :math:`\lambda` be `weight_decay` and T the number of steps in
    the schedule's cycle that contains step t. Then

    ==============================  ====================================
    :math:`\lambda_t`               when
    ==============================  ====================================
    :math:`\lambda`                 by default
    :math:`\lambda \alpha_t`        `learning_rate` is :math:`\alpha`
    :math:`\lambda / \sqrt{T}`      `normalized`
    ==============================  ====================================

    With both `learning_rate` and `normalized`, both factors apply. With `learning_rate` this equals
    `optax.add_decayed_weights` placed *before* the learning rate, as in `optax.adamw` and torch.

    Args:
        weight_decay: :math:`\lambda \ge 0`, may be traced.
        learning_rate: :math:`\alpha \ge 0`, or a function of the step (from 0). It multiplies the
            decay; no factor if not given.
        schedule: :math:`\eta`, a function of the step; 1 if not given.
        normalized: Whether to divide `weight_decay` by the root of the steps in the cycle,
            `schedule.cycle_steps(step)`. Static.
        mask: Which parameters decay: a tree of bools with the structure of the parameters or a
            prefix of it, or a function from the parameters to such a tree. Static; all if not
            given.

    Returns:
        A transformation of any tree of float or complex arrays that needs `params`; shapes and
        dtypes are kept. Its state holds two scalars.

    Raises:
        TypeError: If an argument has the wrong type, a leaf of `mask` is not a bool, or
            `normalized` is set and the schedule has no `cycle_steps`.
        ValueError: If a concrete number is negative or not finite; in `init`, if `mask` does not
            fit the parameters; in `update`, if `params` is missing.

    Example:
        >>> import jax.numpy as jnp, nested_jax as nj
        >>> tx = nj.add_decoupled_weight_decay(0.25, mask={"w": True, "b": False})
        >>> params = {"w": jnp.array([2.0]), "b": jnp.array([2.0])}
        >>> update, _ = tx.update({"w": jnp.ones(1), "b": jnp.ones(1)}, tx.init(params), params)
        >>> update["w"], update["b"]  # 1 - 0.25 * 2, and 1
        (Array([0.5], dtype=float32), Array([1.], dtype=float32))

    References:
        Loshchilov & Hutter (2019), Algorithm 2, line 12, and Appendix B.1 for the normalization,
        doi:10.48550/arXiv.1711.05101: :math:`\sqrt{b / (B T)}`, with b the batch, B the training
        points and T the epochs of the current restart, is one over the root of its steps.
    """
    weight_decay = check_non_negative("weight_decay", weight_decay)
    learning_rate = check_rate(1.0 if learning_rate is None else learning_rate, schedule)
    check_flag("normalized", normalized)
    cycle_steps = getattr(schedule, "cycle_steps", None) if normalized else None
    if normalized and not callable(cycle_steps):
        raise TypeError(
            f"`schedule` must have a method `cycle_steps` if `normalized`, got {schedule!r}."
        )
    if not _is_function(mask):
        _check_flags(mask)

    def init_fn(params):
        _decays(mask, params)  # Report a mask that does not fit now, not in `update`.
        return AddDecoupledWeightDecayState(jnp.zeros((), jnp.int32), jnp.zeros((), float))

    def update_fn(updates, state, params):
        if params is None:
            raise ValueError("`add_decoupled_weight_decay` needs `params` in `update`, got None.")
        check_structure(jax.tree.structure(updates), jax.tree.structure(params))
        step, dtype = state.step, state.decay.dtype
        decay: Any = weight_decay
        if cycle_steps is not None:
            decay = decay / jnp.sqrt(value_at("schedule.cycle_steps", cycle_steps, step, dtype))
        decay = decay * rate_at(learning_rate, schedule, step, dtype)
        fraction = in_dtype(decay)

        # Cached across leaves. Widen each first: float8 and float32 have no common dtype.
        @functools.cache
        def wider(a, b):
            return jnp.promote_types(widened(a), widened(b))

        def leaf(decays, p, u):
            if not decays:
                return u
            check_update((), p, u)
            wide = wider(p.dtype, u.dtype)
            return cast(u, wide) - fraction(wide)[0] * cast(p, wide)

        outflow = jax.tree.map(leaf, _decays(mask, params), params, updates)
        state = AddDecoupledWeightDecayState(incremented(step), decay)
        return narrowed(outflow, updates), state

    return transformation(init_fn, update_fn, AddDecoupledWeightDecayState)


def _is_function(mask):
    # A tree may itself be callable, like the modules of some libraries.
    return callable(mask) and jax.tree_util.all_leaves([mask])


def _check_flags(mask):
    for path, flag in jax.tree.leaves_with_path(mask):
        check_flag(f"mask{jax.tree_util.keystr(path)}", flag)


def _decays(mask, params):
    """Return a tree of bools with the structure of `params`."""
    if mask is None:
        mask = True
    elif _is_function(mask):
        mask = mask(params)
        _check_flags(mask)
    if not jax.tree.leaves(params):
        # Nothing decays. The placeholder of `optax.tree_map_params` ends up here, too.
        return params
    try:
        return jax.tree.broadcast(mask, params)
    except ValueError as error:
        raise ValueError(
            "`mask` must have the structure of the parameters or a prefix of it, got "
            f"{jax.tree.structure(mask)} for {jax.tree.structure(params)}."
        ) from error
