"""Tests of the schedules at exact boundaries: restarts, drops, warm-up, up to 1e7 steps."""

import math
from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from tests.schedules.test_schedules import ATOL, FLOAT32_RTOL, both

# How far the start of a cycle, found with twice the digits of float32, is from the exact one.
PAIR_ERROR = 2.0**-40
# The multiplier of the documented guard: steps this close before a start count as on it.
GUARD = Decimal(1) / 1500
LAST = 10**7
MOST = 400  # Restarts looked at, of each case.

getcontext().prec = 60  # The oracle's digits: errors below 1e-50 of a boundary.


def starts(first, growth):
    """Yield start and length of cycles that start by step LAST, exactly."""
    if growth == 1:
        count = int(LAST / first)
    else:
        count = int((1 + (growth - 1) * LAST / first).ln() / growth.ln())
    few = np.linspace(1, count, MOST, dtype=int) if count > MOST else range(1, count + 1)
    for i in sorted({*map(int, few), *range(1, min(count, MOST) + 1)}):
        start = first * (i if growth == 1 else (growth**i - 1) / (growth - 1))
        yield start, first * growth**i


def around_starts(first_cycle, growth):
    """Return steps at and beside the starts of cycles, and what a schedule is to say of them.

    That is the multipliers, the errors that they may have, and the lengths of the cycles.
    """
    rows = []
    for start, length in starts(first_cycle, growth):
        begin = math.ceil(start - GUARD)
        for step in (begin - 1, begin, begin + 1):
            if step < begin:
                end, whole = start, length / growth
            else:
                end, whole = start + length, length
            if step >= end - GUARD:  # The cycle is shorter than 2 steps.
                end, whole = end + whole * growth, whole * growth
            angle = math.pi / 2 * float(min(1, (end - step) / whole))
            # The derivative by the end of the cycle, times the error of that.
            slope = math.pi * abs(math.sin(2 * angle)) / 2 / float(whole)
            value = math.sin(angle) ** 2
            error = FLOAT32_RTOL * value + slope * PAIR_ERROR * float(end) + ATOL**2
            rows.append((step, value, error, float(whole)))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


FIRST_CYCLES = ["1", "2.5", "7", "64", "100", "12345", "1000000"]
GROWTHS = ["1", "1.5", "2", "3", "4", "1.1", "17.3", "1.001", "1.000001", "1.00000012"]


@pytest.mark.parametrize("first_cycle", FIRST_CYCLES)
def test_restarts_at_the_exact_step_up_to_1e7_in_float32(first_cycle):
    # One program: a grid of growths, those of exactly 1 and barely above it included.
    numbers = np.float32([float(growth) for growth in GROWTHS])
    first = Decimal(float(np.float32(first_cycle)))
    rows = [around_starts(first, Decimal(float(number))) for number in numbers]
    longest = max(len(row[0]) for row in rows)
    steps = [np.pad(row[0], (0, longest - len(row[0]))) for row in rows]

    def at(growth, steps):
        schedule = nj.warm_restarts(jnp.float32(first_cycle), growth=growth)
        return schedule(steps), schedule.cycle_steps(steps)

    together = jax.jit(jax.vmap(at))(numbers, np.array(steps, np.int32))
    for multipliers, lengths, row in zip(*map(np.asarray, together), rows, strict=True):
        _, expected, error, expected_lengths = row
        assert (np.abs(multipliers[: len(error)] - expected) <= error).all()
        np.testing.assert_allclose(lengths[: len(error)], expected_lengths, FLOAT32_RTOL)


@pytest.mark.parametrize("growth", ["1.5", "1.1", "1.001", "1.000001"])
@pytest.mark.parametrize("first_cycle", ["1", "100", "12345", "123.45"])
def test_restarts_of_the_decimals_that_python_numbers_are_written_as(first_cycle, growth):
    steps, expected, error, expected_lengths = around_starts(Decimal(first_cycle), Decimal(growth))
    schedule = nj.warm_restarts(float(first_cycle), growth=float(growth))
    multipliers, lengths = both(schedule, steps)
    assert (np.abs(multipliers - expected) <= error).all()
    np.testing.assert_allclose(lengths, expected_lengths, FLOAT32_RTOL)


@pytest.mark.parametrize("numbers", [(100, 1), (jnp.float32(100), jnp.float32(1))])
def test_all_of_100000_equal_cycles_are_equal(numbers):
    schedule = nj.warm_restarts(numbers[0], growth=numbers[1])
    steps = 100 * jnp.arange(100_000)[:, None] + jnp.array([0, 1, 50, 99])
    multipliers, lengths = both(schedule, steps)
    assert (multipliers == multipliers[0]).all()
    assert (lengths == 100).all()
    assert (multipliers[:, 0] == 1).all()
    np.testing.assert_allclose(multipliers[0, 3], math.sin(math.pi / 200) ** 2, FLOAT32_RTOL)


def test_restarts_beyond_the_integers_of_float32():
    steps = jnp.array([2**31 - 1, 2**31 - 2**20 - 1, 2**31 - 2**20], jnp.int32)
    multipliers, _ = both(nj.warm_restarts(2**20), steps)
    expected = [math.sin(math.pi / 2**21) ** 2] * 2 + [1]
    np.testing.assert_allclose(multipliers, expected, FLOAT32_RTOL)


@pytest.mark.parametrize("growth", [1e18, 1e30, 1e300])
def test_a_second_cycle_may_never_end(growth):
    multipliers, lengths = both(
        nj.warm_restarts(4, growth=growth), jnp.array([0, 3, 4, 5, 2**31 - 1])
    )
    np.testing.assert_allclose(multipliers, [1, math.sin(math.pi / 8) ** 2, 1, 1, 1], FLOAT32_RTOL)
    assert (lengths[2:] >= 4 * 2.0**59).all()
    assert np.isfinite(lengths).all()


