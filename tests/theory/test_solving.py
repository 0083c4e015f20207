"""Linear equations: against NumPy, their derivatives, and without what can deadlock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax import theory
from nested_jax.theory._solving import solve

SIZES = [1, 2, 5, 19]
COUNT = 20
# Backward error of elimination with partial pivoting: a few eps a row. Seen: 4e-15.
RESIDUAL = 5e-14


def systems(size, dtype):
    """Return matrices of full rank, half of them with a first pivot of 0, and right sides."""
    rng = np.random.default_rng(size)
    matrix = rng.normal(size=(COUNT, size, size)) + 0j
    right = rng.normal(size=(COUNT, size, 2)) + 0j
    if dtype is complex:
        matrix += 1j * rng.normal(size=matrix.shape)
        right += 1j * rng.normal(size=right.shape)
    if size > 1:
        matrix[::2, 0, 0] = 0
    return (matrix, right) if dtype is complex else (matrix.real, right.real)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [float, complex])
def test_solves_each_system_of_a_batch(x64, size, dtype):
    matrix, right = systems(size, dtype)
    found = np.asarray(jax.jit(jax.vmap(solve))(matrix, right))
    assert found.dtype == right.dtype
    scale = np.abs(matrix).sum(-1).max() * np.abs(found).max(axis=(1, 2), keepdims=True)
    assert np.max(np.abs(matrix @ found - right) / scale) < RESIDUAL
    alone = solve(jnp.asarray(matrix[0]), jnp.asarray(right[0]))
    np.testing.assert_allclose(alone, np.linalg.solve(matrix[0], right[0]), rtol=1e-10)


def test_small_pivots_are_not_divided_by(x64):
    matrix = jnp.array([[1e-20, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(solve(matrix, jnp.array([[1.0], [2.0]])), 1.0, rtol=1e-15)


def test_a_singular_matrix_has_no_finite_solution():
    assert not jnp.isfinite(solve(jnp.ones((2, 2)), jnp.ones((2, 1)))).any()


def test_no_equations():
    assert solve(jnp.zeros((0, 0)), jnp.zeros((0, 1))).shape == (0, 1)


def test_derivatives_are_those_of_the_inverse(x64):
    matrix, right = (values[0] for values in systems(5, float))
    by_matrix, by_right = jax.jit(jax.grad(lambda a, b: solve(a, b).sum(), (0, 1)))(matrix, right)
    adjoint = np.linalg.solve(matrix.T, np.ones_like(right))
    np.testing.assert_allclose(by_right, adjoint, rtol=1e-12)
    np.testing.assert_allclose(
        by_matrix, -adjoint @ np.linalg.solve(matrix, right).T, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    "respond",
    [theory.dc_gain, theory.mean_delay, lambda system: theory.frequency_response(system, 1.0)],
    ids=["dc_gain", "mean_delay", "frequency_response"],
)
def test_responses_call_no_lapack(x64, respond):
    """Batched calls of LAPACK on CPU can wait for each other for ever (jaxlib 0.10)."""

    def run(decay):
        return respond(theory.cascade(nj.nested_decays(3, decay=decay, max_levels=4)))

    program = jax.jit(jax.vmap(jax.value_and_grad(lambda a: jnp.abs(run(a)))))
    text = program.lower(jnp.linspace(0.1, 0.9, 4)).as_text()
    assert "while" in text
    assert "custom_call" not in text
