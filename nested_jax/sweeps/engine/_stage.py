"""Geometry and programs of a sweep in stages: chunks of the runs that are still running."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from nested_jax._core.stages import Stages, advanced, started
from nested_jax.sweeps.engine._job import Job, whole
from nested_jax.sweeps.engine._tracing import Carried, Columns, Static, check_outputs, trace
from nested_jax.sweeps.grid import Axis, Grid, column_in_jax

# Names of the outputs of a stage: "carry 000000", "carry 000001", ..., and "report loss", ...
CARRY, REPORT = "carry ", "report "


@dataclasses.dataclass(frozen=True, eq=False)
class Stage(Job):
    """A function on the cells of a grid that are still running, in chunks of one shape.

    A cell is a combination of all axes outside `over`. Cells are listed in the order of the grid,
    static axes first, and their number is the place in that list. A chunk holds cells of one
    combination of the static axes, and the axes in `over` whole: its numeric axes are the list of
    its cells, then those in `over`. The last chunk is padded with its last cell.

    Attributes:
        over: Axes along which runs go on, or stop, together.
        cells: Numbers of the cells that are still running, ascending.
        carried: By combination of the static axes, the state of all its runs, with its cells and
            the axes in `over` in front; None before the first stage.
    """

    over: tuple[str, ...] = ()
    cells: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    carried: tuple[tuple[np.ndarray, ...], ...] | None = None

    @cached_property
    def joint(self) -> tuple[Axis, ...]:
        """The numeric axes outside `over`."""
        return tuple(axis for axis in self.numeric if axis.name not in self.over)

    @cached_property
    def together(self) -> tuple[Axis, ...]:
        """The axes in `over`, in the order of the grid."""
        return tuple(axis for axis in self.numeric if axis.name in self.over)

    @property
    def per_static(self) -> int:
        """Number of cells of one combination of the static axes."""
        return int(np.prod([axis.size for axis in self.joint], dtype=np.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells of the grid, and lengths of the axes in `over`."""
        return (len(self.statics) * self.per_static, *(axis.size for axis in self.together))

    @property
    def chunks(self) -> int:
        return len(self._groups)

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        owner, length = self.cells // self.per_static, self.chunk[0]
        own = [self.cells[owner == number] for number in range(len(self.statics))]
        return [each[i : i + length] for each in own for i in range(0, len(each), length)]

    def members(self, index: int) -> np.ndarray:
        """Return the cells of a chunk, without padding."""
        return self._groups[index]

    def static(self, index: int) -> Static:
        return self.statics[int(self._groups[index][0]) // self.per_static]

    def runs(self, index: int) -> int:
        return len(self._groups[index]) * int(np.prod(self.shape[1:], dtype=np.int64))

    def columns(self, index: int) -> Columns:
        return self._columns(self._groups[index])

    def _columns(self, cells: np.ndarray) -> Columns:
        owner = int(cells[0]) // self.per_static
        cells = np.append(cells, np.repeat(cells[-1:], self.chunk[0] - len(cells)))
        cells = cells % self.per_static
        at = np.unravel_index(cells, [axis.size for axis in self.joint])
        listed = {
            key: column_in_jax(key, column[places])
            for axis, places in zip(self.joint, at, strict=True)
            for key, column in axis.columns.items()
        }
        whole = [
            {key: column_in_jax(key, column) for key, column in axis.columns.items()}
            for axis in self.together
        ]
        if self.carried is None:
            return (listed, *whole)
        return (listed, *whole, Carried(tuple(leaf[cells] for leaf in self.carried[owner])))

    def place(
        self, index: int, results: Mapping[str, np.ndarray], outputs: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        cells = self._groups[index]
        own = {name: values[: len(cells)] for name, values in outputs.items()}
        for name, values in own.items():
            results[name][cells] = values
        return own

    def keep(self, index: int, leaves: Sequence[np.ndarray]) -> None:
        """Write the state of a chunk's runs into `carried`."""
        assert self.carried is not None
        cells = self._groups[index]
        owner = int(cells[0]) // self.per_static
        for leaf, values in zip(self.carried[owner], leaves, strict=True):
            leaf[cells % self.per_static] = values[: len(cells)]

    def sample(self, at: int) -> tuple[Static, Columns]:
        cells = at * self.per_static + np.arange(min(self.chunk[0], self.per_static))
        return self.statics[at], self._columns(cells)

    def in_grid(self, values: np.ndarray) -> np.ndarray:
        """Return an array of shape (cells, axes in `over`, ...) with the axes of the grid."""
        static = [axis for axis in self.grid.values() if axis.static]
        order = [axis.name for axis in (*static, *self.joint, *self.together)]
        sizes = [self.grid[name].size for name in order]
        values = values.reshape(*sizes, *values.shape[len(self.shape) :])
        return np.moveaxis(values, range(len(order)), [[*self.grid].index(name) for name in order])

    @property
    def _whole(self) -> list[bool]:
        return [False] * (1 + len(self.together))


def start(run: Partial) -> Partial:
    """Return the program of point -> leaves of the first carry."""
    return Partial(_start, run)


def advance(run: Partial, stage: int) -> Partial:
    """Return the program of (leaves of a carry, point) -> leaves of the next, and the report."""
    return Partial(_advance, run, np.int32(stage))


def _start(run: Partial, /, **point: Any) -> dict[str, Any]:
    return _named(started(run(**point)))


def _advance(run: Partial, stage: Any, leaves: Sequence[Any], /, **point: Any) -> dict[str, Any]:
    stages: Stages = run(**point)
    wrappers = []

    def first():
        carry = started(stages)
        wrappers.extend(map(_wrapper, jax.tree.leaves(carry)))
        return carry

    structure = jax.tree.structure(jax.eval_shape(first))
    carry = structure.unflatten([f(leaf) for f, leaf in zip(wrappers, leaves, strict=True)])
    carry = advanced(stages, carry, stage)
    report = check_outputs("report", stages.report(carry))
    return _named(carry) | {REPORT + name: value for name, value in report.items()}


def _named(carry: Any) -> dict[str, Any]:
    # NumPy has no arrays of keys.
    data = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(carry)]
    # JAX sorts the names of a dict.
    return {f"{CARRY}{i:06d}": leaf for i, leaf in enumerate(data)}


def _wrapper(leaf: Any) -> Any:
    if not _is_key(leaf):
        return lambda data: data
    implementation = jax.random.key_impl(leaf)
    return lambda data: jax.random.wrap_key_data(data, impl=implementation)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def stages_of(run: Partial, grid: Grid) -> int:
    """Return the number of stages of a swept function.

    Raises:
        TypeError: If it does not return a `Stages`.
        ValueError: If the number changes along a static axis.
    """
    found: dict[int, Static] = {}
    for static, columns in whole(run, grid).samples():

        def count(run, scalars, static=static):
            returned = run(**dict(static), **scalars)
            if not isinstance(returned, Stages):
                rule = "`run` must return a nested_jax.Stages if there is a `stop`"
                raise TypeError(f"{rule}, got {returned!r}.")
            found.setdefault(int(returned.stages), static)

        scalars = {key: column[0] for axis in columns for key, column in axis.items()}
        jax.eval_shape(count, run, scalars)
    (number, first), *others = found.items()
    if others:
        other, where = others[0]
        raise ValueError(
            f"`run` must return the same number of stages at every point, got {number} for "
            f"{dict(first)} and {other} for {dict(where)}."
        )
    return number


def state_of(job: Stage) -> tuple[tuple[np.ndarray, ...], ...]:
    """Return room for the state of all runs, for the field `carried`."""

    def room(static: Static, columns: Columns) -> tuple[np.ndarray, ...]:
        leaves = trace(static, job.run, columns).out_info[0].values()
        lengths = (job.per_static, *job.shape[1:])
        return tuple(np.zeros((*lengths, *leaf.shape), leaf.dtype) for leaf in leaves)

    return tuple(room(*sample) for sample in job.samples())