@pytest.mark.parametrize("total", [10, 12345, 10**7])
def test_cosine_keeps_its_digits_to_the_end(total):
    steps = np.unique(np.array([0, 1, total // 3, total // 2, total - 2, total - 1, total, LAST]))
    actual, _ = both(nj.cosine(total), steps)
    remaining = np.maximum(total - steps, 0)
    np.testing.assert_allclose(actual, np.sin(math.pi / 2 * remaining / total) ** 2, FLOAT32_RTOL)


def test_the_ends_are_exact_whatever_the_floor():
    floors = np.linspace(0, 1, 1000, dtype=np.float32)
    ends = jax.vmap(lambda floor: nj.cosine(9, floor=floor)(jnp.array([0, 9])))(floors)
    np.testing.assert_array_equal(ends, np.stack([np.ones_like(floors), floors], axis=1))


@pytest.mark.parametrize("total", [1, 7, 10, 99, 123457, 9_999_999, 10**7])
def test_default_drops_take_effect_at_the_exact_step(total):
    boundaries = np.array([-(-total * tenths // 10) for tenths in (3, 6, 8)])
    steps = np.concatenate([boundaries - 1, boundaries])
    expected = (steps[:, None] >= boundaries).sum(1)
    for number in (total, float(total), jnp.int32(total), np.float32(total)):
        schedule = nj.step_drop(number, factor=0.5)
        np.testing.assert_array_equal(both(schedule, steps)[0], 0.5**expected)


@pytest.mark.parametrize("tenths", [(3, 6, 8), (1, 2, 4), (5, 7, 9)])
@pytest.mark.parametrize("kind", ["python", "array"])
def test_drops_take_effect_at_the_exact_step_of_every_total(tenths, kind):
    drops = tuple(tenth / 10 for tenth in tenths)
    drops = drops if kind == "python" else jnp.array(drops, jnp.float32)

    @jax.jit
    def all_right(totals):
        def right(total):
            schedule = nj.step_drop(total, drops=drops, factor=0.5)
            boundaries = jnp.array([-(-total * tenth // 10) for tenth in tenths])
            steps = jnp.concatenate([boundaries - 1, boundaries])
            expected = (steps[:, None] >= boundaries).sum(1)
            return (schedule(steps) == 0.5**expected).all()

        return jax.vmap(right)(totals).all()

    assert all_right(jnp.arange(1, 200_000))
    # The ends of the documented ranges.
    last = 10**7 if kind == "python" else 800_000
    assert all_right(jnp.arange(last - 200_000, last + 1))


def test_a_drop_is_the_decimal_that_it_is_written_as():
    hundredths = [hundredth / 100 for hundredth in range(1, 101)]
    for total in (100, 10**7, jnp.int32(12300)):
        multipliers = jax.jit(nj.step_drop(total, drops=hundredths, factor=0.5))
        boundaries = np.arange(1, 101) * (int(total) // 100)
        np.testing.assert_array_equal(multipliers(boundaries), 0.5 ** np.arange(1.0, 101))
        np.testing.assert_array_equal(multipliers(boundaries - 1), 0.5 ** np.arange(100.0))
    # 10**7 * 0.30001 is 3000100, and 0.3000100 and a bit is past it.
    for drop, boundary in [(0.30001, 3_000_100), (0.30001001, 3_000_101), (0.1234567, 1_234_567)]:
        steps = jnp.array([boundary - 1, boundary])
        assert both(nj.step_drop(10**7, drops=[drop], factor=0.5), steps)[0].tolist() == [1, 0.5]


def test_linear_decay_is_exact_in_float32_at_steps_that_it_rounds():
    # float32 rounds every other integer above 2**24; the rest of a run is an exact difference.
    total, warmup = 2**25 + 1, 2**24 + 1
    schedule = nj.warmup_linear_decay(total, warmup_steps=warmup)
    steps = jnp.array([total - 3, total - 1, total, 2**31 - 1])
    np.testing.assert_array_equal(both(schedule, steps)[0], [3 / 2**24, 1 / 2**24, 0, 0])
    # A traced warm-up that is one step too long gives NaN.
    at = jax.jit(lambda w, n: nj.warmup_linear_decay(n, warmup_steps=w)(total - 3))
    for ends in ((total - 1, total), (total, total)):
        assert np.isfinite(at(*ends)), ends
    assert np.isnan(at(total, total - 1))
    alone = jax.jit(lambda n: nj.warmup_linear_decay(n, warmup_steps=3_000_000_000)(0))
    assert np.isnan(alone(total))


def test_warmup_of_all_step_counters():
    schedule = nj.with_warmup(nj.constant(10), 5)
    assert float(schedule(jnp.int32(2**31 - 1))) == 1
    np.testing.assert_allclose(both(schedule, jnp.arange(3))[0], [0.2, 0.4, 0.6], FLOAT32_RTOL)


def test_warmup_may_last_longer_than_an_int32_counts():
    own = nj.Schedule(multiplier=lambda step: 1.0, cycle_steps=lambda step: 7.0)
    assert float(nj.with_warmup(own, 3_000_000_000)(1_500_000_000)) == 0.5


def test_warmup_of_a_schedule_of_ones_own():
    own = nj.Schedule(multiplier=lambda step: 0.5, cycle_steps=lambda step: 7.0)
    schedule = nj.with_warmup(own, 2)
    assert [float(schedule(step)) for step in range(3)] == [0.25, 0.5, 0.5]
    assert schedule.cycle_steps(0) == 7
