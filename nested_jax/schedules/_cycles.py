"""Which side of a boundary a step lies on, to the step: fractions of a run, cycles that grow."""

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nested_jax._core.types import ScalarLike
from nested_jax.schedules._pairs import Pair, add, at_most, difference, multiply, pair, where

# The relative error, with room to spare, of a few operations on pairs of float32.
PAIR_ERROR = 2.0**-40
# The number of a cycle has this many bits.
BITS = 24
# A step that lies less than this before the start of a cycle counts as its first, so that a growth
# of 1.1, which no binary number is, restarts where the decimal does. As no decimal or binary number
# is 1/1500, no start is a tie.
GUARD = 1 / 1500
# No step gets there, and the powers that are still needed are finite.
NEVER = 2.0**40


def passed(fraction: ScalarLike, total: ScalarLike, clock: Pair) -> jax.Array:
    """Tell whether the given fraction of `total` steps lies behind, at `clock` steps.

    A clock that is short of it by no more than the rounding of `fraction` counts as on it.
    """
    dtype = clock.high.dtype
    boundary = multiply(pair(fraction, dtype), pair(total, dtype))
    doubt = PAIR_ERROR
    if not isinstance(fraction, int | float) and jnp.issubdtype(fraction.dtype, jnp.floating):
        doubt += float(jnp.finfo(fraction.dtype).eps) / 2
    slack = doubt * boundary.high
    return at_most(boundary, add(clock, Pair(slack, jnp.zeros_like(slack))))


class Leap(NamedTuple):
    """The way from the start of a cycle to that of the m-th after it.

    It is span + (1 + excess) * start. For a growth close to 1, the excess keeps the digits that
    growth**m would lose.

    Attributes:
        span: The start of cycle m.
        excess: growth**m - 1.
        span_slope: The derivative of `span` by growth.
        excess_slope: The derivative of `excess` by growth.
    """

    span: Pair
    excess: Pair
    span_slope: jax.Array
    excess_slope: jax.Array


def minus_one(growth: ScalarLike, dtype: Any) -> Pair:
    """Return growth - 1; of a Python number, growth being the decimal that it is printed as."""
    if isinstance(growth, int | float):
        return pair(Fraction(str(growth)) - 1, dtype)
    return add(pair(growth, dtype), pair(-1, dtype))


@jax.jit
def leaps(first: Pair, excess: Pair) -> Leap:
    """Return the leaps of 1, 2, 4, ... cycles, in rows.

    Cycle i has first * (1 + excess)**i steps. The leaps do not depend on the step: made outside of
    the loop over steps, they are made once.
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
    """Return the steps from `clock` to the end of its cycle, and the steps in the cycle."""
    start, _ = _last_start(table, clock)
    return _remaining_and_length(start, first, excess, clock)


@cycle.defjvp
def _cycle_jvp(primals, tangents):
    # By hand: the derivative of masked bits is lost. Nothing here is to be differentiated again.
    table, first, excess, clock = lax.stop_gradient(primals)
    d_first, d_excess, d_clock = (t.high + t.low for t in tangents[1:])
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
    """Return the last start of a cycle that is not after `clock`, and its slope in growth.

    Cycle n + m starts where the leap of m leads from the start of cycle n. So the number of the
    cycle is found bit by bit from the highest on, with no logarithm, no division by growth - 1,
    and, for whole numbers, no rounding.
    """
    clock = add(clock, pair(GUARD, clock.high.dtype))
    table = lax.optimization_barrier(table)  # It may be constant, as in `pair`.

    def leap_unless_late(carry, leap):
        start, slope = carry
        candidate = add(add(leap.span, start), multiply(leap.excess, start))
        candidate_slope = (
            leap.span_slope + leap.excess_slope * start.high + (1 + leap.excess.high) * slope
        )
        late = ~at_most(candidate, clock)
        return (where(late, start, candidate), jnp.where(late, slope, candidate_slope)), None

    # Not unrolled: compilers that fuse one leap into the next compute it again for each of its
    # uses, which doubles the work with each leap.
    zero = jax.tree.map(jnp.zeros_like, clock)
    return lax.scan(leap_unless_late, (zero, zero.low), table, reverse=True)[0]
