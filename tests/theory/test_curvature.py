"""Tests of curvature: matrices of known spectrum, Krylov methods, runs, errors."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax import theory

RTOL = 1e-12  # In float64, of eigenvalues the size of the largest.
FLOAT32_RTOL = 1e-5  # Of the largest eigenvalue, of a spectrum of some tens of numbers.
KRYLOV_RTOL = 1e-9  # Of well-separated ends, where Lanczos' method has converged.


def symmetric(eigenvalues, seed=0):
    """Return a matrix of the given eigenvalues in a random basis."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T


def bowl(matrix):
    """Return the quadratic whose Hessian is `matrix`, everywhere."""
    matrix = jnp.asarray(matrix)
    return lambda p: 0.5 * p @ matrix @ p + jnp.sum(p)


@functools.cache
def curvature_of_bowls(iterations):
    """Return the curvature of `bowl` as a function of the matrix: one program for all of a size."""

    def found(matrix):
        return theory.curvature(bowl(matrix), jnp.ones(len(matrix)), iterations=iterations)

    return jax.jit(found)


def network(params):
    """Return a loss of a tree that is not quadratic."""
    hidden = jnp.tanh(params["in"] * jnp.linspace(-1, 1, 7)[:, None] + params["bias"])
    return jnp.mean((hidden @ params["out"] - jnp.linspace(0, 2, 7)) ** 2)


PARAMS = {"in": np.array([0.5, -1.0, 2.0]), "bias": np.array([0.1, 0.2, 0.3]), "out": np.ones(3)}


def flat_hessian(params):
    """Return the Hessian of `network` by central differences of its gradient, in float64."""
    vector, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.asarray, params))
    gradient = jax.jit(lambda v: jax.flatten_util.ravel_pytree(jax.grad(network)(unravel(v)))[0])
    step = 1e-5
    columns = [
        (gradient(vector + e) - gradient(vector - e)) / (2 * step)
        for e in step * np.eye(vector.size)
    ]
    return np.array(columns)


DIFFERENCES_ATOL = 1e-8  # Central differences of step 1e-5: rounding 1e-11, truncation 1e-10.


def test_product_is_the_hessian_times_the_vector(x64):
    vector = jax.tree.map(lambda p: np.cos(np.arange(p.size)), PARAMS)
    actual = theory.hessian_vector_product(network, PARAMS, vector)
    expected = flat_hessian(PARAMS) @ jax.flatten_util.ravel_pytree(vector)[0]
    flat = jax.flatten_util.ravel_pytree(actual)[0]
    np.testing.assert_allclose(flat, expected, atol=DIFFERENCES_ATOL)


def test_spectrum_of_a_network_is_that_of_its_hessian(x64):
    expected = np.linalg.eigvalsh(flat_hessian(PARAMS))
    actual = theory.hessian_eigenvalues(network, PARAMS, count=9)
    np.testing.assert_allclose(actual, expected[::-1], atol=DIFFERENCES_ATOL)
    found = theory.curvature(network, PARAMS)
    assert expected[0] < 0, "the example should not be convex"
    np.testing.assert_allclose(found.largest, expected[-1], atol=DIFFERENCES_ATOL)
    np.testing.assert_allclose(found.smallest, expected[0], atol=DIFFERENCES_ATOL)


@pytest.mark.parametrize("count", [1, 3])
def test_formed_and_lanczos_agree_on_the_top(x64, count):
    eigenvalues = np.append(np.linspace(0.1, 1, 57), [20.0, 30.0, 40.0])
    loss, params = bowl(symmetric(eigenvalues)), jnp.ones(60)
    formed = theory.hessian_eigenvalues(loss, params, count, iterations=60)
    np.testing.assert_allclose(formed, [40.0, 30.0, 20.0][:count], rtol=RTOL)
    lanczos = theory.hessian_eigenvalues(loss, params, count, iterations=20)
    np.testing.assert_allclose(lanczos, formed, rtol=KRYLOV_RTOL)


@jax.jit
def condition_of_bowls(matrix):
    return theory.condition_number(bowl(matrix), jnp.zeros(len(matrix)))


@pytest.mark.parametrize("condition", [10.0, 1e4, 1e8])
def test_condition_number_is_that_of_the_curvatures(x64, condition):
    matrix = symmetric(np.geomspace(1, condition, 12))
    # The smallest eigenvalue has the absolute error of the largest.
    actual = condition_of_bowls(matrix)
    np.testing.assert_allclose(actual, condition, rtol=condition * RTOL)


