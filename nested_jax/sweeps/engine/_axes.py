"""Make one axis of those axes of a chunk along which runs share no work.

Each `jax.vmap` rewrites the whole program once more, and XLA takes longer to compile loops over
many axes. So a chunk of three rates, two decays and four seeds is not three nested vmaps. Its rates
and decays are one axis of six points, along which nearly all work differs:

    rate   0.1  0.1  0.2  0.2  0.3  0.3
    decay  0    1    0    1    0    1

The seeds are a second axis if they draw random numbers: on one axis of 24 points, the draws of each
seed would be made six times.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nested_jax.sweeps.engine._tracing import Carried, Columns, split

# Work that a chunk may repeat to have fewer axes, as a share of its own.
REPEATED = 0.05

Groups = list[list[int]]


def lengths_of(columns: Columns) -> list[int]:
    """Return the number of points along each axis of a chunk."""
    return [len(jax.tree.leaves(axis)[0]) for axis in split(columns)[0]]


def each_alone(lengths: Sequence[int]) -> Groups:
    """Return one group for each axis of several points.

    An axis of one point is left out: it takes as long to compile as one of many.
    """
    return [[axis] for axis, length in enumerate(lengths) if length > 1]


def grouped(lengths: Sequence[int], work: Mapping[int, float]) -> Groups:
    """Return the axes in as few groups as repeat at most `REPEATED` of the work.

    Two groups at a time are joined, those first that repeat the least.

    Args:
        lengths: Number of points along each axis.
        work: Mask of axes -> work per point that depends on exactly these axes.
    """

    def total(groups: Groups) -> float:
        def times(mask: int) -> int:
            touched = [group for group in groups if any(mask >> axis & 1 for axis in group)]
            return math.prod(lengths[axis] for group in touched for axis in group)

        return sum(operations * times(mask) for mask, operations in work.items())

    groups = each_alone(lengths)
    most = (1 + REPEATED) * total(groups)
    while len(groups) > 1:
        joined = [
            [sorted(first + second), *(group for group in groups if group not in (first, second))]
            for first, second in itertools.combinations(groups, 2)
        ]
        best = min(joined, key=total)
        if total(best) > most:
            break
        groups = best
    return sorted(groups)


def over_points(point: Callable[..., Any], columns: Columns, groups: Groups) -> Any:
    """Evaluate `point` on the product of the axes, which lead the results in their order.

    Args:
        point: Takes the columns at one point, and the state of its run if there is one.
        columns: Of the chunk.
        groups: Axes that are vmapped together. Together they hold every axis of several points.
    """
    lengths = lengths_of(columns)
    order = [axis for group in groups for axis in group]
    order += [axis for axis in range(len(lengths)) if axis not in order]
    merged = [math.prod(lengths[axis] for axis in group) for group in groups]

    def in_groups(leaf: Any) -> Any:
        rest = range(len(lengths), leaf.ndim)
        return leaf.transpose(*order, *rest).reshape(*merged, *leaf.shape[len(lengths) :])

    def in_axes(leaf: Any) -> Any:
        rest = leaf.shape[len(groups) :]
        back = [order.index(axis) for axis in range(len(lengths))]
        apart = leaf.reshape(*(lengths[axis] for axis in order), *rest)
        return apart.transpose(*back, *range(len(lengths), apart.ndim))

    def along(group: list[int], axis: int, column: Any) -> Any:
        before = math.prod(lengths[other] for other in group if other < axis)
        after = math.prod(lengths[other] for other in group if other > axis)
        return jnp.broadcast_to(column[:, None], (before, len(column), after)).reshape(-1)

    flat: list[Any] = []
    for axis, values in enumerate(columns):
        if isinstance(values, Carried):
            flat.append(jax.tree.map(in_groups, values))
            continue
        group = next((group for group in groups if axis in group), None)
        flat.append(
            {
                name: column[0] if group is None else along(group, axis, column)
                for name, column in values.items()
            }
        )
    for group in reversed(groups):
        mapped = [
            0 if i in group or isinstance(x, Carried) else None for i, x in enumerate(columns)
        ]
        point = jax.vmap(point, mapped)
    return jax.tree.map(in_axes, point(*flat))
