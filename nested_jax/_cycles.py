"""Cycles whose length grows geometrically: which one a step lies in, in closed form."""

import jax
import jax.numpy as jnp
from jax import lax

from nested_jax._pairs import Pair, add, at_most, difference, multiply, pair, where

# Bits of the number of a cycle.
LEVELS = 24
# A step that lies less than this before the start of a cycle counts as its first, so that a growth
# of 1.1, which no binary number is, restarts where the decimal does.
GUARD = 1e-3
# No step gets there, and powers that are still needed are finite.
NEVER = 2.0**40


@jax.custom_jvp
def cycle(first: Pair, growth: Pair, clock: Pair) -> tuple[jax.Array, jax.Array]:
    """Return the steps from `clock` to the end of its cycle, and the steps in the cycle.

    Cycle i has first * growth**i steps, and they follow each other from step 0 on.
    """
    start, _ = _last_start(first, growth, clock)
    return _remaining_and_length(start, first, growth, clock)


@cycle.defjvp
def _cycle_jvp(primals, tangents):
    # By hand: the derivative of masked bits is lost. Nothing here is to be differentiated again.
    first, growth, clock = jax.tree.map(lax.stop_gradient, primals)
    d_first, d_growth, d_clock = (t.high + t.low for t in tangents)
    start, slope = _last_start(first, growth, clock)
    d_start = start.high / first.high * d_first + slope * d_growth
    # length = first + (growth - 1) start
    minus_one = pair(-1.0, growth.high.dtype)
    d_length = d_first + start.high * d_growth + add(growth, minus_one).high * d_start
    out = _remaining_and_length(start, first, growth, clock)
    return out, (d_start + d_length - d_clock, d_length)


def _remaining_and_length(start, first, growth, clock):
    end = add(first, multiply(growth, start))
    return difference(end, clock), difference(end, start)


@jax.jit
def _last_start(first, growth, clock):
    """Return the last start of a cycle that is not after `clock`, and its slope in `growth`.

    The start of cycle n + m is start_m + growth**m start_n. So the number of the cycle is found
    from its highest bit on, m being a power of 2: a cycle is taken if it does not start too late.
    No logarithm, no division by growth - 1; for whole numbers no rounding either.
    """
    # Constants would be folded by the compiler, an operation at a time, for many seconds.
    first, growth = lax.optimization_barrier((first, growth))
    dtype = first.high.dtype
    clock = add(clock, pair(GUARD, dtype))
    start, slope = pair(0.0, dtype), jnp.zeros((), dtype)
    for power, span, power_slope, span_slope in reversed(_doublings(first, growth)):
        candidate = add(span, multiply(power, start))
        candidate_slope = span_slope + power_slope * start.high + power.high * slope
        taken = at_most(candidate, clock)
        start = where(taken, candidate, start)
        slope = jnp.where(taken, candidate_slope, slope)
    return start, slope


def _doublings(first, growth):
    """Return growth**m and the start of cycle m, with their slopes in growth, m = 1, 2, 4, ..."""
    dtype = first.high.dtype
    one, never, zero = pair(1.0, dtype), pair(NEVER, dtype), jnp.zeros((), dtype)
    power, span, power_slope, span_slope = growth, first, jnp.ones((), dtype), zero
    levels = [(power, span, power_slope, span_slope)]
    for _ in range(LEVELS - 1):
        power_slope, span_slope = (
            2 * power.high * power_slope,
            span_slope * (power.high + 1) + span.high * power_slope,
        )
        power, span = multiply(power, power), multiply(span, add(power, one))
        needed = span.high < NEVER
        power, span = where(needed, power, one), where(needed, span, never)
        power_slope, span_slope = (
            jnp.where(needed, slope, zero) for slope in (power_slope, span_slope)
        )
        levels.append((power, span, power_slope, span_slope))
    return levels
