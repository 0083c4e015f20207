"""A sweep cut into chunks: what is to be computed, wherever that happens."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax import _checks
from nested_jax._version import __version__
from nested_jax.sweep._axes import Axis, label
from nested_jax.sweep._grid import Grid

# Values of the numeric axes: one dict of columns an axis, in the order of the grid.
Columns = tuple[dict[str, Any], ...]
Static = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Job:
    """A function on a grid, in chunks of one shape.

    A chunk is a block of the numeric axes at one combination of the static ones. All chunks have
    the same shape, the last of an axis being filled up with its last value, so that a result does
    not depend on which chunks were computed together, where, or by how many.

    Attributes:
        run: The swept function.
        grid: The points.
        chunk: Length of a chunk along each numeric axis.
    """

    run: Partial
    grid: Grid
    chunk: tuple[int, ...]

    @property
    def numeric(self) -> tuple[Axis, ...]:
        """The axes that are vmapped."""
        return tuple(axis for axis in self.grid.values() if not axis.static)

    @cached_property
    def statics(self) -> tuple[Static, ...]:
        """All combinations of the static axes, the last running fastest."""
        axes = [axis for axis in self.grid.values() if axis.static]
        products = itertools.product(*(range(axis.size) for axis in axes))
        return tuple(
            tuple((axis.name, axis.columns[axis.name][i]) for axis, i in zip(axes, at, strict=True))
            for at in products
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of chunks along each numeric axis."""
        return tuple(-(-a.size // c) for a, c in zip(self.numeric, self.chunk, strict=True))

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return len(self.statics) * int(np.prod(self.blocks, dtype=np.int64))

    def static(self, index: int) -> Static:
        """Return the static values of a chunk."""
        return self.statics[index // (self.chunks // len(self.statics))]

    def columns(self, index: int) -> Columns:
        """Return the numeric values of a chunk, in JAX's default precision."""
        return tuple(
            {key: column_in_jax(key, column[at]) for key, column in axis.columns.items()}
            for axis, at in zip(self.numeric, self._positions(index), strict=True)
        )

    def place(self, index: int, results: dict[str, np.ndarray], outputs: Mapping[str, Any]) -> int:
        """Write a chunk's outputs to where they belong in `results`; return the number of runs."""
        block = self.chunks // len(self.statics)
        at_static = np.unravel_index(index // block, self._static_shape) if self.statics[0] else ()
        at_static, positions = iter(at_static), iter(self._positions(index))
        where, cut, runs = [], [], 1
        for axis in self.grid.values():
            if axis.static:
                where.append(int(next(at_static)))
                continue
            at = next(positions)
            inside = int(np.unique(at).size)
            where.append(slice(int(at[0]), int(at[0]) + inside))
            cut.append(slice(inside))
            runs *= inside
        for name, values in outputs.items():
            results[name][tuple(where)] = values[tuple(cut)]
        return runs

    @property
    def _static_shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.grid.values() if axis.static)

    def _positions(self, index: int) -> list[np.ndarray]:
        block = np.unravel_index(index % (self.chunks // len(self.statics)), self.blocks or (1,))
        return [
            np.minimum(int(at) * length + np.arange(length), axis.size - 1)
            for axis, length, at in zip(self.numeric, self.chunk, block, strict=False)
        ]

    def fingerprint(self, platform: str) -> dict[str, Any]:
        """Return what a result depends on: the program itself, its arguments, the grid, versions.

        The program is told by a hash of what JAX makes of it, so that any change of the swept
        function or of what it calls shows, and a change of a comment does not.
        """
        programs = {}
        for static in self.statics:
            at = self.statics.index(static) * (self.chunks // len(self.statics))
            text = evaluate.lower(static, self.run, self.columns(at)).as_text()
            name = ", ".join(f"{key}={label(value)}" for key, value in static)
            programs[name] = hashlib.sha256(text.encode()).hexdigest()
        arguments = hashlib.sha256()
        for leaf in jax.tree.leaves(self.run):
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            values = np.asarray(leaf)
            arguments.update(f"{values.dtype} {values.shape}".encode() + values.tobytes())
        return {
            "programs": programs,
            "arguments": arguments.hexdigest(),
            "grid": self.grid.describe(),
            "chunk": [*self.chunk],
            "platform": platform,
            "x64": bool(jax.config.jax_enable_x64),
            "jax": jax.__version__,
            "nested_jax": __version__,
        }


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the hash of a fingerprint."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def column_in_jax(name: str, values: np.ndarray) -> np.ndarray:
    """Return a column in JAX's default precision, so that x64 decides and not the grid."""
    dtype = jax.dtypes.canonicalize_dtype(int if values.dtype.kind in "iu" else float)
    with np.errstate(over="ignore"):
        column = values.astype(dtype)
    # NumPy wraps integers (two seeds could become one) and flushes floats without a word.
    lost = values[~np.isclose(column, values, rtol=1e-6, atol=0)]
    if lost.size:
        raise ValueError(f"`{name}` must hold what {dtype} can (is x64 enabled?), got {lost[0]}.")
    return column


@partial(jax.jit, static_argnums=0)
def evaluate(static: Static, run: Partial, columns: Columns) -> dict[str, jax.Array]:
    """Evaluate `run` on the product of the axes; leading axes of the result in their order."""

    def point(*axes):
        values = {name: value for axis in axes for name, value in axis.items()}
        with _checks.recording() as rules:
            outputs = run(**dict(static), **values)
        _RULES[_rules_key(static, run, columns)] = [
            (name, rule)
            for name, value in values.items()
            for checked, rule in rules
            if checked is value
        ]
        return _check_outputs(outputs, [*values, *dict(static)])

    for i in reversed(range(len(columns))):
        point = jax.vmap(point, [0 if j == i else None for j in range(len(columns))])
    return point(*columns)


# What the factories ask of the values that reach them, found while tracing: (column, rule).
_RULES: dict[Any, list[tuple[str, Callable[[Any], None]]]] = {}


def _rules_key(static: Static, run: Partial, columns: Columns) -> Any:
    names = tuple(name for axis in columns for name in axis)
    return static, jax.tree.structure(run), names


def check_values(job: Job) -> None:
    """Hold every value of the grid against the rules of the factories that it reaches.

    Raises:
        TypeError, ValueError: The factory's own error, with axis, index and value.
    """
    values = {name: column for axis in job.numeric for name, column in axis.columns.items()}
    for static in job.statics:
        columns = job.columns(job.statics.index(static) * (job.chunks // len(job.statics)))
        evaluate.trace(static, job.run, columns)
        for name, rule in _RULES.get(_rules_key(static, job.run, columns), []):
            for i, value in enumerate(values[name].tolist()):
                try:
                    rule(value)
                except (TypeError, ValueError) as error:
                    raise type(error)(f"`{name}`[{i}] = {value}: {error}") from None


def _check_outputs(outputs: Any, names: list[str]) -> dict[str, jax.Array]:
    rule = "`run` must return a dict of arrays by name"
    if not isinstance(outputs, Mapping) or not outputs:
        raise TypeError(f"{rule}, got {outputs!r}.")
    for name, value in outputs.items():
        number = isinstance(value, jax.Array | np.ndarray | np.generic | int | float)
        if not isinstance(name, str) or not number:
            raise TypeError(f"{rule}, got {value!r} for {name!r}.")
        if name in names:
            raise ValueError(f"`run` must not return the name of an axis, got {name!r}.")
    return {name: jnp.asarray(value) for name, value in outputs.items()}
