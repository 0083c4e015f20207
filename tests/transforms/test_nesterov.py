"""Tests of `scale_by_nesterov_momentum` against the look-ahead form it recasts."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms import ScaleByNesterovMomentumState
from tests import oracles
from tests.trajectories import assert_agree, distance, given_gradients, given_params, run

LOOKAHEAD_TOLERANCE = 1e-13  # Numbers of order one that contract: 40 steps of few roundings.
FLOAT32_RTOL = 8 * np.finfo(np.float32).eps
CURVATURES = {"matrix": np.linspace(0.1, 3, 24).reshape(6, 4), "vector": 0.5, "scalar": 2.0}


def falling(step):
    return 0.3 / (1 + 0.2 * step)


def rising(step):
    return 1 - 3.0 / (step + 5)


def wave(step):
    # 0 at times. An integer over an integer would be float32 in JAX, also under x64.
    return (step % 4) / 3.0


def slope(tree):
    return {name: CURVATURES[name] * x for name, x in tree.items()}


@pytest.mark.parametrize("schedule", [None, wave])
@pytest.mark.parametrize("decay", [0.9, 0.0, rising])
@pytest.mark.parametrize("learning_rate", [0.2, falling])
def test_is_the_look_ahead_form(x64, learning_rate, decay, schedule):
    params, steps = given_params(), 40
    thetas, points = oracles.nesterov_lookahead(
        params, slope, steps, learning_rate, decay, schedule=schedule
    )
    tx = nj.nesterov(learning_rate, decay=decay, schedule=schedule)

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(slope(p), state)
        p = optax.apply_updates(p, updates)
        return (p, state), (p, nj.nesterov_iterate(p, state))

    start = jax.tree.map(jnp.asarray, params)
    assert_agree(nj.nesterov_iterate(start, tx.init(start)), params, 0.0)
    _, actual = jax.lax.scan(step, (start, tx.init(start)), length=steps)
    for tree, expected in zip(actual, (points, thetas), strict=True):
        rows = [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(steps)]
        assert_agree(rows, expected, LOOKAHEAD_TOLERANCE)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("decay", [0.9, rising])
def test_agrees_with_the_oracle_along_given_gradients(x64, decay, jit):
    params, gradients = given_params(), given_gradients()
    expected = oracles.nesterov(params, gradients, falling, decay, schedule=wave)
    tx = nj.nesterov(falling, decay=decay, schedule=wave)
    assert_agree(run(tx, params, gradients, jit=jit), expected)


def test_equals_optax_while_rate_and_decay_are_constant_and_only_then(x64):
    params, gradients = given_params(), given_gradients()
    constant = run(optax.sgd(0.1, momentum=0.9, nesterov=True), params, gradients)
    assert_agree(run(nj.nesterov(0.1), params, gradients), constant)
    decaying = run(optax.sgd(falling, momentum=0.9, nesterov=True), params, gradients)
    assert distance(run(nj.nesterov(falling), params, gradients), decaying) > 0.1


def rate_of_convergence(learning_rate, decay, curvature):
    """Return the largest eigenvalue of one step on a quadratic, from (p, s) to (p', s')."""
    tx = nj.scale_by_nesterov_momentum(learning_rate, decay=decay)
    _, state = tx.update(jnp.zeros(()), tx.init(jnp.zeros(())))

    def step(p_and_s):
        p, s = p_and_s
        update, after = tx.update(curvature * p, state._replace(velocity=s))
        return jnp.stack([p + update, after.velocity])

    return jnp.max(jnp.abs(jnp.linalg.eigvals(jax.jacobian(step)(jnp.zeros(2)))))


@pytest.mark.parametrize(("method", "expected"), [("1/L", 0.9), ("4/(3L+mu)", 0.8847)])
def test_worst_rate_of_convergence_at_condition_100(x64, method, expected):
    kappa = 100.0
    if method == "1/L":
        rate, decay = 1.0, (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    else:
        q = math.sqrt(3 * kappa + 1)
        rate, decay = 4 / (3 + 1 / kappa), (q - 2) / (q + 2)
    curvatures = jnp.linspace(1 / kappa, 1.0, 200)
    rates = jax.vmap(lambda h: rate_of_convergence(rate, decay, h))(curvatures)
    assert float(jnp.max(rates)) == pytest.approx(expected, abs=5e-5)


def test_an_injected_decay_that_changes_leaves_the_iterate_exact(x64):
    # The number of step t is the decay of step t + 1, so this is `rising` one step early.
    params, gradients = given_params(), given_gradients()
    tx = optax.inject_hyperparams(nj.nesterov)(0.1, decay=lambda step: rising(step + 1))
    expected = oracles.nesterov(params, gradients, 0.1, rising)
    assert_agree(run(tx, params, gradients), expected)


def wrapped_in(tx):
    return {
        "chain": optax.chain(optax.clip(100.0), tx),
        "inject_hyperparams": optax.inject_hyperparams(lambda learning_rate: tx)(0.0),
        "MultiSteps": optax.MultiSteps(tx, 1),
        "apply_if_finite": optax.apply_if_finite(tx, 3),
        "partition": optax.partition({"a": tx, "b": optax.sgd(0.1)}, {"a": "a", "b": "b"}),
        "masked": optax.masked(tx, {"a": True, "b": False}),
    }


@pytest.mark.parametrize("wrapper", wrapped_in(nj.nesterov(0.1)))
def test_finds_the_iterate_in_wrapped_states(wrapper):
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": None}}
    tx, alone = wrapped_in(nj.nesterov(0.1))[wrapper], nj.nesterov(0.1)
    state, state_alone = tx.init(params), alone.init(params)
    p, p_alone = params, params
    for _ in range(3):
        updates, state = tx.update(params, state, p)
        updates_alone, state_alone = alone.update(params, state_alone)
        p = optax.apply_updates(p, updates)
        p_alone = optax.apply_updates(p_alone, updates_alone)
    actual = nj.nesterov_iterate(p, state)
    expected = nj.nesterov_iterate(p_alone, state_alone)
    np.testing.assert_allclose(actual["a"], expected["a"], rtol=FLOAT32_RTOL)
    assert actual["a"][0] != p["a"][0]
    if wrapper in ("partition", "masked"):
        expected = p
    np.testing.assert_allclose(actual["b"]["c"], expected["b"]["c"], rtol=FLOAT32_RTOL)
    assert actual["b"]["d"] is None


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_narrow_parameters_have_a_wide_velocity(dtype):
    params = {"w": jnp.ones(3, dtype), "none": None, "empty": jnp.ones((0,), dtype)}
    tx = nj.nesterov(jnp.float32(0.1), decay=0.999, schedule=wave)
    state = jax.eval_shape(tx.init, params)
    assert state.velocity["w"].dtype == jnp.float32
    updates, after = jax.eval_shape(tx.update, params, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.weak_type), after
    )
    assert updates["w"].dtype == dtype
    assert nj.nesterov_iterate(params, tx.init(params))["w"].dtype == dtype


def test_bfloat16_velocity_forgets():
    tx = nj.nesterov(1.0, decay=0.999)
    gradients = jnp.zeros(2000, jnp.bfloat16).at[0].set(1.0)

    def step(state, gradient):
        update, state = tx.update(gradient, state)
        return state, update

    _, updates = jax.lax.scan(step, tx.init(gradients[0]), gradients)
    # The last update is 0.999^2000; bfloat16 keeps 8 bits.
    np.testing.assert_allclose(float(updates[-1]), -(0.999**2000), rtol=2**-8)


@pytest.mark.parametrize("factory", [nj.nesterov, nj.scale_by_nesterov_momentum])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -1}, ValueError, "`learning_rate` must be non-negative and finite"),
        ({"learning_rate": None}, TypeError, "`learning_rate` must be non-negative and finite"),
        ({"decay": 1.0}, ValueError, "`decay` must lie in [0, 1), got 1."),
        ({"decay": True}, TypeError, "`decay` must lie in [0, 1), got True."),
        ({"schedule": 1.0}, TypeError, "`schedule` must be callable, got 1.0."),
    ],
)
def test_rejects(factory, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        factory(**({"learning_rate": 0.1} | arguments))


def test_the_iterate_of_a_number():
    tx = nj.nesterov(0.5, decay=0.5)
    update, state = tx.update(1.0, tx.init(1.0))
    assert float(nj.nesterov_iterate(1.0 + float(update), state)) == 0.5


@pytest.mark.parametrize("found", [0, 2])
def test_iterate_rejects_states_with_none_or_several(found):
    params = jnp.ones(2)
    state = optax.chain(optax.identity(), *[nj.nesterov(0.1)] * found).init(params)
    message = rf"`state` must hold one ScaleByNesterovMomentumState, got {found}\."
    with pytest.raises(ValueError, match=message):
        nj.nesterov_iterate(params, state)


def test_a_scheduled_decay_out_of_range_is_nan():
    params = jnp.ones(2)
    tx = nj.scale_by_nesterov_momentum(0.1, decay=lambda step: 0.5 + step)
    updates, _ = jax.jit(tx.update)(params, tx.init(params))
    assert np.isnan(updates).all()


def test_state_starts_without_rate_and_decay():
    state = nj.scale_by_nesterov_momentum(0.1, decay=0.9).init(jnp.ones(2))
    assert (int(state.count), float(state.decay), float(state.rate)) == (0, 0, 0)


def test_state_reports_rate_and_decay(x64):
    tx = nj.nesterov(falling, decay=rising, schedule=wave)
    state = tx.init(jnp.ones(2))
    for step in range(6):
        _, state = tx.update(jnp.ones(2), state)
        np.testing.assert_allclose(state.rate, falling(step) * wave(step), rtol=1e-15)
        np.testing.assert_allclose(state.decay, rising(step + 1), rtol=1e-15)
    assert isinstance(state, ScaleByNesterovMomentumState)
    assert (int(state.count), state.count.dtype) == (6, jnp.int32)
