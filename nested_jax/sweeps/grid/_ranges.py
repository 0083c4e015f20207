"""Values for grid axes: ranges and random draws."""

import numpy as np

from nested_jax._core.checks import check_below, check_length, check_positive, check_static_count

LOWEST, HIGHEST = -1022, 1023
"""Exponents of the normal powers of two of float64: below digits are lost, above is infinity."""


def powers_of_two(low: int, high: int, scale: float = 1.0) -> np.ndarray:
    """Return scaled powers of two, for an axis of `Grid`.

    Args:
        low: Exponent of the first value, at least -1022.
        high: Exponent of the last value, included; at least `low` and at most 1023.
        scale: Factor of all powers, positive.

    Returns:
        Shape (high - low + 1,).

    Raises:
        TypeError: If an exponent is not an integer, or `scale` is not a number.
        ValueError: If an exponent is out of range, `scale` is not positive, or a value leaves the
            range of float64.

    Example:
        >>> import nested_jax as nj
        >>> nj.powers_of_two(-2, 1, scale=0.1)
        array([0.025, 0.05 , 0.1  , 0.2  ])
    """
    for name, value in (("low", low), ("high", high)):
        check_static_count(name, value, LOWEST)
        check_below(name, value, HIGHEST + 1)
    if high < low:
        raise ValueError(f"`high` must be at least `low` = {low}, got {high}.")
    scale = check_positive("scale", scale)
    with np.errstate(over="ignore"):  # It is an error below.
        values = scale * 2.0 ** np.arange(int(low), int(high) + 1)
    if not (values[0] > 0 and values[-1] < np.inf):
        rule = "`scale` must keep all values positive and finite"
        raise ValueError(f"{rule}, got {scale} for values from {values[0]} to {values[-1]}.")
    return values


def log_uniform(low: float, high: float, size: int, *, seed: int) -> np.ndarray:
    """Return log-uniform random values, for an axis of `Grid` or a column of `zipped`.

    Args:
        low: Lower end, positive.
        high: Upper end, excluded; above `low` and finite.
        size: Number of values, at least 1.
        seed: Seed of the draw, at least 0. The same seed gives the same values in any process.

    Returns:
        Shape (size,).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `low` or `high` is not positive and finite, `high` is not above `low`, `size`
            is out of range, or `seed` is negative.

    Example:
        >>> import nested_jax as nj
        >>> grid = nj.Grid(
        ...     draw=nj.zipped(
        ...         learning_rate=nj.log_uniform(1e-4, 1e-1, 50, seed=0),
        ...         weight_decay=nj.log_uniform(1e-3, 1.0, 50, seed=1),
        ...     ),
        ...     seed=range(3),
        ... )
        >>> grid.size
        150
    """
    ends = check_positive("low", low), check_positive("high", high)
    if not high > low:
        raise ValueError(f"`high` must be above `low` = {low}, got {high}.")
    check_length("size", size, each=8)
    check_static_count("seed", seed)
    lowest, highest = map(np.log, ends)
    values = np.exp(np.random.default_rng(seed).uniform(lowest, highest, size))
    return np.clip(values, low, np.nextafter(high, 0))  # Rounding may leave a narrow range.
