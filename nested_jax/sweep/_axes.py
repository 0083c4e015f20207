"""Axes of a grid: numbers, numbers that vary together, and static values."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from nested_jax._checks import check_count, check_number, check_positive, check_static_count


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
        ValueError: If lengths differ, or a value is NaN (raised by `Grid`).

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
    values = _listed(name, values)
    if all(_is_number(value) for value in values):
        column = _numbers(name, values)
        unique, counts = np.unique(column, return_counts=True)
        if unique.size < column.size:
            repeated = unique[counts > 1][0]
            raise ValueError(f"{_rule(name)}, got {repeated} more than once.")
        return Axis(name, {name: column})
    return _static_axis(name, values)


def _rule(name: str) -> str:
    return f"`{name}` must be an iterable of distinct numbers, or of words, flags or functions"


def _listed(name: str, values: Any) -> list[Any]:
    is_iterable = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    if isinstance(values, str | bytes | Mapping) or not is_iterable:
        raise TypeError(f"{_rule(name)}, got {values!r}.")
    values = list(values)
    if not values:
        raise ValueError(f"{_rule(name)}, got no value.")
    return values


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"


def _numbers(name: str, values: list[Any]) -> np.ndarray:
    for i, value in enumerate(values):
        if not _is_number(value):
            raise TypeError(f"`{name}` must hold numbers, got {value!r} at index {i}.")
        if np.isnan(value):
            raise ValueError(f"`{name}` must hold numbers, got nan at index {i}.")
    column = np.asarray(values)
    return column if column.dtype.kind in "iu" else column.astype(np.float64)


def _zipped_axis(name: str, values: Zipped) -> Axis:
    if not values.columns:
        raise ValueError(f"`{name}` must zip at least one column, got none.")
    columns = {key: _numbers(key, _listed(key, column)) for key, column in values.columns.items()}
    lengths = {key: column.size for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"`{name}` must zip columns of one length, got {lengths}.")
    return Axis(name, columns)


def _static_axis(name: str, values: list[Any]) -> Axis:
    for i, value in enumerate(values):
        if not (value is None or isinstance(value, str | bool | np.bool_) or callable(value)):
            raise TypeError(f"{_rule(name)}, got {value!r} at index {i}.")
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
    if callable(value):
        return getattr(value, "__name__", None) or repr(value)
    return str(value)


def linear(low: float, high: float, size: int) -> np.ndarray:
    """Return `size` values at equal distances from `low` to `high`, both included.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `size` is less than 1.
    """
    check_number("low", low)
    check_number("high", high)
    check_static_count("size", size, 1)
    return np.linspace(low, high, size)


def logarithmic(low: float, high: float, size: int) -> np.ndarray:
    """Return `size` values at equal ratios from `low` to `high`, both included.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an end is not positive, or `size` is less than 1.
    """
    check_positive("low", low)
    check_positive("high", high)
    check_static_count("size", size, 1)
    return np.geomspace(low, high, size)


def powers_of_two(low: int, high: int, scale: float = 1.0) -> np.ndarray:
    """Return `scale` times the powers of two from 2^low to 2^high, both included.

    Raises:
        TypeError: If an exponent is no integer.
        ValueError: If `high` is below `low`, or `scale` is not positive.
    """
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"`{name}` must be an integer, got {value!r}.")
    if high < low:
        raise ValueError(f"`high` must be at least `low` = {low}, got {high}.")
    check_positive("scale", scale)
    return scale * 2.0 ** np.arange(low, high + 1)


def uniform(low: float, high: float, size: int, *, seed: int) -> np.ndarray:
    """Return `size` random values, uniform in [low, high).

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `high` is not above `low`, or `size` is less than 1.
    """
    check_number("low", low)
    _check_draw(low, high, size, seed)
    return np.random.default_rng(seed).uniform(low, high, size)


def log_uniform(low: float, high: float, size: int, *, seed: int) -> np.ndarray:
    """Return `size` random values whose logarithm is uniform between those of `low` and `high`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `low` is not positive, `high` not above it, or `size` less than 1.
    """
    check_positive("low", low)
    _check_draw(low, high, size, seed)
    return np.exp(np.random.default_rng(seed).uniform(np.log(low), np.log(high), size))


def _check_draw(low: float, high: float, size: int, seed: int) -> None:
    check_number("high", high)
    if not high > low:
        raise ValueError(f"`high` must be above `low` = {low}, got {high}.")
    check_static_count("size", size, 1)
    check_count("seed", seed)


Values = Iterable[float] | Iterable[str] | Iterable[Callable[..., Any]] | Zipped
