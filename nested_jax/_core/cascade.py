"""A cascade of exponential averages, the recurrence shared by model and data levels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import (
    as_scalars,
    check_below,
    check_count,
    check_static_count,
    check_unit_interval,
    how_to_keep_static,
    in_32_bits,
    is_traced,
    on_host,
    record,
)
from nested_jax._core.dtypes import cast, in_dtype
from nested_jax._core.types import ScalarLike, Updates

# Every level is a copy of the parameters and a stage of the program. More would not compile.
MOST_LEVELS = 100_000


def stage_decays(stages: ScalarLike, decay: ScalarLike, max_stages: int) -> np.ndarray | jax.Array:
    """Return `stages` copies of `decay`, padded with zeros to `max_stages`.

    A stage of decay 0 passes its input on, so cascades of every length share one shape. Concrete
    arguments give a float64 NumPy vector, so that 1 - decay is accurate in every dtype; traced
    arguments give a JAX array.
    """
    if is_traced(stages) or is_traced(decay):
        return jnp.where(jnp.arange(max_stages) < stages, decay, 0.0)
    return np.where(np.arange(max_stages) < on_host(stages), np.float64(decay), 0.0)


def check_decays(decays: Any, least: int = 0) -> list:
    """Check that decays lie in [0, 1) and are at least `least`, 0 or 1.

    Returns:
        The decays to use: a traced one that is out of range is NaN.
    """
    scalars = as_scalars("decays", decays)
    if len(scalars) < least:
        raise ValueError("`decays` must hold one decay at least, got none.")
    return [check_unit_interval(f"decays[{i}]", decay) for i, decay in enumerate(scalars)]


def check_levels(
    name: str, levels: Any, decay: Any, max_name: str, max_levels: Any
) -> tuple[int, Any, Any]:
    """Check a level count, its maximum and the decay of the levels.

    Returns:
        The maximum, by default `levels`; whether traced arguments keep their rules, for `or_nan`;
        and the decay to use.
    """
    valid = check_count(name, levels, 1)
    decay = check_unit_interval("decay", decay)
    if is_traced(decay):  # A decay out of range, now NaN, is an error even without a level.
        valid &= decay == decay
    if max_levels is None:
        if is_traced(levels):
            raise TypeError(
                f"`{max_name}` must be given when `{name}` is traced: it shapes the state."
                f"{how_to_keep_static(max_name, levels)}"
            )
        check_below(name, levels, MOST_LEVELS + 1)
        return int(levels), valid, decay
    check_static_count(max_name, max_levels, 1)
    check_below(max_name, max_levels, MOST_LEVELS + 1)

    def check_room(concrete):
        if int(concrete) > int(max_levels):
            rule = f"`{name}` must be at most `{max_name}` = {max_levels}"
            raise ValueError(f"{rule}, got {concrete}.")

    if is_traced(levels):
        record(levels, check_room)
        valid &= in_32_bits(levels) <= max_levels
    else:
        check_room(levels)
    return int(max_levels), valid, decay


def average(keep: ScalarLike, take: ScalarLike, momentum: Updates, inflow: Updates) -> Updates:
    """Return keep * momentum + take * inflow in the dtype of `momentum`."""
    # The dtype of a traced hyperparameter must not enter the state.
    weights = in_dtype(keep, take)

    def leaf(m, u):
        a, b = weights(m.dtype)
        return a * m + b * cast(u, m.dtype)

    return jax.tree.map(leaf, momentum, inflow)


def handed_on(keep: ScalarLike, momentum: Updates, inflow: Updates) -> Updates:
    """Return `inflow` in the dtype of `momentum` if the stage keeps nothing, else `momentum`."""
    # Not 0 * M + 1 * inflow: a stage of decay 0 must be the identity even after an infinite update.
    # A sweep also uses this selection to find stages that are absent from all runs of a batch.
    absent = keep == 0
    if not is_traced(absent):
        return jax.tree.map(lambda m, u: cast(u, m.dtype), momentum, inflow) if absent else momentum
    return jax.tree.map(lambda m, u: jnp.where(absent, cast(u, m.dtype), m), momentum, inflow)


def cascade(
    keeps: Sequence[ScalarLike],
    takes: Sequence[ScalarLike],
    momenta: Sequence[Updates],
    inflow: Updates,
) -> tuple[Updates, ...]:
    """Advance every stage of a cascade by one step, innermost (last) first.

    Stage i becomes keeps[i] * M_i + takes[i] * M_{i+1} with the new M_{i+1}, or M_{i+1} itself if
    keeps[i] is 0. The innermost stage takes `inflow`. Returns the new stages, outermost first.
    """
    fresh = []
    for keep, take, momentum in zip(keeps[::-1], takes[::-1], momenta[::-1], strict=True):
        inflow = handed_on(keep, average(keep, take, momentum, inflow), inflow)
        fresh.append(inflow)
    return tuple(fresh[::-1])
