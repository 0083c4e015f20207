"""Tests of schedules in programs: vmapped numbers, counters, dtypes, derivatives."""

import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from tests.schedules.test_schedules import EPS, FLOAT32_RTOL, both, built
from tests.trajectories import by_name

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


@pytest.mark.parametrize("kind", [float, np.float32, jnp.float32, jnp.asarray])
@pytest.mark.parametrize("name", VMAPPED)
def test_a_schedule_built_while_jax_traces_is_the_one_built_before(name, kind):
    numbers = [jax.tree.map(kind, column[1]) for column in VMAPPED[name]]
    built = []
    jax.eval_shape(lambda: built.append(with_numbers(name, *numbers)))
    steps = jnp.arange(40)
    chex.assert_trees_all_equal(both(built[0], steps), both(with_numbers(name, *numbers), steps))


def test_a_sweep_over_totals_names_the_one_that_a_warm_up_exceeds():
    def run(total):
        return {"x": nj.warmup_linear_decay(total, warmup_steps=20)(3)}

    message = r"^`total`\[1\] = 10: `warmup_steps` must be at most `total_steps` = 10.*, got 20"
    with pytest.raises(ValueError, match=message):
        nj.sweep(run, nj.Grid(total=[40, 10]))


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
