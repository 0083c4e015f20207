"""Tests of the schedules against the papers' formulas, exact boundaries, and optax."""

import itertools
import math
import re
from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests import oracles
from tests.trajectories import assert_agree, by_name, given_gradients, given_params, run

EPS = float(np.finfo(np.float32).eps)
RTOL = 1e-12  # A few float64 roundings.
ATOL = 1e-15  # The oracle's 1 + cos near 0.
FLOAT32_RTOL = 6 * EPS  # A quotient, a sine and a square: 2 roundings each.
# How far the start of a cycle, found with twice the digits of float32, is from the exact one.
PAIR_ERROR = 2.0**-40
# The multiplier of the documented guard: steps this close before a start count as on it.
GUARD = Decimal(1) / 1500
LAST = 10**7
MOST = 400  # Restarts looked at, of each case.

getcontext().prec = 60  # The oracle's digits: errors below 1e-50 of a boundary.

CASES = {
    "constant": ("constant", 7),
    "step_drop": ("step_drop", 10),
    "step_drop own": ("step_drop", 17, (0.25, 0.5, 1.0), 0.3),
    "step_drop none": ("step_drop", 5, ()),
    "cosine": ("cosine", 20),
    "cosine floor": ("cosine", 10, 0.25),
    "linear": ("warmup_linear_decay", 20, 6, 0.125),
    "linear without warm-up": ("warmup_linear_decay", 12, 0),
    "linear without decay": ("warmup_linear_decay", 9, 9),
    "restarts": ("warm_restarts", 10),
    "restarts doubled": ("warm_restarts", 3, 2, 0.125),
    "restarts 1.5": ("warm_restarts", 8, 1.5),
    "restarts 1.1": ("warm_restarts", 10, 1.1, 0.5),
    "restarts real": ("warm_restarts", 2.5, 1.25),
}


def built(library, case, ramp=None):
    name, *args = CASES[case]
    schedule = by_name(getattr(library, name), *args)
    return schedule if ramp is None else library.with_warmup(schedule, ramp)


def both(schedule, steps):
    """Return the multipliers and the cycle lengths at an array of steps, as NumPy."""
    return jax.tree.map(
        np.asarray, jax.jit(lambda t: (schedule(t), schedule.cycle_steps(t)))(steps)
    )


def told(schedule, steps):
    """Return the same of a schedule that takes one Python number at a time."""
    pairs = [(schedule(int(step)), schedule.cycle_steps(int(step))) for step in steps]
    return tuple(np.array(column) for column in zip(*pairs, strict=True))


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


@pytest.mark.parametrize("ramp", [None, 0, 4])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_oracle(x64, case, ramp):
    steps = np.arange(60)
    expected = told(built(oracles, case, ramp), steps)
    for actual, value in zip(both(built(nj, case, ramp), steps), expected, strict=True):
        assert (actual.dtype, actual.shape) == (np.float64, steps.shape)
        np.testing.assert_allclose(actual, value, RTOL, ATOL)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_oracle_in_float32_and_one_by_one(case):
    steps = np.arange(40)
    expected = told(built(oracles, case, 4), steps)
    for actual, value in zip(both(built(nj, case, 4), steps), expected, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, value, FLOAT32_RTOL, ATOL)
    for step in (0, 3, 17):  # Not under jit.
        value = float(built(nj, case, 4)(step))
        np.testing.assert_allclose(value, expected[0][step], FLOAT32_RTOL, ATOL)


def test_restarts_of_the_paper():
    multipliers, lengths = both(nj.warm_restarts(100, growth=2), jnp.arange(1501))
    assert np.flatnonzero(multipliers == 1).tolist() == [0, 100, 300, 700, 1500]
    assert lengths[[0, 99, 100, 299, 300, 699, 700, 1499, 1500]].tolist() == [
        *(100, 100, 200, 200, 400, 400, 800, 800, 1600)
    ]
    assert multipliers[[99, 299, 699, 1499]].min() > 0


