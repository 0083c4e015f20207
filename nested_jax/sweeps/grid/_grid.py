"""`Grid`: the points of a sweep, as a product of named axes."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nested_jax.sweeps.grid._axes import Axis, Values, Zipped, label, listed, make_axis, plain


class Grid(Mapping[str, Axis]):
    """A product of named axes.

    `sweep` nests its vmaps in the order of the axes, outermost first, and its result has the
    dimensions in the same order. Put the axis that most of the work depends on first.

    An axis of numbers is vmapped. Strings, booleans, None and functions make a *static* axis: its
    values are passed to the swept function untraced and may select different programs, at the cost
    of one compilation each. See `zipped` for hyperparameters that vary together, and
    `powers_of_two` and `log_uniform` for values.

    Args:
        **axes: One iterable of distinct values per axis, or a `zipped`. Integers (level counts,
            seeds) stay integers. Other numbers become float64 and are passed on in JAX's default
            precision.

    Raises:
        TypeError: If an axis is not an iterable of numbers or of static values.
        ValueError: If there is no axis, an axis is empty, a value is NaN or occurs twice, or two
            axes hold the same hyperparameter.

    Example:
        >>> import nested_jax as nj
        >>> grid = nj.Grid(schedule=["cosine", "fixed"], learning_rate=[0.1, 0.01], seed=range(3))
        >>> grid.shape, grid.size
        ((2, 2, 3), 12)
        >>> grid.points()[1]
        {'schedule': 'cosine', 'learning_rate': 0.1, 'seed': 1}
        >>> grid.sub(seed=[0], schedule=["cosine"]).size
        2
    """

    def __init__(self, /, **axes: Values):
        if not axes:
            raise ValueError("`axes` must name at least one axis, got none.")
        self._axes = {name: make_axis(name, values) for name, values in axes.items()}
        names = [*self._axes]
        for axis in self._axes.values():
            names += [column for column in axis.columns if column != axis.name]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise ValueError(f"`axes` must have names of their own, got {repeated.pop()!r} twice.")

    def __getitem__(self, name: str) -> Axis:
        return self._axes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self.describe() == other.describe()

    __hash__ = None

    def __repr__(self) -> str:
        parts = []
        for name, axis in self.items():
            columns = {key: plain(column) for key, column in axis.columns.items()}
            inner = ", ".join(f"{key}={values}" for key, values in columns.items())
            parts.append(inner if [*columns] == [name] else f"{name}=zipped({inner})")
        return f"Grid({', '.join(parts)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(axis.size for axis in self.values())

    @property
    def size(self) -> int:
        """Number of runs."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments of the swept function."""
        return tuple(column for axis in self.values() for column in axis.columns)

    def points(self) -> list[dict[str, Any]]:
        """List the points in the order of the grid: the last axis varies fastest.

        Point i of the list is entry i of a flattened result. Numbers are Python numbers, before
        they are rounded to JAX's default precision; static values are the values themselves.

        Returns:
            One dict per run, from the arguments of the swept function to their values.
        """
        along = []
        for axis in self.values():
            columns = [
                column if axis.static else column.tolist() for column in axis.columns.values()
            ]
            along.append(
                [dict(zip(axis.columns, at, strict=True)) for at in zip(*columns, strict=True)]
            )
        return [
            {name: value for part in parts for name, value in part.items()}
            for parts in itertools.product(*along)
        ]

    def sub(self, /, **values: Any) -> "Grid":
        """Return the grid restricted to some of its values.

        Args:
            **values: Axis -> the values to keep, in this order. For a zipped axis, pass indices.

        Raises:
            TypeError: If the values are not an iterable.
            ValueError: If an axis or value does not exist, or a value occurs twice.
        """
        for name in values:
            if name not in self:
                raise ValueError(f"`values` must name axes of {[*self]}, got {name!r}.")
        block = []
        for name, axis in self.items():
            keep: Sequence[int] = range(axis.size)
            if name in values:
                given = listed(values[name], f"`{name}` must be an iterable of its axis's values")
                keep = [_position(axis, value) for value in given]
            block.append(keep)
        return restricted(self, block)

    def coordinates(self) -> dict[str, Any]:
        """Return the coordinates of a result, in the form that `xarray.Dataset` accepts."""
        coordinates: dict[str, Any] = {}
        for name, axis in self.items():
            if name not in axis.columns:
                coordinates[name] = np.arange(axis.size)
            for key, column in axis.columns.items():
                coordinates[key] = (name, [*map(label, column)] if axis.static else column)
        return coordinates

    def describe(self) -> list[Any]:
        """Return a description that identifies the grid, ready for JSON; floats stay exact.

        A long axis is described by the hash of its values.
        """
        # A list, because the order of the axes matters: it orders the result's dimensions.
        return [[name, axis.describe()] for name, axis in self.items()]


def restricted(grid: Grid, block: Sequence[Sequence[int]]) -> Grid:
    """Return the grid of the points at some positions along each axis, in their order."""
    axes: dict[str, Any] = {}
    for (name, axis), keep in zip(grid.items(), block, strict=True):
        columns = {key: column[[*keep]] for key, column in axis.columns.items()}
        axes[name] = columns[name] if [*columns] == [name] else Zipped(columns)
    return Grid(**axes)


def check_grid(grid: Any) -> None:
    """Raise unless `grid` is a `Grid`."""
    if not isinstance(grid, Grid):
        raise TypeError(f"`grid` must be a nested_jax.Grid, got a {type(grid).__name__}.")


def _position(axis: Axis, value: Any) -> int:
    column = axis.columns.get(axis.name, np.arange(axis.size))
    for i, candidate in enumerate(column):
        if candidate is value or (not callable(candidate) and candidate == value):
            return i
    raise ValueError(f"`{axis.name}` must be one of its axis's values, got {value!r}.")
