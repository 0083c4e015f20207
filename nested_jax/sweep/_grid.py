"""The points of a sweep: a product of named axes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np


class Grid(Mapping[str, np.ndarray]):
    """A product of named axes of numbers.

    The order of the axes is the order in which `sweep` nests its vmaps, outermost first, and the
    order of the dimensions of its result. Put the axis that most of the work depends on first.

    Args:
        **axes: One iterable of distinct numbers per axis. Integers stay integers (level counts,
            seeds); anything else becomes float64, and is handed on in JAX's default precision.

    Raises:
        TypeError: If an axis is no iterable of real numbers.
        ValueError: If there is no axis, an axis is empty, or a value is NaN or occurs twice.

    Example:
        >>> import nested_jax as nj
        >>> grid = nj.Grid(learning_rate=[0.1, 0.01], seed=range(3))
        >>> grid.shape
        (2, 3)
    """

    def __init__(self, /, **axes: Iterable[float]):
        if not axes:
            raise ValueError("`axes` must name at least one axis, got none.")
        self._axes = {name: _axis(name, values) for name, values in axes.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._axes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and repr(self) == repr(other)

    __hash__ = None

    def __repr__(self) -> str:
        return "Grid(" + ", ".join(f"{k}={v.tolist()}" for k, v in self.items()) + ")"

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(values.size for values in self.values())

    @property
    def size(self) -> int:
        """Number of runs."""
        return int(np.prod(self.shape))


def _axis(name: str, values: Any) -> np.ndarray:
    rule = f"`{name}` must be an iterable of distinct numbers"
    is_iterable = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    if isinstance(values, str | bytes | Mapping) or not is_iterable:
        raise TypeError(f"{rule}, got {values!r}.")
    values = list(values)
    if not values:
        raise ValueError(f"{rule}, got no value.")
    for i, value in enumerate(values):
        is_number = np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
        if not is_number:
            raise TypeError(f"{rule}, got {value!r} at index {i}.")
        if np.isnan(value):
            raise ValueError(f"{rule}, got nan at index {i}.")
    axis = np.asarray(values)
    axis = axis if axis.dtype.kind in "iu" else axis.astype(np.float64)
    unique, counts = np.unique(axis, return_counts=True)
    if unique.size < axis.size:
        raise ValueError(f"{rule}, got {unique[counts > 1][0]} more than once.")
    return axis
