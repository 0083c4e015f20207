"""The three kinds of grid axis: numbers, numbers that vary together, and static values."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nested_jax._core.checks import is_traced

# Largest number of values of an axis that are listed in a store's manifest.
MOST_LISTED = 1000


@dataclasses.dataclass(frozen=True)
class Axis:
    """One dimension of a grid.

    Attributes:
        name: Name of the dimension.
        columns: Argument of the swept function -> its values along the axis: integers or float64,
            or objects if the axis is static.
        static: Whether the values are passed untraced, with one compilation each.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    static: bool = False

    @property
    def size(self) -> int:
        """Number of points."""
        return len(next(iter(self.columns.values())))

    def describe(self) -> dict[str, Any]:
        """Return the values of each column, ready for JSON; of more than `MOST_LISTED`, a hash."""
        return {key: _described(column) for key, column in self.columns.items()}


class Zipped:
    """Columns that vary together; see `zipped`."""

    def __init__(self, columns: Mapping[str, Iterable[float]]):
        self.columns = columns


def zipped(**columns: Iterable[float]) -> Zipped:
    """Let several hyperparameters vary together, along one axis.

    Combined with draws such as `log_uniform`, this is a random search: each point has its own value
    of every column.

    Args:
        **columns: One iterable of numbers per hyperparameter, all of the same length. Values may
            repeat.

    Returns:
        An axis for `Grid`. Its keyword in `Grid` names the dimension of the result, and the columns
        are coordinates along it.

    Raises:
        TypeError: If a column is not an iterable of numbers (raised by `Grid`).
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
    """Return the axis for a keyword argument of `Grid`."""
    if isinstance(values, Zipped):
        return _zipped_axis(name, values)
    values = listed(values, _rule(name))
    if any(_is_number(value) for value in values):
        column = _numbers(name, values)
        if not are_distinct(column):
            unique, counts = np.unique(column, return_counts=True)
            raise ValueError(f"{_rule(name)}, got {unique[counts > 1][0]} more than once.")
        return Axis(name, {name: column})
    return _static_axis(name, values)


def _rule(name: str) -> str:
    return f"`{name}` must be an iterable of distinct numbers, or of words, flags or functions"


def are_distinct(column: np.ndarray) -> bool:
    """Return whether no number occurs twice."""
    if (column[1:] > column[:-1]).all() or (column[1:] < column[:-1]).all():
        return True
    ordered = np.sort(column)
    return not (ordered[1:] == ordered[:-1]).any()


def listed(values: Any, rule: str) -> list[Any] | np.ndarray:
    """Return the values of an iterable, which must not be empty; an array of numbers stays one."""
    is_iterable = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    if isinstance(values, str | bytes | Mapping) or not is_iterable:
        raise TypeError(f"{rule}, got {values!r}.")
    if isinstance(values, range) and max(abs(values.start), abs(values.stop)) < 2**63:
        values = np.arange(values.start, values.stop, values.step)
    values = np.asarray(values) if _is_vector(values) else list(values)
    if not len(values):
        raise ValueError(f"{rule}, got no value.")
    return values


def _is_vector(values: Any) -> bool:
    # Not of a subclass: the entries of a masked array are not its data.
    is_array = type(values) is np.ndarray or isinstance(values, jax.Array)
    # The dtype of random keys has no kind.
    kind = getattr(values.dtype, "kind", "") if is_array and not is_traced(values) else ""
    return kind in ("i", "u", "f") and values.ndim == 1


def _is_number(value: Any) -> bool:
    is_python = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer of more than 64 bits becomes an array of objects.
    array: Any = np.asarray(value) if is_python else value
    dtype = getattr(array, "dtype", None)
    # JAX's dtype hierarchy, unlike NumPy's, includes bfloat16.
    return (
        isinstance(dtype, np.dtype)
        and array.ndim == 0
        and (jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating))
    )


def _numbers(name: str, values: list[Any] | np.ndarray) -> np.ndarray:
    column = _of_one_type(values)
    if column is None:
        column = _of_many_types(name, [*values])
    unordered = np.isnan(column)
    if unordered.any():
        raise ValueError(f"`{name}` must hold numbers, got nan at index {unordered.argmax()}.")
    return column


def _of_one_type(values: list[Any] | np.ndarray) -> np.ndarray | None:
    """Convert all values at once, which is a hundred times as fast, or return None."""
    kind, *others = {values.dtype.type} if isinstance(values, np.ndarray) else {*map(type, values)}
    if others or not issubclass(kind, int | float | np.integer | np.floating) or kind is bool:
        return None
    column = np.array(values)
    # Python integers of more than 64 bits become objects, or floats that have lost digits.
    if column.dtype.kind not in ("iu" if issubclass(kind, int) else "iuf"):
        return None
    return column if column.dtype.kind in "iu" else column.astype(np.float64, copy=False)


def _of_many_types(name: str, values: list[Any]) -> np.ndarray:
    for i, value in enumerate(values):
        if not _is_number(value):
            raise TypeError(f"`{name}` must hold numbers, got {value!r} at index {i}.")
        if np.isnan(float(value)):
            raise ValueError(f"`{name}` must hold numbers, got nan at index {i}.")
    column = np.asarray([np.asarray(value) for value in values])
    numbers = [np.asarray(value).item() for value in values]
    if column.dtype.kind not in "iu" and all(isinstance(number, int) for number in numbers):
        # If an integer exceeds int64, NumPy may choose float64, which loses digits.
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
    """Return the coordinate label of a static value."""
    if isinstance(value, str):
        return value
    # Remove memory addresses, which differ between processes.
    named = getattr(value, "__name__", None) if callable(value) else str(value)
    return named or re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def plain(column: np.ndarray) -> list[Any]:
    """Return the values of a column, ready for JSON."""
    return [*map(label, column)] if column.dtype == object else column.tolist()


def _described(column: np.ndarray) -> list[Any] | dict[str, Any]:
    """Return the values, or the hash of many numbers: a manifest is read by every call."""
    if column.size <= MOST_LISTED or column.dtype == object:
        return plain(column)
    # The same integers may come in any type that holds them.
    is_float = column.dtype.kind == "f"
    wide = "<f8" if is_float else "<i8" if column.max() <= np.iinfo(np.int64).max else "<u8"
    content = hashlib.sha256(wide.encode())
    content.update(np.ascontiguousarray(column, wide).data)
    return {"values": column.size, "sha256": content.hexdigest()}


Values = Iterable[float] | Iterable[str] | Iterable[Callable[..., Any]] | Zipped
