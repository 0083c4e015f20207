"""Tests of arithmetic on pairs of floats against rational numbers."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nested_jax.schedules import _pairs
from nested_jax.schedules._pairs import Pair, add, at_most, difference, multiply, pair

# Of 48 digits, three are lost to the rounding of the products that are shut off.
FLOAT32_ERROR = 2.0**-45
FLOAT64_ERROR = 2.0**-101
COUNT = 2000


def exact(x):
    """Return the numbers of a pair of vectors as fractions."""
    return [Fraction(float(a)) + Fraction(float(b)) for a, b in zip(x.high, x.low, strict=True)]


def drawn(seed, dtype):
    """Return positive pairs of all digits."""
    rng = np.random.default_rng(seed)
    high = (2 ** rng.uniform(-10, 20, COUNT)).astype(dtype)
    low = rng.uniform(-0.5, 0.5, COUNT) * np.spacing(high)
    return Pair(jnp.asarray(high), jnp.asarray(low.astype(dtype)))


def check(dtype, tolerance):
    x, y = drawn(0, dtype), drawn(1, dtype)
    for ours, theirs in ((add, Fraction.__add__), (multiply, Fraction.__mul__)):
        result = jax.jit(ours)(x, y)
        assert result.high.dtype == dtype
        expected = map(theirs, exact(x), exact(y))
        errors = [abs(a / b - 1) for a, b in zip(exact(result), expected, strict=True)]
        assert max(errors) <= tolerance
        # `high` is the whole, rounded.
        assert (result.high + result.low == result.high).all()


def test_float32_pairs_carry_twice_the_digits():
    check(jnp.float32, FLOAT32_ERROR)


def test_float64_pairs_carry_twice_the_digits(x64):
    check(jnp.float64, FLOAT64_ERROR)


def test_whole_numbers_are_exact():
    rng = np.random.default_rng(2)
    x, y = rng.integers(1, 4096, (2, COUNT))
    for ours, expected in ((add, x + y), (multiply, x * y)):
        result = jax.jit(ours)(pair(x, jnp.float32), pair(y, jnp.float32))
        np.testing.assert_array_equal(result.high, expected)
        np.testing.assert_array_equal(result.low, 0)


def test_constants_keep_their_digits():
    # XLA takes (c + x) - c for x, if it knows c.
    x = drawn(3, jnp.float32)
    for ours, theirs in ((add, Fraction.__add__), (multiply, Fraction.__mul__)):
        for constant in (0.1, 1e6, np.float32(12345.678)):
            result = jax.jit(lambda x, c=constant, f=ours: f(pair(c, jnp.float32), x))(x)
            expected = [theirs(Fraction(float(constant)), number) for number in exact(x)]
            errors = [abs(a / b - 1) for a, b in zip(exact(result), expected, strict=True)]
            assert max(errors) <= FLOAT32_ERROR


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0.1, Fraction(0.1)),
        (np.float64(0.3), Fraction(0.3)),
        (Fraction(1, 3), Fraction(1, 3)),
        (10**9 + 7, Fraction(10**9 + 7)),
        (1e300, Fraction(2**60)),
        (np.float32(0.1), Fraction(float(np.float32(0.1)))),
        (np.int32(2**31 - 1), Fraction(2**31 - 1)),
        (np.uint32(2**32 - 1), Fraction(2**32 - 1)),
        (np.int8(-128), Fraction(-128)),
        (jnp.bfloat16(1.5), Fraction(3, 2)),
        (np.float32(3e38), Fraction(2**60)),
    ],
)
def test_pair_holds_the_number(number, expected):
    high, low = pair(number, jnp.float32)
    assert high.dtype == low.dtype == jnp.float32
    assert high + low == high
    actual = Fraction(float(high)) + Fraction(float(low))
    assert abs(actual / expected - 1) <= 2.0**-48


def test_at_most_and_difference_see_the_low_part():
    x, y = drawn(4, jnp.float32), drawn(5, jnp.float32)
    y = Pair(x.high, y.low * np.float32(0.1) * np.spacing(x.high) / np.spacing(y.high))
    expected = [a <= b for a, b in zip(exact(x), exact(y), strict=True)]
    np.testing.assert_array_equal(at_most(x, y), expected)
    assert at_most(x, x).all()
    np.testing.assert_allclose(
        difference(x, y), [float(a - b) for a, b in zip(exact(x), exact(y), strict=True)], 1e-6
    )
    chosen = _pairs.where(at_most(x, y), x, y)
    assert exact(chosen) == [min(a, b) for a, b in zip(exact(x), exact(y), strict=True)]
