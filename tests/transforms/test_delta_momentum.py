"""Tests of `scale_by_delta_momentum`: its three readings, and what the printed form does."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms import ScaleByDeltaMomentumState
from tests import oracles
from tests.trajectories import FLOAT64_TOLERANCE, assert_agree, given_gradients, given_params, run

READINGS = ("matrix", "vector", "scalar")
# A number of order one after a few roundings of float32.
FLOAT32_RTOL = 16 * np.finfo(np.float32).eps


def printed(reading, decay=0.9):
    return nj.scale_by_delta_momentum(decay, reading=reading, normalize=False)


def after(tx, gradients):
    """Return the last update for a list or an array of gradients."""
    gradients = jnp.asarray(gradients)

    def step(state, g):
        return tx.update(g, state)[::-1]

    return np.asarray(jax.lax.scan(step, tx.init(gradients[0]), gradients)[1][-1])


@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
def test_agrees_with_the_oracle(x64, normalize):
    """All readings along given gradients, on a matrix, a vector and a scalar."""
    erasure = 1.3 if normalize else 0.02
    params = dict.fromkeys(READINGS, given_params())
    gradients = [dict.fromkeys(READINGS, g) for g in given_gradients()]
    directions = {
        reading: oracles.by_name(
            oracles.delta_momentum_directions, given_gradients(), 0.9, erasure, reading, normalize
        )
        for reading in READINGS
    }
    links = {
        reading: nj.scale_by_delta_momentum(
            0.9, erasure=erasure, reading=reading, normalize=normalize
        )
        for reading in READINGS
    }
    labels = {reading: reading for reading in READINGS}
    tx = optax.chain(optax.partition(links, labels), optax.scale(-0.1))
    actual = run(tx, params, gradients)
    for reading in READINGS:
        theta, expected = given_params(), []
        for u in directions[reading]:
            theta = {name: theta[name] - 0.1 * u[name] for name in theta}
            expected.append(theta)
        assert_agree([tree[reading] for tree in actual], expected)


@pytest.mark.parametrize("reading", READINGS)
def test_complex_gradients_and_wide_matrices(x64, reading):
    rng = np.random.default_rng(0)
    for shape in ((2, 3), (3, 2)):
        gradients = rng.normal(size=(5, *shape)) + 1j * rng.normal(size=(5, *shape))
        tx = nj.scale_by_delta_momentum(0.9, erasure=0.8, reading=reading)
        expected = oracles.delta_momentum_directions(gradients, 0.9, 0.8, reading, True)[-1]
        np.testing.assert_allclose(after(tx, gradients), expected, rtol=FLOAT64_TOLERANCE)


def test_further_axes_are_a_batch_of_matrices():
    gradients = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)
    tx = nj.scale_by_delta_momentum()
    alone = [after(tx, gradients[:, i]) for i in range(2)]
    np.testing.assert_allclose(after(tx, gradients), alone, rtol=FLOAT32_RTOL, atol=FLOAT32_RTOL)


@pytest.mark.parametrize("shape", [(2, 9), (9, 2), (3, 2, 9)])
def test_no_intermediate_is_larger_than_the_leaf(shape):
    """The square of the keys is taken over the shorter axis: 9 x 9 would be larger."""
    tx = nj.scale_by_delta_momentum()
    state = jax.eval_shape(tx.init, jnp.ones(shape))
    program = jax.make_jaxpr(tx.update)(jnp.ones(shape), state)
    sizes = [v.aval.size for eqn in program.eqns for v in eqn.outvars]
    assert max(sizes) == np.prod(shape)


@pytest.mark.parametrize("reading", READINGS)
def test_without_erasure_it_is_momentum(x64, reading):
    params, gradients = given_params(), given_gradients()
    tx = nj.scale_by_delta_momentum(0.9, erasure=0.0, reading=reading)
    momentum = run(nj.scale_by_accumulated_momentum(0.9), params, gradients)
    assert_agree(run(tx, params, gradients), momentum)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_normalized_keys_do_not_depend_on_the_scale(scale):
    """In float32, where the squares of both scales are out of range."""
    gradients = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    tx = nj.scale_by_delta_momentum()
    # The powers of ten are rounded, and the sums cancel once.
    np.testing.assert_allclose(
        after(tx, scale * gradients) / np.float32(scale), after(tx, gradients), rtol=1e-5
    )


def test_the_printed_form_changes_sign_beyond_alpha_and_grows_beyond_1_plus_alpha(x64):
    """The factor of the memory is alpha - |g|^2, as Behrouz et al. print it."""
    alpha, tx = 0.9, printed("scalar", 0.9)
    memory = jnp.array([1.0, -2.0, 0.5])
    squares = np.array([0.0, alpha - 0.01, alpha + 0.01, 1 + alpha - 0.01, 1 + alpha + 0.01, 9.0])

    def kept(square):
        g = jnp.sqrt(square) * jnp.array([0.6, 0.0, 0.8])
        return tx.update(g, ScaleByDeltaMomentumState(memory))[0] - g

    factors = jax.vmap(kept)(jnp.asarray(squares)) / memory
    np.testing.assert_allclose(factors, np.tile(alpha - squares, (3, 1)).T, rtol=1e-12)
    np.testing.assert_array_equal(factors[:, 0] < 0, squares > alpha)
    np.testing.assert_array_equal(np.abs(factors[:, 0]) > 1, squares > 1 + alpha)


@pytest.mark.parametrize("reading", READINGS)
def test_the_memory_of_the_printed_form_grows_beyond_1_plus_alpha(x64, reading):
    """Of a constant gradient g: bounded for |g|^2 = 1.8, growing by 1.1 a step for 2."""
    for square, factor in ((1.8, -0.9), (2.0, -1.1)):
        g = np.sqrt(square) * np.array([[0.6, 0.8]])
        actual = after(printed(reading), np.tile(g, (100, 1, 1)))
        expected = (1 - factor**100) / (1 - factor) * g
        np.testing.assert_allclose(actual, expected, rtol=1e-10)  # 100 roundings, amplified.


def test_rows_of_length_1_may_grow_and_matrices_of_norm_1_cannot(x64):
    """Four equal rows of length 1 have a largest eigenvalue of 4."""
    rows = np.tile(np.array([0.6, 0.8]), (50, 4, 1))
    assert np.abs(after(printed("matrix"), rows)).max() > 1e10
    rng = np.random.default_rng(0)
    scales = 10 ** rng.uniform(-2, 2, (50, 1, 1))
    noise = scales * rng.normal(size=(50, 4, 2))
    for gradients in (rows, noise):
        largest = np.linalg.norm(gradients, axis=(1, 2)).max()
        assert np.linalg.norm(after(nj.scale_by_delta_momentum(), gradients)) < largest / (1 - 0.9)


def test_a_sweep_over_two_axes_equals_single_runs():
    """JAX moves a batch axis into the output's sharding, which must have room for it."""

    def last(decay, seed):
        gradients = jax.random.normal(jax.random.key(seed), (2, 3, 4))
        tx = nj.scale_by_delta_momentum(decay)
        state = tx.update(gradients[0], tx.init(gradients[0]))[1]
        return {"update": tx.update(gradients[1], state)[0]}

    found = nj.sweep(last, nj.Grid(decay=[0.5, 0.9], seed=[0, 1]))["update"].values
    expected = [[last(decay, seed)["update"] for seed in (0, 1)] for decay in (0.5, 0.9)]
    np.testing.assert_allclose(found, expected, rtol=FLOAT32_RTOL, atol=FLOAT32_RTOL)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reading", READINGS)
def test_its_derivative_is_finite_at_a_zero_gradient(reading, normalize):
    tx = nj.scale_by_delta_momentum(reading=reading, normalize=normalize)
    state = ScaleByDeltaMomentumState(jnp.ones((2, 2)))
    slope = jax.grad(lambda g: jnp.sum(tx.update(g, state)[0]))(jnp.zeros((2, 2)))
    np.testing.assert_array_equal(slope, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 1.0}, ValueError, "`decay` must lie in [0, 1), got 1.0."),
        ({"erasure": -1.0}, ValueError, "`erasure` must be non-negative and finite, got -1.0."),
        ({"reading": "rows"}, ValueError, "`reading` must be one of 'matrix', 'vector', 'scalar'"),
        ({"normalize": 1}, TypeError, "`normalize` must be True or False, got 1."),
    ],
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.scale_by_delta_momentum(**arguments)