def test_condition_by_lanczos_is_a_lower_bound(x64):
    loss = bowl(symmetric(np.geomspace(1, 1e4, 100)))
    found = theory.curvature(loss, jnp.zeros(100), iterations=30)
    assert 1 < float(found.smallest) < float(found.largest) < 1e4 * (1 + RTOL)
    assert 100 < float(found.condition) < 1e4


@pytest.mark.parametrize("iterations", [6, 20])
@pytest.mark.parametrize(
    "eigenvalues",
    [
        [0.0] * 20,
        [1.0] * 20,
        [1.0] * 10 + [5.0] * 10,
        [0.0] * 19 + [7.0],
        [-3.0] + [0.0] * 18 + [3.0],
    ],
    ids=["zero", "identity", "two values", "rank one", "saddle"],
)
def test_an_exhausted_krylov_space_is_no_division_by_zero(x64, eigenvalues, iterations):
    # On the axes as well, where the remainder is 0 exactly and not to rounding.
    for matrix in (np.diag(eigenvalues), symmetric(eigenvalues)):
        found = curvature_of_bowls(iterations)(matrix)
        np.testing.assert_allclose(found.largest, max(eigenvalues), rtol=RTOL, atol=RTOL)
        np.testing.assert_allclose(found.smallest, min(eigenvalues), rtol=RTOL, atol=RTOL)
        assert bool(jnp.isinf(found.condition)) == (0.0 in eigenvalues)


def test_float32_stays_float32_without_x64():
    loss = bowl(symmetric(np.linspace(1, 50, 80)).astype(np.float32))
    found = theory.curvature(loss, jnp.ones(80), iterations=70)
    assert {x.dtype for x in found} == {jnp.dtype("float32")}
    np.testing.assert_allclose(found.largest, 50, rtol=FLOAT32_RTOL)
    with jax.enable_x64(True):  # Narrow parameters are widened, by both methods.
        for iterations in (2, 80):

            @jax.jit
            def both(params, iterations=iterations):
                matrix = lambda p: jnp.outer(p, p[:3])  # noqa: E731
                found = theory.curvature(loss, params, iterations=iterations)
                return found, theory.jacobian_singular_values(matrix, params, iterations=iterations)

            found, values = both(jnp.ones(80, "bfloat16"))
            assert {x.dtype for x in found} == {jnp.dtype("float64")}
            assert values.dtype == jnp.dtype("float64")


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_singular_values_are_the_matrix_s(x64, shape):
    matrix = np.random.default_rng(1).normal(size=shape)
    expected = np.linalg.svd(matrix, compute_uv=False)

    def function(p):
        return {"a": matrix @ p["x"], "b": jnp.zeros(0)}

    actual = theory.jacobian_singular_values(function, {"x": np.ones(shape[1])}, len(expected))
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_formed_and_bidiagonal_agree_on_the_top(x64, shape):
    rng = np.random.default_rng(2)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0][:, :40] for n in shape)
    values = np.append(np.linspace(0, 1, 38), [10.0, 20.0])
    matrix = left * values @ right.T
    options = {"function": lambda p: matrix @ jnp.sin(p), "params": np.zeros(shape[1])}
    formed = theory.jacobian_singular_values(**options, count=2)
    np.testing.assert_allclose(formed, [20.0, 10.0], rtol=RTOL)
    bidiagonal = theory.jacobian_singular_values(**options, count=2, iterations=15)
    np.testing.assert_allclose(bidiagonal, formed, rtol=KRYLOV_RTOL)


@pytest.mark.parametrize("values", [[0.0] * 12, [3.0] + [0.0] * 11, [2.0] * 12])
def test_a_jacobian_of_low_rank_is_no_division_by_zero(x64, values):
    matrix = np.eye(15, 12) * values
    found = theory.jacobian_singular_values(
        lambda p: matrix @ p, np.ones(12), count=2, iterations=6
    )
    np.testing.assert_allclose(found, values[:2], rtol=RTOL, atol=RTOL)


