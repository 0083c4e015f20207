"""Tests of `quadratic`: its gradient, its noise, its known trajectories."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj

RTOL = 1e-12  # In float64 a step rounds a few times.
STANDARD_ERRORS = 5  # One sample in two million is further off.
KEY = jax.random.key(0)
EIGENVALUES = [-0.5, 0.0, 1.0, 30.0]


@pytest.mark.parametrize("noise_std", [None, 0.0, 0.7])
def test_gradient_is_curvature_times_parameter_plus_noise(x64, noise_std):
    problem = nj.quadratic(EIGENVALUES, noise_std=noise_std)
    params, world = problem.init(KEY)
    draws = problem.draw(jax.random.key(1))
    batch, after = problem.observe(draws, world)
    noise = 0.0 if noise_std is None else noise_std * draws
    gradient = jax.grad(problem.loss)(params, batch)
    np.testing.assert_allclose(gradient, np.array(EIGENVALUES) * params + noise, rtol=RTOL)
    expected = np.sum(np.array(EIGENVALUES) * params**2) / 2 + np.sum(noise * params)
    np.testing.assert_allclose(problem.loss(params, batch), expected, rtol=RTOL)
    np.testing.assert_array_equal(jax.hessian(problem.loss)(params, batch), np.diag(EIGENVALUES))
    assert world is after is None
    assert (draws is None) == (batch is None) == (noise_std is None)


def test_float64_is_float32_where_jax_does_not_allow_it():
    params, _ = nj.quadratic([1.0], dtype=np.float64).init(KEY)
    assert params.dtype == jnp.float32


def test_gradient_descent_takes_the_coordinates_apart(x64):
    problem = nj.quadratic(EIGENVALUES)
    trace = nj.rollout(nj.momentum(0.05, decay=0.0), problem, KEY, 40)
    start, _ = problem.init(jax.random.split(KEY)[0])
    expected = (1 - 0.05 * np.array(EIGENVALUES)) ** 40 * start
    np.testing.assert_allclose(trace.params, expected, rtol=RTOL)


def test_params_and_draws_are_standard_normals():
    problem = nj.quadratic([1.0, 2.0], noise_std=7.0)
    keys = jax.random.split(KEY, 20_000)
    params, draws = jax.jit(lambda k: (jax.vmap(problem.init)(k)[0], jax.vmap(problem.draw)(k)))(
        keys
    )
    for samples in (params, draws):
        assert abs(float(samples.mean())) < STANDARD_ERRORS / math.sqrt(samples.size)
        assert abs(float((samples**2).mean()) - 1) < STANDARD_ERRORS * math.sqrt(2 / samples.size)
        assert abs(float(samples.prod(1).mean())) < STANDARD_ERRORS / math.sqrt(len(samples))


def test_noise_settles_at_the_variance_of_an_autoregression():
    # theta' = (1 - c) theta - eta sigma xi has the variance (eta sigma)^2 / (1 - (1 - c)^2).
    rate, noise_std, h = 0.1, 0.5, np.array([1.0, 4.0])
    problem = nj.quadratic(h, noise_std=noise_std)

    def end(key):
        return nj.rollout(nj.momentum(rate, decay=0.0), problem, key, 150).params

    ends = jax.jit(jax.vmap(end))(jax.random.split(KEY, 4000))
    expected = (rate * noise_std) ** 2 / (1 - (1 - rate * h) ** 2)
    error = STANDARD_ERRORS * math.sqrt(2 / len(ends))
    np.testing.assert_allclose(np.mean(np.asarray(ends) ** 2, 0), expected, rtol=error)


def test_every_number_is_vmappable_in_one_compilation(x64):
    traces = []

    def solve(eigenvalues, noise_std):
        traces.append(None)
        return nj.rollout(
            nj.momentum(0.1), nj.quadratic(eigenvalues, noise_std=noise_std), KEY, 10
        ).params

    program = jax.jit(jax.vmap(solve))
    grid = jnp.array([[1.0, 2.0], [0.1, -3.0]]), jnp.array([0.0, 0.3])
    together = program(*grid)
    program(*(values[::-1] for values in grid))
    assert len(traces) == 1
    for actual, eigenvalues, noise_std in zip(together, *grid, strict=True):
        problem = nj.quadratic(list(eigenvalues), noise_std=float(noise_std))
        alone = nj.rollout(nj.momentum(0.1), problem, KEY, 10).params
        np.testing.assert_allclose(actual, alone, rtol=RTOL)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32", "float64"])
def test_dtype_is_that_of_everything(x64, dtype):
    problem = nj.quadratic([1.0, np.float32(2.0)], noise_std=0.1, dtype=dtype)
    params, _ = problem.init(KEY)
    draws = problem.draw(KEY)
    batch, _ = problem.observe(draws, None)
    arrays = params, draws, batch, problem.loss(params, batch)
    assert {x.dtype for x in arrays} == {jnp.dtype(dtype or "float64")}


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([],), {}, ValueError, "`eigenvalues` must hold at least one number, got none."),
        ((2.0,), {}, TypeError, "`eigenvalues` must be a sequence of numbers or a vector, got 2."),
        (
            (np.eye(2),),
            {},
            ValueError,
            "`eigenvalues` must be a vector, got an array of shape (2, 2).",
        ),
        (([1.0, math.nan],), {}, ValueError, "`eigenvalues[1]` must be finite, got nan."),
        (([math.inf],), {}, ValueError, "`eigenvalues[0]` must be finite, got inf."),
        ((["1"],), {}, TypeError, "`eigenvalues[0]` must be finite, got '1'."),
        (
            ([1],),
            {"noise_std": -1.0},
            ValueError,
            "`noise_std` must be non-negative and finite, got -1.0.",
        ),
        (([1],), {"dtype": "int32"}, TypeError, "`dtype` must be floating, got int32."),
    ],
)
def test_rejects(arguments, options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.quadratic(*arguments, **options)