@pytest.mark.parametrize(("first_cycle", "growth"), [(10, 1), (5, 2), (3, 3)])
def test_counts_as_torch_does(first_cycle, growth):
    expected, position, length = [], 0, first_cycle
    for _ in range(200):
        expected.append(0.1 + 0.9 * (1 + math.cos(math.pi * position / length)) / 2)
        position += 1
        if position >= length:
            position, length = position - length, length * growth
    actual = both(nj.warm_restarts(first_cycle, growth=growth, floor=0.1), jnp.arange(200))[0]
    np.testing.assert_allclose(actual, expected, FLOAT32_RTOL)


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


def test_equals_optax_where_they_coincide():
    steps = jnp.arange(50)
    # optax computes (1 + cos) / 2, with absolute errors.
    tolerance = {"rtol": FLOAT32_RTOL, "atol": 2 * EPS}
    theirs = optax.cosine_decay_schedule(1.0, 40, alpha=0.1)
    np.testing.assert_allclose(nj.cosine(40, floor=0.1)(steps), theirs(steps), **tolerance)
    theirs = optax.join_schedules(
        [optax.linear_schedule(1 / 8, 1, 7), optax.linear_schedule(1, 0.1, 32)], [8]
    )
    ours = nj.warmup_linear_decay(40, warmup_steps=8, floor=0.1)
    np.testing.assert_allclose(ours(steps), theirs(steps), **tolerance)
    theirs = optax.piecewise_constant_schedule(1.0, {3: 0.1, 6: 0.1, 8: 0.1})
    np.testing.assert_allclose(nj.step_drop(10)(steps), jax.vmap(theirs)(steps), **tolerance)
    cycles = [
        {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": length}
        for length in (10, 20, 40)
    ]
    theirs = jax.vmap(optax.sgdr_schedule(cycles))(steps)
    np.testing.assert_allclose(nj.warm_restarts(10, growth=2)(steps), theirs, **tolerance)


# Two values of every number; a growth of exactly 1 and one above in the same program.
VMAPPED = {
    "constant": [[5, 9]],
    "step_drop": [[10, 23], [[0.3, 0.6, 0.8], [0.1, 0.5, 0.9]], [0.1, 0.5]],
    "cosine": [[10, 33], [0.0, 0.2]],
    "warm_restarts": [[10.0, 3.0], [1.0, 1.5], [0.0, 0.1]],
    "warmup_linear_decay": [[40, 33], [8, 20], [0.0, 0.2]],
    "with_warmup": [[0, 9]],
}


def with_numbers(name, *numbers):
    if name == "with_warmup":
        return nj.with_warmup(nj.warm_restarts(5, growth=2), *numbers)
    return by_name(getattr(nj, name), *numbers)


@pytest.mark.parametrize("name", VMAPPED)
def test_every_number_and_the_step_are_vmappable(name):
    numbers = [jnp.asarray(column) for column in VMAPPED[name]]
    steps = jnp.arange(40)

    def at(step, *numbers):
        schedule = with_numbers(name, *numbers)
        return schedule(step), schedule.cycle_steps(step)

    over_steps = jax.vmap(at, (0,) + (None,) * len(numbers))
    together = jax.jit(jax.vmap(over_steps, (None,) + (0,) * len(numbers)))(steps, *numbers)
    for i in (0, 1):
        alone = both(with_numbers(name, *(column[i] for column in numbers)), steps)
        for actual, expected in zip(together, alone, strict=True):
            np.testing.assert_allclose(actual[i], expected, FLOAT32_RTOL)


def test_a_grid_of_restarts_is_one_program():
    traces = 0

    @jax.jit
    def starts_of(first_cycle, growth):
        nonlocal traces
        traces += 1
        schedule = nj.warm_restarts(first_cycle, growth=growth)
        return jax.lax.scan(lambda _, t: (None, schedule(t) == 1), None, jnp.arange(60))[1]

    grid = jax.vmap(jax.vmap(starts_of, (None, 0)), (0, None))
    actual = grid(jnp.array([10.0, 20.0]), jnp.array([1.0, 1.5, 2.0]))
    grid(jnp.array([11.0, 21.0]), jnp.array([1.0, 1.25, 3.0]))
    assert traces == 1
    assert [[np.flatnonzero(run).tolist() for run in row] for row in actual] == [
        [[0, 10, 20, 30, 40, 50], [0, 10, 25], [0, 10, 30]],
        [[0, 20, 40], [0, 20, 50], [0, 20]],
    ]


@pytest.mark.parametrize("case", ["constant", "step_drop", "cosine", "restarts 1.5"])
def test_counters_of_all_kinds_agree(case):
    schedule = built(nj, case, 3)
    expected = both(schedule, jnp.arange(30))
    for kind in (np.int8, np.uint32, np.float32):
        for actual, value in zip(both(schedule, np.arange(30, dtype=kind)), expected, strict=True):
            np.testing.assert_allclose(actual, value, FLOAT32_RTOL)
    for kind in (int, float, np.int64, np.float64, jnp.int32):
        actual = float(schedule(kind(12)))
        np.testing.assert_allclose(actual, expected[0][12], FLOAT32_RTOL)


def test_is_stable_under_scan():
    schedule = nj.with_warmup(nj.warm_restarts(4, growth=2, floor=0.1), 3)
    start = (jnp.ones(()), jnp.zeros(()))
    steps = jnp.arange(30)
    body = lambda carry, t: ((schedule(t), schedule.cycle_steps(t)), carry[0])  # noqa: E731
    multipliers = jax.lax.scan(body, start, steps)[1]
    np.testing.assert_allclose(multipliers[1:], schedule(steps)[:-1], FLOAT32_RTOL)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("dtype", [None, jnp.int32, jnp.bfloat16, jnp.float16, jnp.float32])
def test_output_dtypes(dtype, enabled):
    with jax.enable_x64(enabled):
        one = (lambda x: x) if dtype is None else (lambda x: jnp.asarray(x, dtype))
        default = jnp.float64 if enabled else jnp.float32
        expected = default if dtype in (None, jnp.int32) else jnp.float32
        for schedule in (
            nj.constant(one(8)),
            nj.step_drop(one(8)),
            nj.step_drop(one(8), drops=[one(1)], factor=one(1)),
            nj.cosine(one(8), floor=one(1)),
            nj.warm_restarts(one(8), growth=one(2), floor=one(1)),
            nj.warmup_linear_decay(one(8), warmup_steps=one(2), floor=one(1)),
            nj.with_warmup(nj.constant(one(8)), one(4)),
            nj.with_warmup(nj.constant(one(8)), 4),
        ):
            for value in (schedule(jnp.int32(3)), schedule.cycle_steps(jnp.int32(3))):
                assert value.dtype == expected
                assert value.shape == ()
                assert not value.weak_type


@pytest.mark.parametrize("name", VMAPPED)
def test_gradients_are_those_of_differences(x64, name):
    points = [jnp.asarray(column, float) for column in VMAPPED[name]]
    # Away from the ends of ranges, beyond which there is NaN.
    inwards = {"cosine": (0, 1e-3), "warm_restarts": (0, 1e-3, 1e-3)}
    inwards["warmup_linear_decay"] = (0, 0, 1e-3)
    inwards = inwards.get(name, [0] * len(points))
    points = [column + shift for column, shift in zip(points, inwards, strict=True)]
    # In no boundary's reach; in the first cycles and in later ones.
    for output, step in itertools.product(("multiplier", "cycle_steps"), (6.25, 31.25)):

        def value(numbers, output=output, step=step):
            return getattr(with_numbers(name, *numbers), output)(step)

        for i in (0, 1):
            numbers = [column[i] for column in points]
            gradient = jax.grad(value)(numbers)
            for j, number in enumerate(numbers):
                shift = 1e-6 if j != 1 or name != "step_drop" else 0.0
                either = [[*numbers[:j], number + d, *numbers[j + 1 :]] for d in (-shift, shift)]
                difference = jax.jit(value)(either[1]) - jax.jit(value)(either[0])
                if name == "with_warmup" and i == 0:
                    difference = 0.0  # No warm-up: flat.
                expected = difference / (2 * shift) if shift else np.zeros(3)
                # Central differences: a relative 1e-12, and roundings over the shift.
                np.testing.assert_allclose(gradient[j], expected, 1e-5, 1e-8)


@pytest.mark.parametrize("name", VMAPPED)
def test_gradients_are_finite_at_every_step(name):
    numbers = [jnp.asarray(column, float) for column in VMAPPED[name]]
    extremes = {"step_drop": 0.0, "cosine": 1.0, "warm_restarts": 1.0, "warmup_linear_decay": 1.0}
    if name == "warmup_linear_decay":
        numbers[1] = numbers[0]  # No decay.
    if name in extremes:
        numbers[-1] = jnp.array([extremes[name], 0.0])

    def at(step, numbers):
        schedule = with_numbers(name, *numbers)
        return schedule(step) + schedule.cycle_steps(step)

    by_step = jax.vmap(jax.grad(at, (0, 1)), (0, None))
    gradients = jax.jit(jax.vmap(by_step, (None, 0)))(jnp.arange(60.0), numbers)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_nothing_overflows_on_the_way():
    with jax.debug_nans(True), jax.debug_infs(True):
        for growth in (1.0, 2.0, 1e300, jnp.float32(3e38)):
            schedule = nj.warm_restarts(jnp.float32(3), growth=growth)
            assert np.isfinite(both(schedule, jnp.array([2, 3, 50, 2**31 - 1]))).all()


def test_the_slope_in_the_step():
    schedule = nj.warm_restarts(10, growth=2)
    actual = jax.vmap(jax.grad(schedule))(jnp.array([10.0, 15.0, 20.0]))
    expected = [-math.pi / 40 * math.sin(math.pi * x) for x in (0, 0.25, 0.5)]
    np.testing.assert_allclose(actual, expected, FLOAT32_RTOL, EPS)


def test_serves_wherever_optax_takes_a_schedule():
    schedule = nj.warm_restarts(2, growth=2)
    expected = -0.5 * np.array(both(schedule, jnp.arange(8))[0])
    for tx in (
        optax.chain(optax.scale_by_schedule(schedule), optax.scale(-0.5)),
        optax.sgd(lambda step: 0.5 * schedule(step)),
        optax.inject_hyperparams(optax.sgd)(lambda step: 0.5 * schedule(step)),
        optax.chain(optax.inject_hyperparams(optax.scale)(step_size=schedule), optax.scale(-0.5)),
        nj.momentum(0.5, decay=0.0, schedule=schedule),
    ):

        def body(state, _, tx=tx):
            update, state = tx.update(jnp.ones(()), state)
            return state, update

        actual = jax.lax.scan(body, tx.init(jnp.ones(())), length=8)[1]
        np.testing.assert_allclose(actual, expected, FLOAT32_RTOL)


def test_normalized_decay_knows_the_cycle(x64):
    params, gradients = given_params(), given_gradients()
    expected = oracles.adamw(
        params,
        gradients,
        0.1,
        0.25,
        normalized=True,
        schedule=built(oracles, "restarts doubled", 4),
    )
    tx = nj.adamw(
        0.1, weight_decay=0.25, normalized=True, schedule=built(nj, "restarts doubled", 4)
    )
    assert_agree(run(tx, params, gradients), expected)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        (
            "constant",
            {"total_steps": "5"},
            TypeError,
            "`total_steps` must be a whole number of at least 1, got '5'.",
        ),
        (
            "constant",
            {"total_steps": True},
            TypeError,
            "`total_steps` must be a whole number of at least 1, got True.",
        ),
        (
            "constant",
            {"total_steps": 0},
            ValueError,
            "`total_steps` must be a whole number of at least 1, got 0.",
        ),
        (
            "cosine",
            {"total_steps": math.inf},
            ValueError,
            "`total_steps` must be a whole number of at least 1, got inf.",
        ),
        (
            "cosine",
            {"total_steps": 2.5},
            ValueError,
            "`total_steps` must be a whole number of at least 1, got 2.5.",
        ),
        (
            "step_drop",
            {"total_steps": np.array([5, 6])},
            ValueError,
            "`total_steps` must be a whole number of at least 1, got an array of shape (2,).",
        ),
        (
            "step_drop",
            {"drops": 0.3},
            TypeError,
            "`drops` must be a sequence of numbers or a vector, got 0.3.",
        ),
        (
            "step_drop",
            {"drops": "0.3"},
            TypeError,
            "`drops` must be a sequence of numbers or a vector, got '0.3'.",
        ),
        (
            "step_drop",
            {"drops": np.ones((1, 2))},
            ValueError,
            "`drops` must be a vector, got an array of shape (1, 2).",
        ),
        ("step_drop", {"drops": [0.3, 1.7]}, ValueError, "`drops[1]` must lie in [0, 1], got 1.7."),
        ("step_drop", {"drops": [None]}, TypeError, "`drops[0]` must lie in [0, 1], got None."),
        (
            "step_drop",
            {"drops": [0.6, 0.3]},
            ValueError,
            "`drops` must increase from above 0, got [0.6, 0.3].",
        ),
        (
            "step_drop",
            {"drops": [0.5, 0.5]},
            ValueError,
            "`drops` must increase from above 0, got [0.5, 0.5].",
        ),
        (
            "step_drop",
            {"drops": [0.0, 0.5]},
            ValueError,
            "`drops` must increase from above 0, got [0.0, 0.5].",
        ),
        ("step_drop", {"factor": -1}, ValueError, "`factor` must lie in [0, 1], got -1."),
        ("cosine", {"floor": 1.5}, ValueError, "`floor` must lie in [0, 1], got 1.5."),
        (
            "warmup_linear_decay",
            {"warmup_steps": 6},
            ValueError,
            "`warmup_steps` must be at most `total_steps` = 5, got 6.",
        ),
        (
            "warmup_linear_decay",
            {"warmup_steps": -1},
            ValueError,
            "`warmup_steps` must be a whole number of at least 0, got -1.",
        ),
        (
            "warmup_linear_decay",
            {"warmup_steps": None},
            TypeError,
            "`warmup_steps` must be a whole number of at least 0, got None.",
        ),
        (
            "warmup_linear_decay",
            {"warmup_steps": 2, "floor": 1.5},
            ValueError,
            "`floor` must lie in [0, 1], got 1.5.",
        ),
        (
            "warm_restarts",
            {"first_cycle": 0.5},
            ValueError,
            "`first_cycle` must be at least 1 and finite, got 0.5.",
        ),
        (
            "warm_restarts",
            {"first_cycle": None},
            TypeError,
            "`first_cycle` must be at least 1 and finite, got None.",
        ),
        (
            "warm_restarts",
            {"growth": 0.99},
            ValueError,
            "`growth` must be at least 1 and finite, got 0.99.",
        ),
        ("warm_restarts", {"floor": math.nan}, ValueError, "`floor` must lie in [0, 1], got nan."),
        (
            "with_warmup",
            {"steps": -1},
            ValueError,
            "`steps` must be a whole number of at least 0, got -1.",
        ),
        (
            "with_warmup",
            {"steps": 1.5},
            ValueError,
            "`steps` must be a whole number of at least 0, got 1.5.",
        ),
        (
            "with_warmup",
            {"schedule": 0.5, "steps": 3},
            TypeError,
            "`schedule` must be a Schedule, which has cycles, got 0.5.",
        ),
        (
            "with_warmup",
            {"schedule": len, "steps": 3},
            TypeError,
            "`schedule` must be a Schedule, which has cycles, got <built-in function len>.",
        ),
        (
            "Schedule",
            {"multiplier": 1.0, "cycle_steps": len},
            TypeError,
            "`multiplier` must be callable, got 1.0.",
        ),
        (
            "Schedule",
            {"multiplier": len, "cycle_steps": 100},
            TypeError,
            "`cycle_steps` must be callable, got 100.",
        ),
    ],
)
def test_rejects(name, arguments, error, message):
    given = {"first_cycle": 5} if name == "warm_restarts" else {"total_steps": 5}
    given = {"schedule": nj.constant(5)} if name == "with_warmup" else given
    given = {} if name == "Schedule" else given
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        getattr(nj, name)(**given | arguments)


def test_concrete_numbers_are_checked_under_jit():
    drops = jnp.array([0.5, 0.25])

    def program():
        return nj.step_drop(10, drops=drops)(3)

    with pytest.raises(ValueError, match=r"`drops` must increase from above 0"):
        jax.jit(program)()
