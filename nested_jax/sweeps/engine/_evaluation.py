"""Evaluate the swept function on a chunk: vmapped, or in lanes."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.engine._axes import each_alone, grouped, lengths_of, over_points
from nested_jax.sweeps.engine._draws import with_flat_draws
from nested_jax.sweeps.engine._tracing import (
    Columns,
    Program,
    Static,
    at_one_point,
    masks_of_inputs,
    split,
)
from nested_jax.sweeps.lanes import Layout, evaluate_in_lanes, work_by_axes


@partial(jax.jit, static_argnums=(0, 1, 2))
def evaluate(
    static: Static, layout: Layout | None, program: Program, run: Partial, columns: Columns
) -> dict[str, jax.Array]:
    """Evaluate `run` on the product of the axes, which lead the results in their order.

    With a layout, the points are lanes; without one, they are vmapped, and draw vectors. Either way
    it is `program` that is evaluated: to trace `run` again would take as long as the first time.
    """

    def vmapped():
        return over_points(lambda *axes: at_one_point(static, run, axes)[0], columns, alone)

    def drawing_vectors():
        from jax.extend.core import jaxpr_as_fun  # Slow to import.

        function = jaxpr_as_fun(with_flat_draws(program.jaxpr))
        groups = alone
        if len(alone) > 1:
            work = work_by_axes(program.jaxpr, masks_of_inputs(program.jaxpr, columns))
            groups = grouped(lengths, work)
        return over_points(
            lambda *axes: structured(function(*bound, *jax.tree.leaves(axes))), columns, groups
        )

    def in_lanes():
        assert layout is not None
        axes, carried = split(columns)
        return structured(evaluate_in_lanes(program.jaxpr, bound, axes, layout, carried or ()))

    def structured(outputs):
        # A result that is a constant of the program may be a number and not an array.
        arrays = [jnp.asarray(x, dtype) for x, dtype in zip(outputs, program.dtypes, strict=True)]
        return jax.tree.unflatten(program.structure, arrays)

    bound, lengths = jax.tree.leaves(run), lengths_of(columns)
    alone = each_alone(lengths)
    return or_else(drawing_vectors if layout is None else in_lanes, vmapped)
