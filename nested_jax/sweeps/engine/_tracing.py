"""Trace the swept function at one point."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax._core.checks import recording
from nested_jax._core.stages import Stages, in_one_go


class Carried(NamedTuple):
    """The state of all runs of a chunk, between two stages.

    Attributes:
        leaves: Arrays with one leading axis per numeric axis; the function's positional argument.
    """

    leaves: tuple[Any, ...]


# Values of the numeric axes: one dict of columns per axis, in the order of the grid; in a stage,
# the state of the runs comes last.
# `Static` is one combination of the static axes: (name, value) pairs.
Columns = tuple[Any, ...]
Static = tuple[tuple[str, Any], ...]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rules:
    """Validation rules of factories for grid values, found while tracing: (column, rule)."""

    asked: tuple[tuple[str, Callable[[Any], None]], ...]


@partial(jax.jit, static_argnums=0)
def at_one_point(static: Static, run: Partial, axes: Columns) -> tuple[dict[str, jax.Array], Rules]:
    """Evaluate `run` at one point.

    The rules are in the tree structure of the output, so that JAX caches them with the trace.
    """
    numbers, carried = split(axes)
    values = {name: value for axis in numbers for name, value in axis.items()}
    state = () if carried is None else (carried,)
    with recording() as rules:
        outputs = run(*state, **dict(static), **values)
        staged = isinstance(outputs, Stages)
        outputs = in_one_go(outputs) if staged else outputs
    asked = [
        (name, rule)
        for name, value in values.items()
        for checked, rule in rules
        if checked is value
    ]
    return check_outputs("report" if staged else "run", outputs), Rules(tuple(asked))


def split(columns: Columns) -> tuple[list[dict[str, Any]], tuple[Any, ...] | None]:
    """Return the columns of the axes, and the state of the runs or None."""
    axes = [axis for axis in columns if not isinstance(axis, Carried)]
    return axes, columns[-1].leaves if len(axes) < len(columns) else None


def trace(static: Static, run: Partial, columns: Columns) -> Any:
    """Trace `run` at one point of a chunk.

    How its bound arrays are sharded is left out: a chunk has them whole, on its device.
    """
    axes = len(split(columns)[0])

    def whole(bound):
        aval = jax.typeof(bound)
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)

    def scalars(values):
        leading = axes if isinstance(values, Carried) else 1
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[leading:], x.dtype), values)

    return at_one_point.trace(static, jax.tree.map(whole, run), tuple(map(scalars, columns)))


class Program(NamedTuple):
    """The swept function at one point, traced: hashable, so that a larger trace may hold it.

    Attributes:
        jaxpr: Its inputs are the bound arrays, then the columns of each axis.
        structure: The tree of its outputs.
        dtypes: Of each output.
    """

    jaxpr: Any
    structure: Any
    dtypes: tuple[Any, ...]


def program_of(static: Static, run: Partial, columns: Columns) -> Program:
    """Return the program of `run` at one point of a chunk."""
    traced = trace(static, run, columns)
    leaves, structure = jax.tree.flatten(traced.out_info[0])
    return Program(traced.jaxpr, structure, tuple(leaf.dtype for leaf in leaves))


def masks_of_inputs(program: Any, columns: Columns) -> list[int]:
    """Return the mask of axes that each input of a program depends on."""
    # Bound arrays come first and are the same for all points.
    numbers, carried = split(columns)
    axes = [1 << i for i, axis in enumerate(numbers) for _ in axis]
    axes += [(1 << len(numbers)) - 1] * len(carried or ())
    return [0] * (len(program.jaxpr.invars) - len(axes)) + axes


def check_outputs(name: str, outputs: Any) -> dict[str, jax.Array]:
    """Return the results of a run as arrays; raise unless function `name` gave a dict of them."""
    rule = f"`{name}` must return a dict of arrays by name"
    if not isinstance(outputs, Mapping) or not outputs:
        raise TypeError(f"{rule}, got {outputs!r}.")
    for key, value in outputs.items():
        if not isinstance(key, str) or not _is_array(value):
            raise TypeError(f"{rule}, got {value!r} for {key!r}.")
    return {key: jnp.asarray(value) for key, value in outputs.items()}


def _is_array(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        # PRNG keys are arrays, too, but not numeric.
        return any(jnp.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_))
    return isinstance(value, int | float | complex)
