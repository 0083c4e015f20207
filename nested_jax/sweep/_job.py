"""A sweep cut into chunks: what is to be computed, wherever that happens."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax import _checks
from nested_jax._jaxpr import or_else
from nested_jax._version import __version__
from nested_jax.sweep._axes import Axis, label
from nested_jax.sweep._grid import Grid
from nested_jax.sweep._lanes import Layout, evaluate_in_lanes
from nested_jax.sweep._layout import layout_of
from nested_jax.sweep._sharing import bytes_carried, bytes_held, work_by_axes

# Values of the numeric axes: one dict of columns an axis, in the order of the grid.
Columns = tuple[dict[str, Any], ...]
Static = tuple[tuple[str, Any], ...]
# What a run returns: name -> shape and dtype.
Structure = dict[str, tuple[tuple[int, ...], Any]]


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

    def runs(self, index: int) -> int:
        """Return the number of points of a chunk, less what fills it up."""
        return math.prod(int(at[-1] - at[0]) + 1 for at in self._positions(index))

    def columns(self, index: int) -> Columns:
        """Return the numeric values of a chunk, in JAX's default precision."""
        return tuple(
            {key: column_in_jax(key, column[at]) for key, column in axis.columns.items()}
            for axis, at in zip(self.numeric, self._positions(index), strict=True)
        )

    def place(
        self, index: int, results: Mapping[str, np.ndarray], outputs: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """Write a chunk's outputs, less what fills it up, to where they belong; return these."""
        block = self.chunks // len(self.statics)
        at_static = iter(np.unravel_index(index // block, self._static_shape or (1,)))
        positions = iter(self._positions(index))
        where, cut = [], []
        for axis in self.grid.values():
            if axis.static:
                where.append(int(next(at_static)))
                continue
            at = next(positions)
            inside = int(at[-1] - at[0]) + 1
            where.append(slice(int(at[0]), int(at[0]) + inside))
            cut.append(slice(inside))
        own = {name: values[tuple(cut)] for name, values in outputs.items()}
        for name, values in own.items():
            results[name][tuple(where)] = values
        return own

    @property
    def _static_shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.grid.values() if axis.static)

    def _positions(self, index: int) -> list[np.ndarray]:
        block = np.unravel_index(index % (self.chunks // len(self.statics)), self.blocks or (1,))
        return [
            np.minimum(int(at) * length + np.arange(length), axis.size - 1)
            for axis, length, at in zip(self.numeric, self.chunk, block, strict=False)
        ]

    def sample(self, at: int) -> tuple[Static, Columns]:
        """Return a combination of the static axes, with the numeric values of a chunk of it."""
        return self.statics[at], self.columns(at * (self.chunks // len(self.statics)))

    def layouts(self, platform: str) -> tuple[Layout | None, ...]:
        """Return how points are laid out, by combination of the static axes; None is vmapped."""
        # What is slow about vmap, short innermost loops, is so on CPU.
        return self._layouts if platform == "cpu" else (None,) * len(self.statics)

    @cached_property
    def _layouts(self) -> tuple[Layout | None, ...]:
        whole = [pieces == 1 for pieces in self.blocks]

        def layout(static: Static, columns: Columns) -> Layout | None:
            program = trace(static, self.run, columns).jaxpr
            return or_else(lambda: layout_of(program, columns, whole), lambda: None)

        return tuple(layout(*sample) for sample in self.samples())

    def bytes_carried(self, at: int) -> int:
        """Return what loops hand from step to step, by combination of the static axes."""
        static, columns = self.sample(at)
        program = trace(static, self.run, columns).jaxpr
        masks = _masks(program, columns)
        return or_else(lambda: bytes_carried(program.jaxpr, masks, self.chunk), int)

    def samples(self) -> Iterator[tuple[Static, Columns]]:
        """Yield a sample of each combination of the static axes."""
        return map(self.sample, range(len(self.statics)))

    def fingerprint(self, platform: str) -> dict[str, Any]:
        """Return what a result depends on: the program itself, its arguments, the grid, versions.

        The program is told by a hash of what JAX makes of it, so that any change of the swept
        function or of what it calls shows, and a change of a comment does not.
        """
        programs = {}
        for layout, (static, columns) in zip(self.layouts(platform), self.samples(), strict=True):
            text = evaluate.lower(static, layout, self.run, columns).as_text()
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
            "x64": jax.dtypes.canonicalize_dtype(float).itemsize == 8,
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


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Rules:
    """What factories ask of the values that reach them, found while tracing: (column, rule)."""

    asked: tuple[tuple[str, Callable[[Any], None]], ...]


@partial(jax.jit, static_argnums=0)
def _point(static: Static, run: Partial, axes: Columns) -> tuple[dict[str, jax.Array], Rules]:
    """Evaluate `run` at one point.

    The rules are part of the structure of the output, so that they are kept with the trace.
    """
    values = {name: value for axis in axes for name, value in axis.items()}
    with _checks.recording() as rules:
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
    """Evaluate `run` on the product of the axes; leading axes of the results in their order.

    With a layout the points are lanes, without one they are vmapped.
    """
    traced = trace(static, run, columns)
    program, structure = traced.jaxpr, traced.out_info[0]

    def in_lanes():
        assert layout is not None
        outputs = evaluate_in_lanes(program, jax.tree.leaves(run), columns, layout)
        return jax.tree.unflatten(jax.tree.structure(structure), outputs)

    def vmapped():
        def point(*axes):
            return _point(static, run, axes)[0]

        for i in reversed(range(len(columns))):
            point = jax.vmap(point, [0 if j == i else None for j in range(len(columns))])
        return point(*columns)

    return vmapped() if layout is None else or_else(in_lanes, vmapped)


def examine(run: Partial, grid: Grid) -> Structure:
    """Trace every program, hold the grid against its rules, and return what a run returns.

    Raises:
        TypeError, ValueError: Of a value: the factory's own error, with axis, index and value.
            Of a result: if it is no dict of arrays, its structure changes along a static axis, or
            it has the name of an axis or of another's dimension.
    """
    job = Job(run, grid, tuple(axis.size for axis in grid.values() if not axis.static))
    given = {name: column for axis in job.numeric for name, column in axis.columns.items()}
    first: Structure = {}
    for static, columns in job.samples():
        traced = trace(static, run, columns)
        # What is traced outside and read by `run` comes in as one argument more.
        read = len(traced.jaxpr.jaxpr.invars) > len(jax.tree.leaves((run, columns)))
        if read or any(map(_checks.is_traced, jax.tree.leaves(run))):
            raise TypeError(
                "`run` must not depend on what is traced around the sweep (by jit, vmap, grad or "
                "another sweep): make an axis of it, or sweep outside."
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
        for name in given.keys() & grid.keys():  # Of a zipped axis values may repeat.
            _check_distinct(name, given[name], in_jax[name])
        for name, rule in rules.asked:
            _check_values(name, given[name], in_jax[name], rule)
    _check_names(first, grid)
    return first


def _masks(program: Any, columns: Columns) -> list[int]:
    """Return the axes that each input of a program depends on, as a mask."""
    # Bound arrays come first, the same for all points.
    axes = [1 << i for i, axis in enumerate(columns) for _ in axis]
    return [0] * (len(program.jaxpr.invars) - len(axes)) + axes


def survey(run: Partial, grid: Grid) -> tuple[dict[int, float], int]:
    """Return what work depends on which axes, for a point, and which static one holds most.

    The axes are a mask over the numeric ones; the static combination is told by its number.
    """
    job = Job(run, grid, tuple(axis.size for axis in grid.values() if not axis.static))
    work: defaultdict[int, float] = defaultdict(float)
    held = []
    for static, columns in job.samples():
        program = trace(static, run, columns).jaxpr
        masks = _masks(program, columns)
        counted = or_else(partial(work_by_axes, program, masks), dict[int, int])
        for mask, operations in counted.items():
            work[mask] += operations
        held.append(or_else(partial(bytes_held, program.jaxpr), int))
    return work, max(range(len(held)), key=held.__getitem__)


def _check_distinct(name: str, given: np.ndarray, in_jax: np.ndarray) -> None:
    values, first = np.unique(in_jax, return_index=True)
    if values.size < in_jax.size:
        other = min({*range(in_jax.size)} - {*first.tolist()})
        raise ValueError(
            f"`{name}` must hold values that stay distinct in {in_jax.dtype} (is x64 enabled?), "
            f"got {given[other]} at index {other}."
        )


def _check_values(name: str, given: np.ndarray, in_jax: np.ndarray, rule: Callable) -> None:
    # Rounded, too: 0.99999999 is 1 in float32.
    for i, seen in enumerate(zip(given.tolist(), in_jax.tolist(), strict=True)):
        for value in seen:
            try:
                rule(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"`{name}`[{i}] = {seen[0]}: {error}") from None


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
        # Keys are arrays, too, but not of numbers.
        return any(jnp.issubdtype(value.dtype, kind) for kind in (np.number, np.bool_))
    return isinstance(value, int | float | complex)


def _check_names(structure: Structure, grid: Grid) -> None:
    taken = {*grid, *grid.arguments}
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
    """Return what the dimensions of an array result are called."""
    return tuple(f"{name}_{i}" for i in range(rank))


def _shown(structure: Structure) -> str:
    return ", ".join(f"{name}: {dtype}{[*shape]}" for name, (shape, dtype) in structure.items())
