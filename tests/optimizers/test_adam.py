"""Tests of `scale_by_adam` and `adam` against the papers' recurrences, bounds and examples."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms import ScaleByAdamState
from tests import oracles
from tests.trajectories import assert_agree, given_gradients, given_params, label, run

# In float64 a step rounds a dozen times: 20 to 400 of them stay well inside this.
RTOL = 1e-12
FLOAT32_RTOL = 20 * np.finfo(np.float32).eps  # Ten roundings of numerator and denominator.


def directions(tx, gradients):
    """Return the updates for `gradients` (time first), stacked likewise."""

    def step(state, gradient):
        update, state = tx.update(gradient, state)
        return state, update

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda g: g[0], gradients)), gradients)[1]


def halved(step):
    return 0.5 ** (step // 7)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"b1": 0.0}, {"b2": 0.0}, {"b1": 0.99, "b2": 0.9999}, {"eps": 0.3}, {"schedule": halved}],
    ids=label,
)
def test_agrees_with_the_oracle(x64, options, amsgrad):
    params, gradients = given_params(), given_gradients()
    if options.get("b2") == 0 and not amsgrad:
        options = options | {"eps": 1e-3}  # Else zeros after a step divide what is left by 1e-8.
    expected = oracles.adam(
        params, gradients, 0.1, amsgrad="debiased" if amsgrad else None, **options
    )
    assert_agree(run(nj.adam(0.1, amsgrad=amsgrad, **options), params, gradients), expected)


def test_agrees_with_the_oracle_without_a_jit_and_under_a_scheduled_rate(x64):
    params, gradients = given_params(), given_gradients()
    expected = oracles.adam(params, gradients, halved)
    assert_agree(run(nj.adam(halved), params, gradients, jit=False), expected)


def test_without_debias_agrees_with_amsgrads_paper(x64):
    gradients = given_gradients()
    tx = nj.scale_by_adam(eps=1e-3, amsgrad=True, debias=False)
    actual = directions(tx, jax.tree.map(lambda *g: jnp.stack(g), *gradients))
    expected = oracles.by_name(oracles.adam_directions, gradients, eps=1e-3, amsgrad="paper")
    for name in actual:
        np.testing.assert_allclose(actual[name], [u[name] for u in expected], rtol=RTOL)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 0.1])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_equals_optax(x64, eps, amsgrad):
    gradients = jnp.asarray(np.random.default_rng(2).normal(size=(400, 3)))
    theirs = optax.scale_by_amsgrad if amsgrad else optax.scale_by_adam
    expected = directions(theirs(0.8, 0.99, eps), gradients)
    actual = directions(nj.scale_by_adam(0.8, b2=0.99, eps=eps, amsgrad=amsgrad), gradients)
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


def test_amsgrad_takes_the_maximum_of_corrected_moments():
    # torch corrects after the maximum, the paper not at all: at early steps they differ.
    gradients = [np.array(g) for g in (1.0, 0.1, 3.0, 0.2)]
    ours = oracles.adam_directions(gradients, amsgrad="debiased")
    actual = directions(nj.scale_by_adam(amsgrad=True), jnp.asarray(gradients, float))
    np.testing.assert_allclose(actual, ours, rtol=FLOAT32_RTOL)
    for other in ("raw", "paper"):
        theirs = oracles.adam_directions(gradients, amsgrad=other)
        assert np.max(np.abs(np.array(theirs) - ours)) > 0.1


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
def test_gradients_that_grow_attain_the_bound_of_the_step(x64, b1, b2):
    bound = (1 - b1) / math.sqrt((1 - b2) * (1 - b1**2 / b2))
    if (b1, b2) == (0.9, 0.999):
        assert bound == pytest.approx(7.2703, abs=5e-5)
    ages = np.arange(200)[::-1]
    history = (b1 / b2) ** ages
    tx = nj.scale_by_adam(b1, b2=b2, eps=0.0, debias=False)
    assert directions(tx, jnp.asarray(history))[-1] == pytest.approx(bound, rel=1e-9)
    # It is the largest: a disturbance of every second gradient makes the step shorter.
    assert directions(tx, jnp.asarray(history + 0.1 * (ages % 2)))[-1] < 0.999 * bound


def test_the_first_step_is_the_sign_if_debiased_and_too_long_if_not():
    gradient = jnp.array([[3.0, -1e-3]])
    debiased = directions(nj.scale_by_adam(eps=0.0), gradient)
    np.testing.assert_allclose(debiased, [[1.0, -1.0]], rtol=FLOAT32_RTOL)
    plain = directions(nj.scale_by_adam(eps=0.0, debias=False), gradient)
    np.testing.assert_allclose(plain, math.sqrt(10) * debiased, rtol=FLOAT32_RTOL)


def test_constant_gradients_give_their_sign(x64):
    gradients = jnp.broadcast_to(jnp.array([3.0, -1e-5, 1e8]), (300, 3))
    actual = directions(nj.scale_by_adam(eps=0.0), gradients)
    np.testing.assert_allclose(actual, np.sign(gradients), rtol=RTOL)


def test_alternating_gradients_give_nearly_nothing(x64):
    gradients = 5.0 * (-1.0) ** jnp.arange(2000)
    actual = directions(nj.scale_by_adam(eps=0.0), gradients)
    # m of +-1 tends to +-(1 - b1) / (1 + b1), v is 1.
    np.testing.assert_allclose(jnp.abs(actual[-10:]), 0.1 / 1.9, rtol=1e-9)


def test_bias_correction_is_a_decay_that_changes(x64):
    # v-hat follows the uncorrected recursion with b_t = b (1 - b^(t-1)) / (1 - b^t).
    gradients, b2 = np.random.default_rng(3).normal(size=50), 0.97
    tx = nj.scale_by_adam(b2=b2)
    state, v_hat = tx.init(jnp.zeros(())), 0.0
    for t, g in enumerate(gradients, start=1):
        _, state = tx.update(jnp.asarray(g), state)
        b = b2 * (1 - b2 ** (t - 1)) / (1 - b2**t)
        v_hat = b * v_hat + (1 - b) * g**2
        np.testing.assert_allclose(state.nu / state.nu_gain, v_hat, rtol=RTOL)
        np.testing.assert_allclose(state.nu_gain, 1 - b2**t, rtol=RTOL)
        np.testing.assert_allclose(state.mu_gain, 1 - 0.9**t, rtol=RTOL)


def test_gains_in_float32_neither_cancel_nor_drift(optimized):
    tx, three = nj.scale_by_adam(0.9, b2=1 - 1e-6), jnp.array(3.0)

    def step(state, _):
        update, state = tx.update(three, state)
        return state, (update, state.nu_gain)

    _, (updates, gains) = jax.lax.scan(step, tx.init(three), length=3000)
    # From the power it would be off by 5 % here, as float32 rounds the decay to 1 - 9.5e-7.
    np.testing.assert_allclose(gains[0], 1e-6, rtol=FLOAT32_RTOL)
    np.testing.assert_allclose(updates, 1.0, rtol=FLOAT32_RTOL)


def test_gains_follow_scheduled_decays(x64):
    gradients = jnp.asarray(np.random.default_rng(4).normal(size=30))
    b1, b2 = (lambda step: 0.5 + 0.4 * step / 30), (lambda step: 0.999 - 0.3 / (step + 1))
    actual = directions(optax.inject_hyperparams(nj.scale_by_adam)(b1, b2=b2, eps=0.0), gradients)
    means = oracles.cascade(gradients, [b1], debias=True)
    squares = oracles.cascade(gradients**2, [b2], debias=True)
    np.testing.assert_allclose(actual, np.array(means) / np.sqrt(squares), rtol=1e-11)


def counter_example(amsgrad, big, small, period, b1, b2, alpha, steps):
    """Minimise `big` x at every period-th step, else -`small` x, over [-1, 1]; return the end."""
    tx = nj.scale_by_adam(b1, b2=b2, eps=0.0, amsgrad=amsgrad, debias=False)

    def step(carry, t):
        x, state = carry
        gradient = jnp.where(t % period == 1, big, -small)
        update, state = tx.update(gradient, state)
        return (jnp.clip(x - alpha / jnp.sqrt(t) * update, -1, 1), state), None

    start = jnp.zeros(())
    times = jnp.arange(1, steps + 1)
    solve = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), times)[0][0])
    return float(solve())


@pytest.mark.parametrize(("amsgrad", "end"), [(False, 0.999), (True, -0.999)])
def test_reddis_example_of_period_3(x64, amsgrad, end):
    x = counter_example(amsgrad, 4.0, 1.0, 3, b1=0.0, b2=1 / 17, alpha=0.5, steps=20_000)
    assert x == pytest.approx(end, abs=2e-3)


@pytest.mark.parametrize(("amsgrad", "end"), [(False, 0.995), (True, -0.9998)])
def test_reddis_example_of_period_101(x64, amsgrad, end):
    x = counter_example(amsgrad, 1010.0, 10.0, 101, b1=0.9, b2=0.99, alpha=0.5, steps=300_000)
    assert x == pytest.approx(end, abs=5e-4)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zeros_leave_as_zeros(eps):
    zeros = jnp.zeros((2, 3))
    np.testing.assert_array_equal(directions(nj.scale_by_adam(eps=eps), zeros), zeros)
    late = jnp.array([0.0, 2.0, 0.0])
    assert jnp.isfinite(directions(nj.scale_by_adam(eps=eps), late)).all()


def test_without_eps_what_is_below_the_root_of_the_smallest_normal_number_is_small():
    root = math.sqrt(np.finfo(np.float32).tiny)
    gradients = jnp.array([[0.01 * root, 100 * root]])
    actual = directions(nj.scale_by_adam(eps=0.0), gradients)
    np.testing.assert_allclose(actual, [[0.01, 1.0]], rtol=FLOAT32_RTOL)


def test_squares_that_overflow_freeze_their_entry_alone():
    gradients = jnp.array([[1.0, 1.0], [1e20, 1.0], [1.0, 1.0]])
    actual = directions(nj.scale_by_adam(), gradients)
    np.testing.assert_array_equal(actual[1:, 0], [0.0, 0.0])
    np.testing.assert_allclose(actual[:, 1], 1.0, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_16_bit_updates_have_32_bit_statistics(dtype, amsgrad):
    # 300 squared is infinite in float16, and 0.999 is 1 in bfloat16.
    gradients = jnp.asarray(300 * np.random.default_rng(5).normal(size=(40, 4)), dtype)
    tx = nj.scale_by_adam(amsgrad=amsgrad)
    state = tx.init(gradients[0])
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
    actual = directions(tx, gradients)
    assert actual.dtype == dtype
    expected = directions(tx, gradients.astype(jnp.float32))
    np.testing.assert_array_equal(actual, expected.astype(dtype))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_state_is_of_one_class_and_one_shape(amsgrad):
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "none": None, "empty": jnp.ones((0,))}
    tx = nj.scale_by_adam(amsgrad=amsgrad)
    state = jax.eval_shape(tx.init, params)
    assert isinstance(state, ScaleByAdamState)
    assert (state.nu_max == ()) is not amsgrad
    _, after = jax.eval_shape(tx.update, params, state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.weak_type), after
    )
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tx.init(params)) if x.size]
    assert len(set(buffers)) == len(buffers)


def test_gains_are_of_the_parameters_dtype_where_float64_is_allowed(x64):
    params = jnp.ones(2, jnp.float32)
    tx = nj.scale_by_adam()
    state = tx.init(params)
    for _ in range(2):
        assert state.mu_gain.dtype == state.nu_gain.dtype == jnp.float32
        _, state = tx.update(params, state)


def test_masked_leaves_pass():
    tx = optax.masked(nj.scale_by_adam(amsgrad=True), {"a": True, "b": False})
    updates = {"a": jnp.array([4.0]), "b": jnp.array([4.0])}
    updates, _ = tx.update(updates, tx.init(updates))
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [1.0, 4.0], rtol=FLOAT32_RTOL)


def test_injected_numbers_are_arrays_and_flags_stay_static():
    tx = optax.inject_hyperparams(nj.adam)(0.1, amsgrad=True)
    params = jnp.ones(3)
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert set(state.hyperparams) == {"learning_rate", "b1", "b2", "eps"}
    np.testing.assert_allclose(updates, -0.1, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("factory", [nj.scale_by_adam, functools.partial(nj.adam, 0.1)])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"b1": 1.0}, ValueError, "`b1` must lie in [0, 1), got 1."),
        ({"b2": -3}, ValueError, "`b2` must lie in [0, 1), got -3."),
        ({"eps": -1e-8}, ValueError, "`eps` must be non-negative and finite, got -1e-08."),
        ({"b1": "0.9"}, TypeError, "`b1` must lie in [0, 1), got '0.9'."),
        ({"amsgrad": 1}, TypeError, "`amsgrad` must be True or False, got 1."),
    ],
)
def test_rejects(factory, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        factory(**arguments)


def test_rejects_a_debias_that_is_no_flag():
    with pytest.raises(TypeError, match=r"`debias` must be True or False, got None\."):
        nj.scale_by_adam(debias=None)