def test_inside_and_after_a_run_under_jit_and_vmap(x64):
    problem = nj.quadratic([1.0])._replace(
        init=lambda key: (jax.random.normal(key, (2,)), None),
        loss=lambda p, batch: jnp.sum(p**4) + p[0] * p[1],
    )

    def loss(params):
        return problem.loss(params, None)

    def run(rate):
        def record(params, opt_state):
            return params, theory.curvature(loss, params)

        key = jax.random.key(0)
        return nj.rollout(nj.momentum(rate), problem, key, 20, stride=4, record=record).records

    params, inside = jax.jit(jax.vmap(run))(jnp.array([1e-3, 1e-2]))
    after = jax.jit(jax.vmap(jax.vmap(lambda p: theory.curvature(loss, p))))(params)
    assert inside.largest.shape == (2, 5)
    for values, again in zip(inside, after, strict=True):
        np.testing.assert_allclose(values, again, rtol=RTOL)
    x, y = np.moveaxis(np.asarray(params), -1, 0)
    middle, spread = 6 * (x**2 + y**2), np.hypot(6 * (x**2 - y**2), 1)
    np.testing.assert_allclose(inside.largest, middle + spread, rtol=RTOL)
    np.testing.assert_allclose(inside.smallest, middle - spread, atol=1e-11)


@pytest.mark.parametrize("iterations", [3, 64])
def test_krylov_methods_are_vmapped_over_what_the_loss_holds(x64, iterations):
    eigenvalues = jnp.arange(1.0, 7.0)

    def top(scale):
        return theory.hessian_eigenvalues(
            lambda p: 0.5 * scale * jnp.sum(eigenvalues * p**2), jnp.ones(6), iterations=iterations
        )[0]

    together = jax.jit(jax.vmap(top))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(together[1], 2 * together[0], rtol=RTOL)


@pytest.mark.parametrize("iterations", [3, 64])
def test_a_diverged_run_has_no_curvature(iterations):
    lost = jax.tree.map(lambda p: p * np.nan, PARAMS)
    found = jax.jit(lambda p: theory.curvature(network, p, iterations=iterations))(lost)
    assert all(np.isnan(x) for x in found)


def test_another_key_is_another_start(x64):
    loss = bowl(symmetric(np.linspace(1, 2, 50)))
    keys = jax.random.key(0), jax.random.key(1)
    default, *found = (
        float(theory.hessian_eigenvalues(loss, jnp.zeros(50), iterations=4, key=key)[0])
        for key in (None, *keys)
    )
    assert found[0] == default != found[1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: theory.curvature(3, 1.0), TypeError, "`loss` must be callable, got 3."),
        (
            lambda: theory.hessian_vector_product(3, 1.0, 1.0),
            TypeError,
            "`loss` must be callable, got 3.",
        ),
        (
            lambda: theory.hessian_vector_product(jnp.sum, jnp.ones(2), jnp.ones(2, "bfloat16")),
            TypeError,
            "`vector` must have the dtypes of `params`, got bfloat16 for float32.",
        ),
        (
            lambda: theory.hessian_vector_product(jnp.sum, jnp.arange(2), jnp.arange(2)),
            TypeError,
            "`params` must be floating, got int32.",
        ),
        (
            lambda: theory.curvature(lambda p: p, jnp.ones(2)),
            ValueError,
            "`loss` must return a scalar, got ",
        ),
        (
            lambda: theory.curvature(lambda p: 0.0, {}),
            ValueError,
            "`params` must hold at least one number, got none.",
        ),
        (
            lambda: theory.hessian_eigenvalues(jnp.sum, jnp.ones(2), 3),
            ValueError,
            "`count` must be at most 2 here, got 3.",
        ),
        (
            lambda: theory.hessian_eigenvalues(jnp.sum, jnp.ones(9), 3, iterations=2),
            ValueError,
            "`count` must be at most 2 here, got 3.",
        ),
        (
            lambda: theory.hessian_eigenvalues(jnp.sum, jnp.ones(2), 0),
            ValueError,
            "`count` must be an integer of at least 1, got 0.",
        ),
        (
            lambda: theory.condition_number(jnp.sum, jnp.ones(2), iterations=0),
            ValueError,
            "`iterations` must be an integer of at least 1, got 0.",
        ),
        (
            lambda: theory.jacobian_singular_values(None, jnp.ones(2)),
            TypeError,
            "`function` must be callable, got None.",
        ),
        (
            lambda: theory.jacobian_singular_values(jnp.sum, jnp.ones(4), 2),
            ValueError,
            "`count` must be at most 1 here, got 2.",
        ),
    ],
)
def test_rejects(call, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        call()
