"""Tests of state-space forms against the transforms they are read off and against closed forms."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from nested_jax.theory import StateSpace, _remembered
from tests.theory.test_linearity import LINEAR, REFUSED

# In units of the largest output, over 200 steps of a dozen roundings each.
TOLERANCE = 1e-13
# A derivative is a product of as many factors as there are stages.
RTOL = 1e-14


def outputs(tx, *rows):
    """Return what a transform makes of each row of scalar inputs, step by step."""
    inputs = np.array(rows, float)
    # By NumPy, since a weak type of the first state would compile the update a second time.
    state = jax.tree.map(np.asarray, jax.vmap(tx.init)(np.zeros(len(rows))))
    update, actual = jax.jit(jax.vmap(tx.update)), []
    for u in inputs.T:
        y, state = update(u, state, np.zeros(len(rows)))
        actual.append(np.asarray(y))
    return np.stack(actual, axis=1)


# Rows: what is random, an impulse, a constant.
INPUTS = np.array([np.random.default_rng(1).normal(size=200), np.arange(200) == 0, np.ones(200)])


@functools.cache
def ran(name):
    """Return what a linear transform makes of `INPUTS`; in 64 bits."""
    assert jax.config.jax_enable_x64
    return outputs(LINEAR[name], *INPUTS)


def stepped(system, inputs):
    """Return what a system makes of inputs: the defining recurrence, in NumPy."""
    A, b, c, d = (np.asarray(x, np.float64) for x in system)
    state, actual = np.zeros(len(b)), []
    for u in inputs:
        actual.append(c @ state + d * u)
        state = A @ state + b * u
    return np.array(actual)


@pytest.mark.parametrize("name", LINEAR)
def test_a_system_does_what_its_transform_does(x64, name):
    expected = ran(name)[0]
    actual = stepped(theory.state_space(LINEAR[name]), INPUTS[0])
    allowed = TOLERANCE * max(np.max(np.abs(expected)), 1e-300)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("scale_by_nested_momentum", 2),  # The stage of decay 0 is none.
        ("scale_by_nested_momentum[deep]", 18),
        ("scale_by_learning_rate", 0),
        ("scale_by_nesterov_momentum", 1),
        ("nested_momentum", 3),
        ("with_metrics", 1),
        ("optax.inject_hyperparams", 1),
        ("optax.set_to_zero", 0),
        ("test.delay", 2),
        ("test.offset", 0),
        ("optax.apply_if_finite", 1),
    ],
)
def test_only_what_matters_is_kept(x64, name, size):
    assert theory.state_space(LINEAR[name]).drive.shape == (size,)


def assert_same(actual, expected, rtol=RTOL):
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("decays", [[], [0.9], [0.9, 0.99, 0.5], [0.95] * 18])
def test_cascade_is_nested_momentum(x64, decays):
    assert_same(theory.cascade(decays), theory.state_space(nj.scale_by_nested_momentum(decays)))


def test_cascade_by_hand(x64):
    a, b = 0.9, 0.6
    system = theory.cascade([a, b])
    expected = StateSpace(
        [[a, (1 - a) * b], [0, b]], [(1 - a) * (1 - b), 1 - b], [a, (1 - a) * b], (1 - a) * (1 - b)
    )
    assert_same(system, expected)


def test_depth_and_decays_are_vmappable(x64):
    def at(levels, decay):
        return theory.cascade(nj.nested_decays(levels, decay=decay, max_levels=6))

    levels, decays = jnp.arange(1, 7), jnp.array([0.5, 0.95])
    systems = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))(levels, decays)
    inputs = np.random.default_rng(2).normal(size=50)
    for i, m in enumerate(levels.tolist()):
        for j, decay in enumerate(decays.tolist()):
            alone = stepped(theory.cascade([decay] * (m - 1)), inputs)
            together = stepped(jax.tree.map(lambda x, i=i, j=j: x[i, j], systems), inputs)
            np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "make",
    [
        nj.scale_by_accumulated_momentum,
        lambda decay: nj.nesterov(0.1, decay=decay),
        lambda decay: nj.nested_momentum(0.1, levels=3, decay=decay, max_levels=5),
        lambda decay: optax.inject_hyperparams(nj.momentum)(0.1, decay=decay),
        lambda decay: nj.with_metrics(nj.momentum(decay, decay=0.9)),
    ],
)
def test_traced_hyperparameters(x64, make):
    inputs = np.random.default_rng(2).normal(size=50)
    decays = jnp.array([0.5, 0.9])
    systems = jax.jit(jax.vmap(lambda decay: theory.state_space(make(decay))))(decays)
    for i, decay in enumerate(decays.tolist()):
        expected = stepped(theory.state_space(make(decay)), inputs)
        actual = stepped(jax.tree.map(lambda x, i=i: x[i], systems), inputs)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE)
    # Where nothing can be dropped, what does not matter is 0: I - A can be solved.
    assert np.isfinite(jax.jit(jax.vmap(theory.dc_gain))(systems)).all()


@pytest.mark.parametrize("name", ["scale_by_adam", "momentum[cosine]", "optax.clip"])
def test_a_refused_transform_is_nan_where_nothing_can_be_raised(x64, name):
    system = jax.jit(lambda: theory.state_space(REFUSED[name][0]))()
    assert all(np.isnan(x).all() for x in system)
    assert np.isnan(system.feedthrough)


def test_derivative_by_a_hyperparameter(x64):
    def first_weights(decay):
        return theory.impulse_response(theory.state_space(optax.ema(decay, debias=False)), 3)

    actual = jax.jit(jax.jacfwd(first_weights))(0.9)
    # (1 - a) a^j
    np.testing.assert_allclose(actual, [-1.0, 1 - 2 * 0.9, 2 * 0.9 - 3 * 0.81], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_the_default_one(dtype):
    with jax.enable_x64(dtype == np.float64):
        for system in (
            theory.state_space(nj.nesterov(0.1)),
            theory.cascade(np.array([0.5, 0.9])),
            theory.cascade(jnp.array([0.5], jnp.bfloat16)),
        ):
            assert {x.dtype for x in system} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_narrow_accumulator_rounds_and_is_not_linear(x64, dtype):
    with pytest.raises(ValueError, match="`tx` must be linear"):
        theory.state_space(optax.trace(0.9, accumulator_dtype=dtype))


def test_float32_is_as_good_as_its_digits():
    actual = theory.impulse_response(
        theory.state_space(nj.scale_by_nested_momentum([0.95] * 3)), 99
    )
    j = np.arange(99)
    expected = (j + 1) * (j + 2) / 2 * 0.95**j * 0.05**3
    np.testing.assert_allclose(actual, expected, rtol=99 * np.finfo(np.float32).eps)


def test_as_state_space_takes_both(x64):
    system = theory.cascade([0.9])
    assert_same(theory.as_state_space(system), system)
    lists = StateSpace([[0.9]], [1 - 0.9], [0.9], 1 - 0.9)
    assert_same(theory.as_state_space(lists), system)
    assert_same(theory.as_state_space(optax.ema(0.9, debias=False)), system)


def test_rejects_what_is_neither():
    with pytest.raises(TypeError, match=r"`system` must have `init` and `update`, got 0\.5\."):
        theory.as_state_space(0.5)


@pytest.mark.parametrize(
    "arrays",
    [
        (np.zeros((2, 2)), np.zeros(3), np.zeros(2), 1.0),
        (np.zeros((2, 3)), np.zeros(2), np.zeros(2), 1.0),
        (np.zeros((2, 2)), np.zeros(2), np.zeros(2), np.zeros(1)),
        (0.0, 0.0, 0.0, 1.0),
        (np.zeros((5, 1, 1)), np.zeros((5, 1)), np.zeros((5, 1)), np.zeros(5)),
    ],
)
def test_rejects_shapes_that_do_not_fit(arrays):
    message = "`system` must have a transition of shape (n, n), drive and output of shape (n,)"
    with pytest.raises(ValueError, match=re.escape(message)):
        theory.as_state_space(StateSpace(*arrays))


def test_rejects_what_has_no_derivative(x64):
    tx = optax.stateless(lambda updates, params: jax.lax.stop_gradient(updates))
    with pytest.raises(
        ValueError, match="`tx` must be differentiable, got one whose linearisation"
    ):
        theory.state_space(tx)


@pytest.mark.parametrize("decay", [-0.1, 1.0, np.nan])
def test_cascade_rejects_a_decay_outside_the_unit_interval(decay):
    with pytest.raises(ValueError, match=rf"`decays\[1\]` must lie in \[0, 1\), got {decay}"):
        theory.cascade([0.5, decay])


def test_cascade_rejects_what_is_no_vector():
    with pytest.raises(ValueError, match=r"`decays` must be a vector, got an array of shape"):
        theory.cascade(np.zeros((2, 2)))
    with pytest.raises(TypeError, match=r"`decays` must be a sequence of numbers or a vector"):
        theory.cascade(0.9)


def test_a_transform_is_measured_once_a_precision():
    calls = []

    def update(updates, state, params=None):
        calls.append(updates.dtype)
        return 0.5 * updates, state

    tx = optax.GradientTransformation(lambda params: (), update)
    first = theory.state_space(tx)
    measured = len(calls)
    assert measured
    chex.assert_trees_all_equal(theory.state_space(tx), first)
    assert float(theory.dc_gain(tx)) == 0.5
    assert len(calls) == measured
    with jax.enable_x64(True):
        assert theory.state_space(tx).feedthrough.dtype == jnp.float64
    assert len(calls) > measured


def test_what_is_remembered_changes_nothing_under_jit():
    linear, refused = optax.scale(2.0), optax.clip(1.0)
    assert theory.state_space(linear).feedthrough == 2
    with pytest.raises(ValueError, match="`tx` must be linear"):
        theory.state_space(refused)
    later = jax.jit(lambda: [theory.state_space(tx).feedthrough for tx in (linear, refused)])()
    np.testing.assert_array_equal(later, [2.0, np.nan])


def test_what_is_traced_is_not_remembered():
    def gain(factor):
        return theory.dc_gain(optax.scale(factor))

    before = dict(_remembered._REMEMBERED)
    with jax.checking_leaks():
        gains = jax.jit(jax.vmap(gain))(jnp.array([1.0, 3.0]))
    np.testing.assert_array_equal(gains, [1.0, 3.0])
    assert _remembered._REMEMBERED.keys() == before.keys()


def test_only_the_latest_transforms_are_held(monkeypatch):
    monkeypatch.setattr(_remembered, "MOST_REMEMBERED", 1)
    monkeypatch.setattr(_remembered, "_REMEMBERED", {})
    transforms = [optax.scale(1.0), optax.scale(2.0)]
    for tx in transforms:
        theory.state_space(tx)
    assert [held for held, _ in _remembered._REMEMBERED.values()] == transforms[1:]
