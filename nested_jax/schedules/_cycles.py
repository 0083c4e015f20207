"""Exact boundaries of schedules: fractions of a run, and cycles that grow."""

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nested_jax._core.types import ScalarLike
from nested_jax.schedules._pairs import Pair, add, at_most, difference, multiply, pair, where

# A generous bound on the relative error of a few operations on pairs of float32.
PAIR_ERROR = 2.0**-40
# Number of bits in a cycle's number.
BITS = 24
# A step less than this before the start of a cycle counts as its first. A growth of 1.1, which has
# no exact binary value, then restarts where the decimal does. No start is a tie, because 1/1500 is
# neither a finite decimal nor a binary fraction.
GUARD = 1 / 1500
# Beyond any step, and small enough for the powers still needed to be finite.
NEVER = 2.0**40


def passed(fraction: ScalarLike, total: ScalarLike, clock: Pair) -> jax.Array:
    """Return whether `clock` has reached the given fraction of `total` steps.

    A clock that falls short by at most the rounding error of `fraction` counts as there.
    """
    dtype = clock.high.dtype
    boundary = multiply(pair(fraction, dtype), pair(total, dtype))
    doubt = PAIR_ERROR
    if not isinstance(fraction, int | float) and jnp.issubdtype(fraction.dtype, jnp.floating):
        doubt += float(jnp.finfo(fraction.dtype).eps) / 2
    slack = doubt * boundary.high
    return at_most(boundary, add(clock, Pair(slack, jnp.zeros_like(slack))))


class Leap(NamedTuple):
    """The map from the start of a cycle to the start of the m-th cycle after it.

    The map is span + (1 + excess) * start. For a growth close to 1, `excess` keeps digits that
    growth**m would lose.

    Attributes:
        span: The start of cycle m.
        excess: growth**m - 1.
        span_slope: The derivative of `span` with respect to growth.
        excess_slope: The derivative of `excess` with respect to growth.
    """

    span: Pair
    excess: Pair
    span_slope: jax.Array
    excess_slope: jax.Array


def minus_one(growth: ScalarLike, dtype: Any) -> Pair:
    """Return growth - 1; a Python number is taken as its printed decimal."""
    if isinstance(growth, int | float):
        return pair(Fraction(str(growth)) - 1, dtype)
    return add(pair(growth, dtype), pair(-1, dtype))


@jax.jit
def leaps(first: Pair, excess: Pair) -> Leap:
    """Return the leaps over 1, 2, 4, ... cycles, stacked.

    Cycle i has first * (1 + excess)**i steps. The leaps do not depend on the step: build them once,
    outside the loop over steps.
    """
    first, excess = lax.stop_gradient((first, excess))
    zero, one = jnp.zeros_like(first.high), jnp.ones_like(first.high)
    never = Leap(Pair(NEVER * one, zero), Pair(zero, zero), zero, zero)

    def double(leap, _):
        twice = _twice(leap)
        needed = twice.span.high < NEVER
        return jax.tree.map(lambda x, y: jnp.where(needed, x, y), twice, never), leap

    return lax.scan(double, Leap(first, excess, zero, one), length=BITS)[1]


def _twice(leap):
    two_more = add(leap.excess, pair(2, leap.excess.high.dtype))
    return Leap(
        multiply(leap.span, two_more),
        multiply(leap.excess, two_more),
        leap.span_slope * two_more.high + leap.span.high * leap.excess_slope,
        2 * (1 + leap.excess.high) * leap.excess_slope,
    )


@jax.custom_jvp
def cycle(table: Leap, first: Pair, excess: Pair, clock: Pair) -> tuple[jax.Array, jax.Array]:
    """Return the steps from `clock` to the end of its cycle, and the length of the cycle."""
    start, _ = _last_start(table, clock)
    return _remaining_and_length(start, first, excess, clock)


@cycle.defjvp
def _cycle_jvp(primals, tangents):
    # Written by hand because bit masks have no derivative. Supports first derivatives only.
    table, first, excess, clock = lax.stop_gradient(primals)
    # The low part is a rounding error, whose derivative is 0.
    d_first, d_excess, d_clock = (t.high for t in tangents[1:])
    start, slope = _last_start(table, clock)
    d_start = start.high / first.high * d_first + slope * d_excess
    d_length = d_first + start.high * d_excess + excess.high * d_start
    out = _remaining_and_length(start, first, excess, clock)
    return out, (d_start + d_length - d_clock, d_length)


def _remaining_and_length(start, first, excess, clock):
    length = add(first, multiply(excess, start))
    return difference(add(start, length), clock), length.high


@jax.jit
def _last_start(table, clock):
    """Return the last cycle start that is not after `clock`, and its derivative in growth.

    The leap over m cycles maps the start of cycle n to the start of cycle n + m. The cycle number
    is therefore found bit by bit, highest bit first, without logarithms or division by growth - 1,
    and without rounding for whole numbers.
    """
    clock = add(clock, pair(GUARD, clock.high.dtype))
    table = lax.optimization_barrier(table)  # Hide constants, as in `pair`.

    def leap_unless_late(carry, leap):
        start, slope = carry
        candidate = add(add(leap.span, start), multiply(leap.excess, start))
        candidate_slope = (
            leap.span_slope + leap.excess_slope * start.high + (1 + leap.excess.high) * slope
        )
        late = ~at_most(candidate, clock)
        return (where(late, start, candidate), jnp.where(late, slope, candidate_slope)), None

    # Not unrolled: a compiler that fuses one leap into the next recomputes it for each use, which
    # doubles the work with every leap.
    zero = jax.tree.map(jnp.zeros_like, clock)
    return lax.scan(leap_unless_late, (zero, zero.low), table, reverse=True)[0]
