"""Tests of `scale_by_relative_step` against the paper's formula and `scale_by_learning_rate`."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests import oracles

RTOL = 1e-14  # In float64: a root, a mean of a few squares and three products.
FLOAT32_RTOL = 10 * np.finfo(np.float32).eps
PARAMS = np.array([[3.0, -4.0], [0.0, 1.0]])
STEPS = (0, 1, 3, 99, 9_998, 9_999, 10_000, 999_999)


def at_step(tx, step, updates, params):
    state = tx.init(params)._replace(step=jnp.int32(step))
    return tx.update(updates, state, params)


def slow(step):
    return 2.0 / (step + 2.0)


def halved(step):
    return 0.5 ** (step // 2)


@pytest.mark.parametrize("warmup_init", [False, True])
@pytest.mark.parametrize("learning_rate", [None, 0.3, 1e-4, slow])
def test_step_is_the_papers(x64, warmup_init, learning_rate):
    tx = nj.scale_by_relative_step(learning_rate, warmup_init=warmup_init)
    for step in STEPS:
        update, state = at_step(tx, step, jnp.ones((2, 2)), jnp.asarray(PARAMS))
        rho = oracles.relative_rate(step, learning_rate, warmup_init)
        np.testing.assert_allclose(state.rate, rho, rtol=RTOL)
        np.testing.assert_allclose(update, -rho * oracles.rms(PARAMS), rtol=RTOL)
        assert state.step == step + 1


def test_warm_up_peaks_at_1e_2():
    tx = nj.scale_by_relative_step(1.0, warmup_init=True)
    rates = [
        float(at_step(tx, step, jnp.ones(1), jnp.ones(1))[1].rate)
        for step in (4_999, 9_999, 39_999)
    ]
    np.testing.assert_allclose(rates, [5e-3, 1e-2, 5e-3], rtol=FLOAT32_RTOL)


def test_parameters_near_0_move_by_eps():
    tx = nj.scale_by_relative_step(eps=1e-3)
    params = {"zero": jnp.zeros(3), "small": jnp.full(3, 9e-4), "large": jnp.full(3, -2.0)}
    update, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    expected = {"zero": -1e-5, "small": -1e-5, "large": -2e-2}
    for name in params:
        np.testing.assert_allclose(update[name], expected[name], rtol=FLOAT32_RTOL)


def test_derivative_by_parameters_of_0_is_finite():
    tx = nj.scale_by_relative_step()

    def moved(params):
        return tx.update(jnp.ones(3), tx.init(params), params)[0].sum()

    np.testing.assert_array_equal(jax.grad(moved)(jnp.zeros(3)), 0)


@pytest.mark.parametrize("learning_rate", [0.3, halved])
@pytest.mark.parametrize("schedule", [None, halved])
def test_given_rate_without_relation_to_parameters_is_scale_by_rate(learning_rate, schedule):
    updates = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(3.0, jnp.bfloat16)}
    ours = nj.scale_by_relative_step(
        learning_rate, relative_step=False, scale_by_parameter=False, schedule=schedule
    )
    theirs = nj.scale_by_learning_rate(learning_rate, schedule=schedule)
    state, other = ours.init(updates), theirs.init(updates)
    for _ in range(5):
        actual, state = ours.update(updates, state)
        expected, other = theirs.update(updates, other)
        assert jax.tree.map(jax.typeof, actual) == jax.tree.map(jax.typeof, expected)
        np.testing.assert_array_equal(actual["a"], expected["a"])
        np.testing.assert_array_equal(np.asarray(actual["b"], float), expected["b"])
        assert state.rate == other.rate


def test_given_rate_is_relative_to_the_parameters_as_in_optax(x64):
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3))), "zero": jnp.zeros(2)}
    updates = jax.tree.map(jnp.ones_like, params)
    ours = nj.scale_by_relative_step(0.3, relative_step=False)
    theirs = optax.chain(optax.scale_by_param_block_rms(), optax.scale(-0.3))
    actual, state = ours.update(updates, ours.init(params), params)
    expected, _ = theirs.update(updates, theirs.init(params), params)
    for name in params:
        np.testing.assert_allclose(actual[name], expected[name], rtol=RTOL)
    assert state.rate == 0.3


def test_schedule_multiplies_the_rate(x64):
    tx = nj.scale_by_relative_step(0.5, schedule=halved)
    params, state = jnp.full(2, 3.0), tx.init(jnp.zeros(2))
    for step in range(6):
        update, state = tx.update(jnp.ones(2), state, params)
        rate = halved(step) * oracles.relative_rate(step, 0.5)
        np.testing.assert_allclose(state.rate, rate, rtol=RTOL)
        np.testing.assert_allclose(update, -3 * rate, rtol=RTOL)


def test_schedule_multiplies_after_the_minimum():
    tx = nj.scale_by_relative_step(1.0, scale_by_parameter=False, schedule=lambda step: 0.5)
    _, state = at_step(tx, 3, jnp.ones(1), jnp.ones(1))
    assert state.rate == 0.25  # Not min(1, 0.5, 1 / sqrt(4)) and not min(0.5 * 1, 1 / sqrt(4)).


@pytest.mark.parametrize(
    ("params_dtype", "updates_dtype"),
    [(jnp.float16, jnp.float16), (jnp.bfloat16, jnp.float32), (jnp.float32, jnp.bfloat16)],
)
def test_16_bit_parameters_are_measured_in_float32(params_dtype, updates_dtype):
    params = jnp.full(4, 512.0, params_dtype)  # In float16 the square is infinite.
    tx = nj.scale_by_relative_step(2.0**-9)
    update, state = tx.update(jnp.ones(4, updates_dtype), tx.init(params), params)
    assert update.dtype == updates_dtype
    np.testing.assert_array_equal(np.asarray(update, float), -1.0)
    assert jax.typeof(state.rate) == jax.typeof(tx.init(params).rate)


@pytest.mark.parametrize("scale_by_parameter", [False, True])
def test_the_schedule_multiplies_the_average_of_the_steps(x64, scale_by_parameter):
    options = {"scale_by_parameter": scale_by_parameter}
    average = nj.scale_by_nested_momentum([0.75])
    ours = nj.scale_by_relative_step(0.5, average=average, schedule=halved, **options)
    steps = nj.scale_by_relative_step(0.5, **options)
    theirs = optax.chain(steps, average, optax.scale_by_schedule(halved))
    params = jnp.asarray(PARAMS)
    state, other = ours.init(params), theirs.init(params)
    for step in range(5):
        update, state = ours.update(params + step, state, params)
        expected, other = theirs.update(params + step, other, params)
        np.testing.assert_array_equal(update, expected)
        assert state.rate == halved(step) * other[0].rate


def test_the_average_of_16_bit_steps_is_rounded_once():
    tx = nj.scale_by_relative_step(
        0.77,
        relative_step=False,
        scale_by_parameter=False,
        average=nj.scale_by_nested_momentum([0.0]),
        schedule=lambda step: 0.752,
    )
    update, state = tx.update(jnp.ones(1, jnp.bfloat16), tx.init(jnp.ones(1, jnp.bfloat16)))
    # Rounding each factor and their product would give -0.58203125.
    assert float(update[0]) == float(jnp.bfloat16(-0.77 * 0.752)) == -0.578125
    np.testing.assert_allclose(state.rate, 0.77 * 0.752, rtol=FLOAT32_RTOL)
    assert update.dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (3, 1)])
def test_updates_have_the_shapes_of_the_parameters(shape):
    tx, params = nj.scale_by_relative_step(), {"w": jnp.ones(3)}
    message = f"Updates must have the shapes of the parameters, here (3,), got {shape} at ['w']."
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        tx.update({"w": jnp.ones(shape)}, tx.init(params), params)


def test_needs_params_only_to_scale_by_them():
    tx = nj.scale_by_relative_step()
    message = "`scale_by_relative_step` needs `params` in `update`, got None."
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    tx = nj.scale_by_relative_step(scale_by_parameter=False)
    update, _ = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    np.testing.assert_allclose(update, -1e-2, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"learning_rate": -1.0},
            ValueError,
            "`learning_rate` must be non-negative and finite, got -1.",
        ),
        (
            {"learning_rate": "fast"},
            TypeError,
            "`learning_rate` must be non-negative and finite, got 'fast'.",
        ),
        (
            {"relative_step": False},
            ValueError,
            "`learning_rate` must be given without `relative_step`, got None.",
        ),
        (
            {"learning_rate": 0.1, "relative_step": False, "warmup_init": True},
            ValueError,
            "`warmup_init` must come with `relative_step`, got relative_step=False.",
        ),
        ({"relative_step": 1}, TypeError, "`relative_step` must be True or False, got 1."),
        ({"warmup_init": 0}, TypeError, "`warmup_init` must be True or False, got 0."),
        (
            {"scale_by_parameter": None},
            TypeError,
            "`scale_by_parameter` must be True or False, got None.",
        ),
        ({"eps": -1e-3}, ValueError, "`eps` must be non-negative and finite, got -0.001."),
        ({"eps": math.nan}, ValueError, "`eps` must be non-negative and finite, got nan."),
        ({"average": 0.9}, TypeError, "`average` must have `init` and `update`, got 0.9."),
        ({"schedule": 0.5}, TypeError, "`schedule` must be callable, got 0.5."),
    ],
    ids=str,
)
def test_rejects(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.scale_by_relative_step(**options)
