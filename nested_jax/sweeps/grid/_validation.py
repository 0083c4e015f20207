"""Validate axis values: representable in JAX, distinct, and accepted by the factories."""

from collections.abc import Callable

import jax
import numpy as np


def column_in_jax(name: str, values: np.ndarray) -> np.ndarray:
    """Return a column in JAX's default precision, which follows the x64 setting."""
    dtype = jax.dtypes.canonicalize_dtype(int if values.dtype.kind in "iu" else float)
    with np.errstate(over="ignore"):
        column = values.astype(dtype)
    # NumPy silently wraps integers, so two seeds could become one, and flushes floats.
    lost = values[~np.isclose(column, values, rtol=1e-6, atol=0)]
    if lost.size:
        raise ValueError(f"`{name}` must hold what {dtype} can (is x64 enabled?), got {lost[0]}.")
    return column


def check_distinct(name: str, given: np.ndarray, in_jax: np.ndarray) -> None:
    values, first = np.unique(in_jax, return_index=True)
    if values.size < in_jax.size:
        other = min({*range(in_jax.size)} - {*first.tolist()})
        raise ValueError(
            f"`{name}` must hold values that stay distinct in {in_jax.dtype} (is x64 enabled?), "
            f"got {given[other]} at index {other}."
        )


def check_values(name: str, given: np.ndarray, in_jax: np.ndarray, rule: Callable) -> None:
    # Check the rounded value, too: 0.99999999 is 1 in float32.
    for i, seen in enumerate(zip(given.tolist(), in_jax.tolist(), strict=True)):
        for value in seen:
            try:
                rule(value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"`{name}`[{i}] = {seen[0]}: {error}") from None
