"""What the tests of grids share: functions as values, the rule of an axis, its columns."""

RULE = "must be an iterable of distinct numbers, or of words, flags or functions"


def double(x):
    return 2 * x


def half(x):
    return x / 2


def columns(grid):
    """Return the values of all arguments as lists."""
    return {key: [*c] for axis in grid.values() for key, c in axis.columns.items()}
