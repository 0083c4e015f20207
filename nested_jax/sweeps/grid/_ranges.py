"""Values for grid axes: ranges and random draws."""

import numpy as np

from nested_jax._core.checks import check_number, check_positive, check_static_count


def powers_of_two(low: int, high: int, scale: float = 1.0) -> np.ndarray:
    """Return scaled powers of two, for an axis of `Grid`.

    Args:
        low: Exponent of the first value.
        high: Exponent of the last value, included; at least `low`.
        scale: Factor of all powers, positive.

    Returns:
        Shape (high - low + 1,).

    Raises:
        TypeError: If an exponent is not an integer, or `scale` is not a number.
        ValueError: If `high` is below `low`, or `scale` is not positive.

    Example:
        >>> import nested_jax as nj
        >>> nj.powers_of_two(-2, 1, scale=0.1)
        array([0.025, 0.05 , 0.1  , 0.2  ])
    """
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"`{name}` must be an integer, got {value!r}.")
    if high < low:
        raise ValueError(f"`high` must be at least `low` = {low}, got {high}.")
    check_positive("scale", scale)
    return scale * 2.0 ** np.arange(low, high + 1)


def log_uniform(low: float, high: float, size: int, *, seed: int) -> np.ndarray:
    """Return log-uniform random values, for an axis of `Grid` or a column of `zipped`.

    Args:
        low: Lower end, positive.
        high: Upper end, excluded; above `low`.
        size: Number of values, at least 1.
        seed: Seed of the draw, at least 0. The same seed gives the same values in any process.

    Returns:
        Shape (size,).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `low` is not positive, `high` is not above `low`, `size` is less than 1, or
            `seed` is negative.

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
    check_positive("low", low)
    _check_draw(low, high, size, seed)
    return np.exp(np.random.default_rng(seed).uniform(np.log(low), np.log(high), size))


def _check_draw(low: float, high: float, size: int, seed: int) -> None:
    check_number("high", high)
    if not high > low:
        raise ValueError(f"`high` must be above `low` = {low}, got {high}.")
    check_static_count("size", size, 1)
    check_static_count("seed", seed)
