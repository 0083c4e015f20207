"""Checks before a sweep compiles: the values of the grid and the result of the function."""

import warnings
from typing import Any

import jax
from jax.tree_util import Partial

from nested_jax._core.checks import is_traced
from nested_jax._core.jaxpr import all_eqns
from nested_jax.sweeps.engine._job import whole
from nested_jax.sweeps.engine._tracing import trace
from nested_jax.sweeps.grid import Grid, check_distinct, check_values

# The result of a run: name -> shape and dtype.
Structure = dict[str, tuple[tuple[int, ...], Any]]


def examine(run: Partial, grid: Grid) -> Structure:
    """Trace every program, validate the grid, and return the structure of a run's result.

    Raises:
        TypeError, ValueError: If a grid value is invalid: the factory's own error, with axis, index
            and value. If the result is not a dict of arrays, its structure changes along a static
            axis, a name cannot be saved, or a result is named like an axis or like a dimension of
            another result. If `run`
            depends on a value traced outside the sweep.
    """
    job = whole(run, grid)
    given = {name: column for axis in job.numeric for name, column in axis.columns.items()}
    first: Structure = {}
    for static, columns in job.samples():
        traced = trace(static, run, columns)
        # A value traced outside and read by `run` appears as an extra input.
        read = len(traced.jaxpr.jaxpr.invars) > len(jax.tree.leaves((run, columns)))
        if read or any(map(is_traced, jax.tree.leaves(run))):
            raise TypeError(
                "`run` must not depend on what is traced around the sweep (by jit, vmap, grad or "
                "another sweep): make an axis of it, or sweep outside."
            )
        if any(map(_draws_for_a_batch, all_eqns(traced.jaxpr.jaxpr))):
            warnings.warn(
                "`run` draws from a key of kind rbg: JAX draws for all runs of a chunk at once, so "
                "their numbers depend on the chunk. Keys of kind threefry2x32 do not have this.",
                stacklevel=4,
            )
        outputs, rules = traced.out_info
        own = {name: (x.shape, x.dtype) for name, x in outputs.items()}
        first = first or own
        if own != first:
            raise TypeError(
                "`run` must return the same structure at every point, got "
                f"{_shown(first)} for {dict(job.statics[0])} and {_shown(own)} for {dict(static)}."
            )
        in_jax = {name: column for axis in columns for name, column in axis.items()}
        for name in given.keys() & grid.keys():  # Zipped values may repeat.
            check_distinct(name, given[name], in_jax[name])
        for name, rule in rules.asked:
            check_values(name, given[name], in_jax[name], rule)
    _check_names(first, grid)
    return first


def _draws_for_a_batch(eqn: Any) -> bool:
    """Return whether an equation draws from a key whose vmapped draws are not those of each key."""
    return eqn.primitive.name == "random_bits" and "rbg" in str(eqn.invars[0].aval.dtype)


def _check_names(structure: Structure, grid: Grid) -> None:
    taken = {*grid, *grid.arguments}
    for name in [*taken, *structure]:
        # netCDF has no such names. Refuse them now, not when hours of results are saved.
        if name in ("", ".") or "/" in name or "\0" in name:
            rule = "an axis or a result must have a name that `save` can write, without / in it"
            raise ValueError(f"`{name}`: {rule}, got {name!r}.")
    for name in structure:
        if name in taken:
            raise ValueError(f"`run` must not return the name of an axis, got {name!r}.")
    for name, (shape, _) in structure.items():
        for dimension in dimensions(name, len(shape)):
            if dimension in taken or dimension in structure:
                raise ValueError(
                    f"`run` must not return an array {name!r} beside {dimension!r}, which is what "
                    "its dimension is called."
                )


def dimensions(name: str, rank: int) -> tuple[str, ...]:
    """Return the dimension names of an array result."""
    return tuple(f"{name}_{i}" for i in range(rank))


def _shown(structure: Structure) -> str:
    return ", ".join(f"{name}: {dtype}{[*shape]}" for name, (shape, dtype) in structure.items())
