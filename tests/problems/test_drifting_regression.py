"""Tests of `drifting_regression`: its chance, its drift, its loss."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.problems import (
    DriftingRegressionDraws,
    DriftingRegressionWorld,
    RegressionBatch,
)
from tests import oracles

RTOL = 1e-12  # In float64 a step rounds a few times.
FLOAT32_RTOL = 8 * np.finfo(np.float32).eps
STANDARD_ERRORS = 5  # One sample in two million is further off.
KEY = jax.random.key(0)


def observed(problem, world, draws):
    """Return the batches of `draws` (time first), stacked likewise, and the last world."""

    def step(world, draws):
        batch, world = problem.observe(draws, world)
        return world, batch

    world, batches = jax.lax.scan(step, world, draws)
    return batches, world


def assert_standard_normal(samples):
    """Raise unless the columns of `samples` (n, k) look independent and standard normal."""
    samples = np.asarray(samples, np.float64)
    n = len(samples)
    # Of a standard normal's mean, covariance, square, and fourth power, whose variance is 96.
    assert np.max(np.abs(samples.mean(0))) < STANDARD_ERRORS / math.sqrt(n)
    products = samples.T @ samples / n
    off_diagonal = products - np.diag(np.diag(products))
    assert np.max(np.abs(off_diagonal)) < STANDARD_ERRORS / math.sqrt(n)
    assert np.max(np.abs(np.diag(products) - 1)) < STANDARD_ERRORS * math.sqrt(2 / n)
    assert np.max(np.abs(np.mean(samples**4, 0) - 3)) < STANDARD_ERRORS * math.sqrt(96 / n)


def test_draws_are_independent_standard_normals():
    problem = nj.drifting_regression(dim=3, noise_std=7.0)
    draws = jax.jit(jax.vmap(problem.draw))(jax.random.split(KEY, 20_000))
    assert isinstance(draws, DriftingRegressionDraws)
    assert_standard_normal(np.column_stack([draws.drift, draws.inputs, draws.noise]))


def test_everything_starts_as_independent_normals():
    problem = nj.drifting_regression(dim=2, data_levels=3)
    params, world = jax.jit(jax.vmap(problem.init))(jax.random.split(KEY, 20_000))
    assert isinstance(world, DriftingRegressionWorld)
    assert_standard_normal(np.column_stack([params / 2, *world.weights]))


@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_weights_answer_an_impulse_as_a_row_of_averages(x64, levels, decay):
    problem = nj.drifting_regression(1, data_levels=levels, decay=decay, noise_std=0.0)
    world = DriftingRegressionWorld(weights=(jnp.zeros(1),) * levels)
    impulse = jnp.eye(20)[0]
    draws = DriftingRegressionDraws(impulse[:, None], jnp.ones((20, 1)), jnp.ones(20))
    batches, _ = observed(problem, world, draws)
    ages = np.arange(20)
    expected = [math.comb(j + levels - 1, j) * (1 - decay) ** levels for j in ages]
    np.testing.assert_allclose(batches.target, expected * decay**ages, rtol=RTOL)


def test_weights_settle_at_the_sum_of_the_squared_impulse_response():
    decay, steps, seeds, dim = 0.8, 150, 20, 1000

    def end(levels, key):
        problem = nj.drifting_regression(dim, data_levels=levels, decay=decay, max_levels=3)
        key_init, key_draw = jax.random.split(key)
        _, world = problem.init(key_init)

        def step(world, t):
            return problem.observe(problem.draw(jax.random.fold_in(key_draw, t)), world)[::-1]

        world, _ = jax.lax.scan(step, world, jnp.arange(steps))
        return world.weights[0]

    of_seeds = jax.vmap(end, (None, 0))
    ends = jax.jit(jax.vmap(of_seeds, (0, None)))(jnp.arange(1, 4), jax.random.split(KEY, seeds))
    ages = np.arange(1000)
    for levels, weights in enumerate(np.asarray(ends, np.float64), start=1):
        choose = np.array([math.comb(int(j) + levels - 1, int(j)) for j in ages], float)
        expected = np.sum((choose * decay**ages * (1 - decay) ** levels) ** 2)
        if levels == 1:
            np.testing.assert_allclose(expected, (1 - decay) / (1 + decay), rtol=RTOL)
        relative_error = math.sqrt(2 / weights.size)
        actual = np.mean(weights**2) / expected
        assert abs(actual - 1) < STANDARD_ERRORS * relative_error


@pytest.mark.parametrize("levels", [1, 3])
def test_losses_without_learning_are_the_oracles(x64, levels):
    rng = np.random.default_rng(1)
    model, data = rng.normal(size=5), rng.normal(size=(levels, 4))
    drift, inputs, noise = rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), rng.normal(size=30)
    options = {"data_decay": 0.9, "noise_std": 0.5, "learning_rate": 0.0}
    expected, _ = oracles.drifting_regression(model, data, drift, inputs, noise, **options)
    problem = nj.drifting_regression(4, data_levels=levels, decay=0.9, noise_std=0.5, max_levels=3)
    padding = rng.normal(size=(3 - levels, 4))  # Of no account from the first step on.
    world = DriftingRegressionWorld(tuple(jnp.array([*data, *padding])))
    draws = DriftingRegressionDraws(jnp.array(drift), jnp.array(inputs), jnp.array(noise))
    batches, _ = observed(problem, world, draws)
    assert isinstance(batches, RegressionBatch)
    actual = jax.vmap(problem.loss, (None, 0))(2 * jnp.array(model), batches)
    np.testing.assert_allclose(actual, expected, rtol=RTOL)
    np.testing.assert_array_equal(batches.features[:, -1], 1.0)


def test_gradient_is_twice_the_error_times_the_features(x64):
    problem = nj.drifting_regression(dim=2)
    params = jnp.array([1.0, -2.0, 0.5])
    batch = RegressionBatch(jnp.array([3.0, 1.0, 1.0]), jnp.asarray(-0.5))
    error = 3.0 - 2.0 + 0.5 + 0.5
    assert problem.loss(params, batch) == error**2
    np.testing.assert_allclose(jax.grad(problem.loss)(params, batch), 2 * error * batch.features)


def trajectory(problem, key=KEY, steps=10):
    params, world = problem.init(key)
    draws = jax.vmap(problem.draw)(jax.random.split(key, steps))
    batches, world = observed(problem, world, draws)
    return params, batches, world.weights[0]


def test_padding_changes_nothing_of_what_a_key_gives():
    problems = (
        nj.drifting_regression(3, data_levels=2),
        nj.drifting_regression(3, data_levels=2, max_levels=5),
    )
    short, padded = jax.jit(lambda: [trajectory(problem) for problem in problems])()
    chex.assert_trees_all_close(padded, short, rtol=FLOAT32_RTOL)


def test_every_number_is_vmappable_in_one_compilation(x64):
    traces = []

    def solve(levels, decay, noise_std):
        traces.append(levels)
        return trajectory(
            nj.drifting_regression(
                2, data_levels=levels, decay=decay, noise_std=noise_std, max_levels=4
            )
        )

    program = jax.jit(jax.vmap(solve))
    grid = [(1, 0.0, 0.0), (3, 0.95, 0.1), (4, 0.5, 2.0)]
    program(*map(jnp.array, zip(*reversed(grid), strict=True)))
    together = program(*map(jnp.array, zip(*grid, strict=True)))
    assert len(traces) == 1
    for i, (levels, decay, noise_std) in enumerate(grid):
        problem = nj.drifting_regression(2, data_levels=levels, decay=decay, noise_std=noise_std)
        alone = jax.jit(lambda problem=problem: trajectory(problem))()
        actual = jax.tree.map(lambda x, i=i: x[i], together)
        chex.assert_trees_all_close(actual, alone, rtol=RTOL)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtype_is_that_of_everything_but_narrow_weights(x64, dtype):
    problem = nj.drifting_regression(3, data_levels=2, decay=0.999, dtype=dtype)

    @jax.jit
    def step(key):
        params, world = problem.init(key)
        draws = problem.draw(key)
        batch, after = problem.observe(draws, world)
        return params, world, draws, batch, after, problem.loss(params, batch)

    params, world, draws, batch, after, loss = step(KEY)
    assert {x.dtype for x in jax.tree.leaves((params, draws, batch, loss))} == {jnp.dtype(dtype)}
    wide = "float32" if dtype.endswith("16") else dtype
    assert {x.dtype for x in jax.tree.leaves((world, after))} == {jnp.dtype(wide)}
    # In bfloat16 the decay would be 1, and the weights would never forget.
    np.testing.assert_allclose(
        after.weights[1],
        0.999 * world.weights[1].astype(float) + 0.001 * draws.drift.astype(float),
        rtol=FLOAT32_RTOL,
    )


def test_targets_are_computed_in_their_dtype(x64):
    noise_std = jnp.asarray(0.1, jnp.float64)
    problem = nj.drifting_regression(1, decay=0.0, noise_std=noise_std, dtype="float32")
    x = np.random.default_rng(0).normal(size=(3, 99)).astype(np.float32)
    for drift, inputs, noise in x.T:
        draws = nj.problems.DriftingRegressionDraws(*map(jnp.asarray, ([drift], [inputs], noise)))
        world = nj.problems.DriftingRegressionWorld((jnp.zeros(1, jnp.float32),))
        batch, _ = problem.observe(draws, world)
        assert batch.target == inputs * drift + np.float32(0.1) * noise  # One rounding each.


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", [None, float, np.float64])
def test_dtype_follows_the_precision_that_jax_allows(x64, dtype):
    with jax.enable_x64(x64):
        params, _ = nj.drifting_regression(2, dtype=dtype).init(KEY)
        assert params.dtype == (jnp.float64 if x64 else jnp.float32)


def test_defaults_are_the_published_experiments():
    same = nj.drifting_regression(10, data_levels=1, decay=0.95, noise_std=0.1)
    problems = nj.drifting_regression(), same
    chex.assert_trees_all_equal(*jax.jit(lambda: [trajectory(p) for p in problems])())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ValueError, "`dim` must be an integer of at least 1, got 0."),
        ({"dim": 2.0}, TypeError, "`dim` must be an integer of at least 1, got 2.0."),
        ({"data_levels": 0}, ValueError, "`data_levels` must be an integer of at least 1, got 0."),
        ({"data_levels": 1.5}, TypeError, "`data_levels` must be an integer of at least 1, got 1."),
        ({"decay": 1.0}, ValueError, "`decay` must lie in [0, 1), got 1.0."),
        ({"noise_std": -0.1}, ValueError, "`noise_std` must be non-negative and finite, got -0.1."),
        ({"noise_std": "0"}, TypeError, "`noise_std` must be non-negative and finite, got '0'."),
        ({"dtype": "int32"}, TypeError, "`dtype` must be floating, got int32."),
        (
            {"data_levels": 3, "max_levels": 2},
            ValueError,
            "`data_levels` must be at most `max_levels` = 2, got 3.",
        ),
        ({"max_levels": 0}, ValueError, "`max_levels` must be an integer of at least 1, got 0."),
    ],
    ids=str,
)
def test_rejects(options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.drifting_regression(**options)


@pytest.mark.parametrize("convert", [np.int64, jnp.asarray])
def test_integers_of_any_kind_shape_the_problem_under_jit(convert):
    dim, levels = convert(3), convert(2)
    params, world = jax.jit(lambda: nj.drifting_regression(dim, data_levels=levels).init(KEY))()
    assert params.shape == (4,)
    assert [w.shape for w in world.weights] == [(3,), (3,)]


def test_what_shapes_the_state_is_not_traced():
    with pytest.raises(TypeError, match="`dim` must be a Python integer, known when tracing, got "):
        jax.jit(lambda dim: nj.drifting_regression(dim).init(KEY))(3)
    with pytest.raises(TypeError, match="`max_levels` must be given when `data_levels` is traced"):
        jax.jit(lambda levels: nj.drifting_regression(3, data_levels=levels).init(KEY))(3)
