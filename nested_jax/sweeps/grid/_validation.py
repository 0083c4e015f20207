"""Validate axis values: representable in JAX, distinct, and accepted by the factories."""

from collections.abc import Callable

import jax
import numpy as np

from nested_jax.sweeps.grid._axes import are_distinct

# Number of values that are converted together: new memory for ten million is slow.
IN_CACHE = 2**16
# A longer axis is validated at the values that decide; one by one, ten million take half a minute.
MOST_CHECKED = 10_000


def column_in_jax(name: str, values: np.ndarray) -> np.ndarray:
    """Return a column in JAX's default precision, which follows the x64 setting."""
    dtype = jax.dtypes.canonicalize_dtype(int if values.dtype.kind in "iu" else float)
    column = np.empty(values.shape, dtype)
    for start in range(0, values.size, IN_CACHE):
        given = values[start : start + IN_CACHE]
        with np.errstate(over="ignore", invalid="ignore"):
            column[start : start + IN_CACHE] = rounded = given.astype(dtype)
            # NumPy silently wraps integers, so two seeds could become one, and flushes floats.
            if given.dtype.kind in "iu":
                lost = given[rounded != given]
            else:  # Two infinities differ by NaN.
                lost = given[np.abs(rounded - given) > 1e-6 * np.abs(given)]
        if lost.size:
            rule = f"`{name}` must hold what {dtype} can (is x64 enabled?)"
            raise ValueError(f"{rule}, got {lost[0]}.")
    return column


def check_distinct(name: str, given: np.ndarray, in_jax: np.ndarray) -> None:
    if not are_distinct(in_jax):
        _, first = np.unique(in_jax, return_index=True)
        other = min({*range(in_jax.size)} - {*first.tolist()})
        raise ValueError(
            f"`{name}` must hold values that stay distinct in {in_jax.dtype} (is x64 enabled?), "
            f"got {given[other]} at index {other}."
        )


def check_values(name: str, given: np.ndarray, in_jax: np.ndarray, rule: Callable) -> None:
    """Raise the error of the first value that breaks a factory's rule."""
    if given.size > MOST_CHECKED:
        # A rule is an interval, or the whole numbers of one: both ends and a fraction decide.
        ends = [int(given.argmin()), int(given.argmax()), int((np.floor(given) != given).argmax())]
        if not any(_broken(name, i, given, in_jax, rule) for i in ends):
            return
    for i in range(given.size):
        if (error := _broken(name, i, given, in_jax, rule)) is not None:
            raise error


def _broken(
    name: str, i: int, given: np.ndarray, in_jax: np.ndarray, rule: Callable
) -> Exception | None:
    # Check the rounded value, too: 0.99999999 is 1 in float32.
    for value in (given[i].item(), in_jax[i].item()):
        try:
            rule(value)
        except (TypeError, ValueError) as error:
            return type(error)(f"`{name}`[{i}] = {given[i].item()}: {error}")
    return None
