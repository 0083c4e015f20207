"""Tests of the schedules against the papers' formulas and optax, and their errors."""

import math
import re

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


@pytest.mark.parametrize("step", [math.inf, -math.inf, math.nan])
def test_a_step_must_be_finite(step):
    schedule = nj.cosine(5)
    for function in schedule, schedule.cycle_steps:
        with pytest.raises(ValueError, match=rf"`step` must be finite, got {step}\."):
            function(step)


def test_traced_drops_that_do_not_increase_give_nan():
    at = jax.jit(lambda drops: nj.step_drop(10, drops=drops)(jnp.arange(5)))
    assert np.isnan(at(jnp.array([0.5, 0.25]))).all()
    assert np.isfinite(at(jnp.array([0.25, 0.5]))).all()


def test_concrete_numbers_are_checked_under_jit():
    drops = jnp.array([0.5, 0.25])

    def program():
        return nj.step_drop(10, drops=drops)(3)

    with pytest.raises(ValueError, match=r"`drops` must increase from above 0"):
        jax.jit(program)()
