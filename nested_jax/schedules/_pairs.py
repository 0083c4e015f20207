"""Double-width arithmetic: numbers as unevaluated sums of two floats.

float32 holds integers up to 2**24, but a sum of many products of that size is off by several steps.
Here a number is `high + low`, where `high` is the sum rounded to one float.

Two compiler optimizations break the textbook error terms. Compilers contract a * b + c to a single
rounding; therefore every product here is either exact or separated from the sum by a bit mask. XLA
also folds constants and simplifies (c + x) - c to x; `pair` hides constants from it.
"""

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Far above any step counter; its square is finite in float32.
LARGEST = 2.0**60


class Pair(NamedTuple):
    """A number in twice the precision of one float.

    Attributes:
        high: The number, rounded to one float.
        low: The remainder.
    """

    high: jax.Array
    low: jax.Array


def pair(x: Any, dtype: Any) -> Pair:
    """Return `x`, at most `LARGEST`, as a pair of `dtype`.

    Python numbers keep their float64 precision; integers of any type are exact.
    """
    # The barrier hides constants from the compiler.
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
    """Return x - y as one float, without cancellation."""
    return (x.high - y.high) + (x.low - y.low)


def at_most(x: Pair, y: Pair) -> jax.Array:
    """Return whether x <= y."""
    return (x.high < y.high) | ((x.high == y.high) & (x.low <= y.low))


def where(condition: jax.Array, x: Pair, y: Pair) -> Pair:
    """Return `x` where the condition holds, else `y`."""
    return Pair(jnp.where(condition, x.high, y.high), jnp.where(condition, x.low, y.low))


def _sum(a, b):
    """Return the rounded a + b and its exact rounding error (Knuth's two-sum)."""
    total = a + b
    rounded = total - a
    return total, (a - (total - rounded)) + (b - rounded)


def _normal(high, low):
    # Dekker's fast two-sum, exact because |high| >= |low|.
    total = high + low
    return Pair(total, low - (total - high))


def _masked(x, bits):
    """Clear the last `bits` bits of the significand."""
    integers = jnp.int64 if x.dtype == jnp.float64 else jnp.int32
    kept = lax.bitcast_convert_type(x, integers) & integers(-(1 << bits))
    return lax.bitcast_convert_type(kept, x.dtype)


def _halves(x):
    """Split `x` into two halves of its digits; products with the first half are exact."""
    top = _masked(x, 27 if x.dtype == jnp.float64 else 12)
    return top, x - top


def _shut(product):
    # The mask costs one unit in the last place of a term that is 2**-24 of the result.
    return _masked(product, 1)
