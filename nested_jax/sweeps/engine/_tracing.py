"""Trace the swept function at one point, and evaluate it on a chunk."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax._core.checks import recording
from nested_jax._core.jaxpr import or_else
from nested_jax.sweeps.lanes import Layout, evaluate_in_lanes

# Values of the numeric axes: one dict of columns per axis, in the order of the grid.
# `Static` is one combination of the static axes: (name, value) pairs.
Columns = tuple[dict[str, Any], ...]
Static = tuple[tuple[str, Any], ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rules:
    """Validation rules of factories for grid values, found while tracing: (column, rule)."""

    asked: tuple[tuple[str, Callable[[Any], None]], ...]


@partial(jax.jit, static_argnums=0)
def _point(static: Static, run: Partial, axes: Columns) -> tuple[dict[str, jax.Array], Rules]:
    """Evaluate `run` at one point.

    The rules are in the tree structure of the output, so that JAX caches them with the trace.
    """
    values = {name: value for axis in axes for name, value in axis.items()}
    with recording() as rules:
        outputs = run(**dict(static), **values)
    asked = [
        (name, rule)
        for name, value in values.items()
        for checked, rule in rules
        if checked is value
    ]
    return _check_outputs(outputs), Rules(tuple(asked))


def trace(static: Static, run: Partial, columns: Columns) -> Any:
    """Trace `run` at one point of a chunk."""
    scalars = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), columns)
    return _point.trace(static, run, scalars)


@partial(jax.jit, static_argnums=(0, 1))
def evaluate(
    static: Static, layout: Layout | None, run: Partial, columns: Columns
) -> dict[str, jax.Array]:
    """Evaluate `run` on the product of the axes, which lead the results in their order.

    With a layout, the points are lanes; without one, they are vmapped.
    """

    def in_lanes():
        assert layout is not None
        traced = trace(static, run, columns)
        program, structure = traced.jaxpr, traced.out_info[0]
        outputs = evaluate_in_lanes(program, jax.tree.leaves(run), columns, layout)
        return jax.tree.unflatten(jax.tree.structure(structure), outputs)

    def vmapped():
        def point(*axes):
            return _point(static, run, axes)[0]

        for i in reversed(range(len(columns))):
            point = jax.vmap(point, [0 if j == i else None for j in range(len(columns))])
        return point(*columns)

    return vmapped() if layout is None else or_else(in_lanes, vmapped)


def masks_of_inputs(program: Any, columns: Columns) -> list[int]:
    """Return the mask of axes that each input of a program depends on."""
    # Bound arrays come first and are the same for all points.
    axes = [1 << i for i, axis in enumerate(columns) for _ in axis]
    return [0] * (len(program.jaxpr.invars) - len(axes)) + axes


def _check_outputs(outputs: Any) -> dict[str, jax.Array]:
    rule = "`run` must return a dict of arrays by name"
    if not isinstance(outputs, Mapping) or not outputs:
        raise TypeError(f"{rule}, got {outputs!r}.")
    for name, value in outputs.items():
        if not isinstance(name, str) or not _is_array(value):
            raise TypeError(f"{rule}, got {value!r} for {name!r}.")
    return {name: jnp.asarray(value) for name, value in outputs.items()}


def _is_array(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        # PRNG keys are arrays, too, but not numeric.
        return any(jnp.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_))
    return isinstance(value, int | float | complex)
