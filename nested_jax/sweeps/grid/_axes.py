"""Axes of a grid: numbers, numbers that vary together, and static values."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Axis:
    """One dimension of a grid.

    Attributes:
        name: Of the dimension.
        columns: Argument of the swept function -> its values along the axis: integers or float64,
            or, of a static axis, objects.
        static: Whether the values are handed on as they are, each a compilation of its own.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    static: bool = False

    @property
    def size(self) -> int:
        """Number of points."""
        return len(next(iter(self.columns.values())))


class Zipped:
    """Columns that vary together; see `zipped`."""

    def __init__(self, columns: Mapping[str, Iterable[float]]):
        self.columns = columns


def zipped(**columns: Iterable[float]) -> Zipped:
    """Let several hyperparameters vary together, along one axis.

    With draws such as `log_uniform` this is a random search: each point has its own value of
    every column.

    Args:
        **columns: One iterable of numbers a hyperparameter, all of one length. Values may repeat.

    Returns:
        An axis for `Grid`. The keyword it is given there names the dimension of the result; the
        columns are coordinates along it.

    Raises:
        TypeError: If a column is no iterable of numbers (raised by `Grid`).
        ValueError: If lengths differ, a column has the name of the axis, or a value is NaN (raised
            by `Grid`).

    Example:
        >>> import nested_jax as nj
        >>> grid = nj.Grid(
        ...     draw=nj.zipped(learning_rate=[0.1, 0.2, 0.4], decay=[0.9, 0.8, 0.6]), seed=range(2)
        ... )
        >>> grid.shape
        (3, 2)
    """
    return Zipped(columns)


def make_axis(name: str, values: Any) -> Axis:
    """Return the axis that a keyword of `Grid` stands for."""
    if isinstance(values, Zipped):
        return _zipped_axis(name, values)
    values = listed(values, _rule(name))
    if any(_is_number(value) for value in values):
        column = _numbers(name, values)
        unique, counts = np.unique(column, return_counts=True)
        if unique.size < column.size:
            repeated = unique[counts > 1][0]
            raise ValueError(f"{_rule(name)}, got {repeated} more than once.")
        return Axis(name, {name: column})
    return _static_axis(name, values)


def _rule(name: str) -> str:
    return f"`{name}` must be an iterable of distinct numbers, or of words, flags or functions"


def listed(values: Any, rule: str) -> list[Any]:
    """Return the values of an iterable, of which there has to be one."""
    is_iterable = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    if isinstance(values, str | bytes | Mapping) or not is_iterable:
        raise TypeError(f"{rule}, got {values!r}.")
    values = list(values)
    if not values:
        raise ValueError(f"{rule}, got no value.")
    return values


def _is_number(value: Any) -> bool:
    is_python = isinstance(value, int | float) and not isinstance(value, bool)
    # An array of objects, if it is an integer of more than 64 bits.
    array: Any = np.asarray(value) if is_python else value
    dtype = getattr(array, "dtype", None)
    # JAX's order of dtypes, unlike NumPy's, has a place for bfloat16.
    return (
        isinstance(dtype, np.dtype)
        and array.ndim == 0
        and (jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating))
    )


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    for i, value in enumerate(values):
        if not _is_number(value):
            raise TypeError(f"`{name}` must hold numbers, got {value!r} at index {i}.")
        if np.isnan(float(value)):
            raise ValueError(f"`{name}` must hold numbers, got nan at index {i}.")
    column = np.asarray([np.asarray(value) for value in values])
    numbers = [np.asarray(value).item() for value in values]
    if column.dtype.kind not in "iu" and all(isinstance(number, int) for number in numbers):
        # NumPy takes floats for them, which lose digits, if one is beyond the signed integers.
        if min(numbers) < 0:
            raise ValueError(f"`{name}` must hold integers of one type, got {numbers}.")
        return np.asarray(numbers, np.uint64)
    return column if column.dtype.kind in "iu" else column.astype(np.float64)


def _zipped_axis(name: str, values: Zipped) -> Axis:
    if not values.columns:
        raise ValueError(f"`{name}` must zip at least one column, got none.")
    if name in values.columns:
        raise ValueError(f"`{name}` must zip columns of other names than its own, got {name!r}.")
    columns = {
        key: _numbers(key, listed(column, f"`{key}` must be an iterable of numbers"))
        for key, column in values.columns.items()
    }
    lengths = {key: column.size for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"`{name}` must zip columns of one length, got {lengths}.")
    return Axis(name, columns)


def _static_axis(name: str, values: list[Any]) -> Axis:
    for i, value in enumerate(values):
        if not (value is None or isinstance(value, str | bool | np.bool_) or callable(value)):
            raise TypeError(f"{_rule(name)}, got {value!r} at index {i}.")
        try:
            hash(value)
        except TypeError:
            message = f"`{name}` must hold what can be hashed, got {value!r} at index {i}."
            raise TypeError(message) from None
    labels = [label(value) for value in values]
    repeated = {name for name in labels if labels.count(name) > 1}
    if repeated:
        raise ValueError(f"{_rule(name)}, got {repeated.pop()!r} more than once.")
    column = np.empty(len(values), object)
    column[:] = values
    return Axis(name, {name: column}, static=True)


def label(value: Any) -> str:
    """Return how a static value is shown as a coordinate."""
    if isinstance(value, str):
        return value
    # An address would be another one in the next process.
    named = getattr(value, "__name__", None) if callable(value) else str(value)
    return named or re.sub(r" at 0x[0-9a-f]+", "", repr(value))


Values = Iterable[float] | Iterable[str] | Iterable[Callable[..., Any]] | Zipped
