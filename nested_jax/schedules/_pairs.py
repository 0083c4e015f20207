"""Numbers as sums of two floats, which carry twice the digits of one.

float32 holds integers up to 2**24, but a sum of many products of that size is off by several steps.
A number here is `high + low`, with `high` the sum rounded to one float.

Two habits of compilers break the textbook's error terms. They contract a * b + c to one rounding:
here every product is either exact, so that rounding it or not is the same, or shut off from the sum
by a bit mask. And XLA adds up constants, taking (c + x) - c for x: `pair` hides them.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# No step counter comes near it, and its square is finite in float32.
LARGEST = 2.0**60


class Pair(NamedTuple):
    """A number of twice the precision.

    Attributes:
        high: The number, rounded to one float.
        low: What that leaves out.
    """

    high: jax.Array
    low: jax.Array


def pair(x: Any, dtype: Any) -> Pair:
    """Return `x`, at most `LARGEST`, as a pair of `dtype`.

    Python numbers keep the digits that they have in float64; integers of any kind are exact.
    """
    # Behind the barrier, constants are as unknown to the compiler as what is traced.
    return lax.optimization_barrier(_pair(x, dtype))


def _pair(x, dtype):
    if isinstance(x, int | float | Fraction):
        exact = min(Fraction(x), Fraction(LARGEST))
        high = np.dtype(dtype).type(float(exact))
        return Pair(jnp.asarray(high), jnp.asarray(float(exact - Fraction(float(high))), dtype))
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        high = jnp.minimum(x.astype(dtype), LARGEST)
        return Pair(high, jnp.zeros_like(high))
    coarse = x >> 12 << 12
    return Pair(*_sum(coarse.astype(dtype), (x - coarse).astype(dtype)))


def add(x: Pair, y: Pair) -> Pair:
    """Return x + y."""
    high, low = _sum(x.high, y.high)
    return _normal(high, low + (x.low + y.low))


def multiply(x: Pair, y: Pair) -> Pair:
    """Return x * y."""
    (a, b), (c, d) = _halves(x.high), _halves(y.high)
    high, low = _sum(a * c, a * d)
    high, lower = _sum(high, b * c)
    rest = _shut(b * d) + (_shut(x.high * y.low) + _shut(x.low * y.high))
    return _normal(high, (low + lower) + rest)


def difference(x: Pair, y: Pair) -> jax.Array:
    """Return x - y as one float, free of cancellation."""
    return (x.high - y.high) + (x.low - y.low)


def at_most(x: Pair, y: Pair) -> jax.Array:
    """Tell whether x <= y."""
    return (x.high < y.high) | ((x.high == y.high) & (x.low <= y.low))


def where(condition: jax.Array, x: Pair, y: Pair) -> Pair:
    """Return `x` where the condition holds, else `y`."""
    return Pair(jnp.where(condition, x.high, y.high), jnp.where(condition, x.low, y.low))


def _sum(a, b):
    """Return a + b rounded, and the rounding error, exact (Knuth's two-sum)."""
    total = a + b
    rounded = total - a
    return total, (a - (total - rounded)) + (b - rounded)


def _normal(high, low):
    # Dekker's fast two-sum, exact since |high| >= |low|.
    total = high + low
    return Pair(total, low - (total - high))


def _masked(x, bits):
    """Clear the last bits of the significand."""
    integers = jnp.int64 if x.dtype == jnp.float64 else jnp.int32
    kept = lax.bitcast_convert_type(x, integers) & integers(-(1 << bits))
    return lax.bitcast_convert_type(kept, x.dtype)


def _halves(x):
    """Split `x` in two numbers of half its digits, so that products with the first are exact."""
    top = _masked(x, 27 if x.dtype == jnp.float64 else 12)
    return top, x - top


def _shut(product):
    # An error of one unit in the last digit of what is 2**-24 of the result.
    return _masked(product, 1)
