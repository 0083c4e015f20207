"""Evaluate the swept function on a chunk: vmapped, or in lanes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.engine._draws import with_flat_draws
from nested_jax.sweeps.engine._tracing import Carried, Columns, Program, Static, at_one_point, split
from nested_jax.sweeps.lanes import Layout, evaluate_in_lanes


@partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(
    static: Static, layout: Layout | None, program: Program, run: Partial, columns: Columns
) -> dict[str, jax.Array]:
    """Evaluate `run` on the product of the axes, which lead the results in their order.

    With a layout, the points are lanes; without one, they are vmapped, and draw vectors. Either way
    it is `program` that is evaluated: to trace `run` again would take as long as the first time.
    """

    def over_points(point):
        for i in reversed(range(len(split(columns)[0]))):
            along = [j == i or isinstance(x, Carried) for j, x in enumerate(columns)]
            point = _along_an_axis(point, along, len(jax.tree.leaves(columns[i])[0]))
        return point(*columns)

    def vmapped():
        return over_points(lambda *axes: at_one_point(static, run, axes)[0])

    def drawing_vectors():
        from jax.extend.core import jaxpr_as_fun  # Slow to import.

        function = jaxpr_as_fun(with_flat_draws(program.jaxpr))
        return over_points(lambda *axes: structured(function(*bound, *jax.tree.leaves(axes))))

    def in_lanes():
        assert layout is not None
        axes, carried = split(columns)
        return structured(evaluate_in_lanes(program.jaxpr, bound, axes, layout, carried or ()))

    def structured(outputs):
        # A result that is a constant of the program may be a number and not an array.
        arrays = [jnp.asarray(x, dtype) for x, dtype in zip(outputs, program.dtypes, strict=True)]
        return jax.tree.unflatten(program.structure, arrays)

    bound = jax.tree.leaves(run)
    return or_else(drawing_vectors if layout is None else in_lanes, vmapped)


def _along_an_axis(
    point: Callable[..., Any], along: Sequence[bool], length: int
) -> Callable[..., Any]:
    """Return `point`, vmapped along the first axis of the arguments marked in `along`.

    An axis of one point is left out of the program: a vmap takes as long to trace and to compile
    for one point as for many.
    """
    if length > 1:
        return jax.vmap(point, [0 if each else None for each in along])

    def at_the_only_point(*axes):
        cut = [
            jax.tree.map(lambda x: x[0], axis) if each else axis
            for axis, each in zip(axes, along, strict=True)
        ]
        return jax.tree.map(lambda x: x[None], point(*cut))

    return at_the_only_point
