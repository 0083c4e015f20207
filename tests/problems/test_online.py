"""Tests of `online_convex`: its turns, its chance, and the regret against the best in hindsight."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import nested_jax as nj
from nested_jax.problems import (
    OnlineBatch,
    OnlineWorld,
    online_convex,
)

RTOL = 1e-12  # In float64 a step rounds a few times.
SEARCH_ATOL = 1e-7  # Of a minimum, a search finds half the digits.
STANDARD_ERRORS = 5  # One sample in two million is further off.
KEY = jax.random.key(0)
SLOPES = np.array([[4.0, 0.5], [-1.0, -2.0], [-1.0, 3.0]])
CURVATURES = np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
STILL = nj.momentum(0.0)


@pytest.mark.parametrize("curvatures", [None, CURVATURES])
def test_rows_come_in_turn_with_their_gradients(x64, curvatures):
    problem = online_convex(SLOPES, curvatures)
    params, world = problem.init(KEY)
    np.testing.assert_array_equal(params, [0.0, 0.0])
    theta = jnp.array([0.3, -0.7])
    for t in range(7):
        assert problem.draw(KEY) is None
        batch, world = problem.observe(None, world)
        h = np.zeros(2) if curvatures is None else curvatures[t % 3]
        gradient = jax.grad(problem.loss)(theta, batch)
        np.testing.assert_allclose(gradient, SLOPES[t % 3] + h * theta, rtol=RTOL)
        value = np.sum(SLOPES[t % 3] * theta + h * theta**2 / 2)
        np.testing.assert_allclose(problem.loss(theta, batch), value, rtol=RTOL)
    assert isinstance(batch, OnlineBatch)
    assert isinstance(world, OnlineWorld)
    assert world.row == 1
    np.testing.assert_allclose(world.slope, 2 * SLOPES.sum(0) + SLOPES[0], rtol=RTOL)
    assert (world.curvature is None) == (curvatures is None)
    if curvatures is not None:
        np.testing.assert_allclose(world.curvature, 2 * CURVATURES.sum(0) + CURVATURES[0])


def test_rows_come_with_their_probabilities(x64):
    p, steps = np.array([0.2, 0.0, 0.8]), 20_000
    problem = online_convex(np.eye(3), probabilities=p)
    trace = nj.rollout(STILL, problem, KEY, steps)
    error = STANDARD_ERRORS * np.sqrt(p * (1 - p) / steps)
    assert np.all(abs(trace.world.slope / steps - p) <= error)


def test_draws_are_independent_from_step_to_step(x64):
    problem = online_convex([[1.0], [-1.0]], probabilities=[0.5, 0.5])
    rows = jax.vmap(problem.draw)(jax.random.split(KEY, 20_000))
    assert rows.dtype == jnp.int32
    signs = 1.0 - 2.0 * np.asarray(rows)
    for lag in (1, 2, 3):
        assert abs(np.mean(signs[lag:] * signs[:-lag])) < STANDARD_ERRORS / math.sqrt(20_000)


@pytest.mark.parametrize("radius", [0.1, 1.0, 30.0])
def test_comparator_is_the_minimum_that_a_search_finds(x64, radius):
    rng = np.random.default_rng(0)
    slope, curvature = rng.normal(size=40), rng.exponential(size=40)
    best = OnlineWorld(jnp.int32(0), slope, curvature).comparator(radius)
    for i in range(40):
        found = minimize_scalar(
            lambda x, i=i: slope[i] * x + curvature[i] * x**2 / 2,
            bounds=(-radius, radius),
            method="bounded",
            options={"xatol": 1e-12},
        )
        np.testing.assert_allclose(best[i], found.x, atol=SEARCH_ATOL * radius)


def test_comparator_of_linear_losses_is_a_corner(x64):
    slope = jnp.array([2.0, -1e-9, 0.0])
    expected = [-3.0, 3.0, 0.0]
    for curvature in (None, jnp.zeros(3)):
        world = OnlineWorld(jnp.int32(0), slope, curvature)
        np.testing.assert_array_equal(world.comparator(3.0), expected)


@pytest.mark.parametrize("curvature", [None, np.float32([0.0, 2.0])])
def test_comparator_is_in_the_dtype_of_the_sums(x64, curvature):
    world = OnlineWorld(jnp.int32(0), jnp.float32([1, 2]), curvature)
    assert world.comparator(np.float64(1)).dtype == jnp.float32


def test_regret_of_gradient_descent_down_a_slope_is_a_series(x64):
    # theta_t = -rate * t, so the loss is -rate * T (T - 1) / 2; the best is -radius all along.
    steps, rate = 50, 0.01
    trace = nj.rollout(nj.momentum(rate, decay=0.0), online_convex([[1.0]]), KEY, steps)
    regret = trace.world.regret(steps * trace.mean_loss, 2.0)
    np.testing.assert_allclose(regret, 2 * steps - rate * steps * (steps - 1) / 2, rtol=RTOL)


@pytest.mark.parametrize("curvatures", [None, CURVATURES])
def test_regret_is_zero_of_the_best_and_of_no_other(x64, curvatures):
    problem = online_convex(SLOPES, curvatures, probabilities=[0.5, 0.25, 0.25])
    world = nj.rollout(STILL, problem, KEY, 30).world
    best = world.comparator()

    def regret(start):
        initial = (start, problem.init(KEY)[1])
        trace = nj.rollout(STILL, problem, KEY, 30, initial=initial)
        return trace.world.regret(30 * trace.mean_loss)

    # The key that draws is the same with and without `initial`.
    np.testing.assert_allclose(regret(best), 0, atol=30 * 4 * RTOL)
    for corner in ([1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0], [0.2, 0.2]):
        if not np.allclose(corner, best):
            assert regret(jnp.array(corner)) > 0


def test_every_number_is_vmappable_in_one_compilation(x64):
    traces = []

    def solve(c, h, p, radius):
        traces.append(None)
        problem = online_convex([[c], [-1.0]], h * jnp.ones((2, 1)), probabilities=[p, 1 - p])
        trace = nj.rollout(nj.momentum(0.1), problem, KEY, 10)
        return trace.world.regret(10 * trace.mean_loss, radius)

    program = jax.jit(jax.vmap(solve))
    grid = [(2.0, 0.1, 0.5, 1.0), (5.0, 0.0, 0.1, 3.0)]
    together = program(*map(jnp.array, zip(*grid, strict=True)))
    program(*map(jnp.array, zip(*reversed(grid), strict=True)))
    assert len(traces) == 1
    for actual, point in zip(together, grid, strict=True):
        np.testing.assert_allclose(actual, solve(*point), rtol=RTOL)


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32", "float64"])
def test_dtype_is_that_of_everything_but_narrow_sums(x64, dtype):
    problem = online_convex(SLOPES, CURVATURES, dtype=dtype)
    params, world = problem.init(KEY)
    batch, after = problem.observe(None, world)
    dtype = jnp.dtype(dtype or "float64")
    arrays = params, *batch, problem.loss(params, batch)
    assert {x.dtype for x in arrays} == {dtype}
    wide = jnp.dtype("float32") if dtype == jnp.bfloat16 else dtype
    assert {x.dtype for x in (*world[1:], *after[1:])} == {wide}
    # A row is a number of int32 from the first to the last: it is carried through a scan.
    assert jax.tree.map(jnp.shape, world) == jax.tree.map(jnp.shape, after)
    assert world.row.dtype == after.row.dtype == jnp.int32


@pytest.mark.parametrize(
    ("slopes", "options", "error", "message"),
    [
        ([1.0], {}, ValueError, "`slopes` must be a table of shape (rows, dim), got an array of"),
        (np.zeros((0, 2)), {}, ValueError, "`slopes` must be a table of shape (rows, dim), got"),
        ([[1.0], [1.0, 2.0]], {}, ValueError, "`slopes` must have rows of one length, got [[1.0]"),
        ([["1"]], {}, TypeError, "`slopes` must be an array of numbers, got [['1']]."),
        (None, {}, TypeError, "`slopes` must be an array of numbers, got None."),
        ([[math.nan]], {}, ValueError, "`slopes` must be finite, got nan."),
        ([[-math.inf]], {}, ValueError, "`slopes` must be finite, got -inf."),
        (
            [[1.0]],
            {"curvatures": [[1.0, 2.0]]},
            ValueError,
            "`curvatures` must have the shape (1, 1), got an array of shape (1, 2).",
        ),
        (
            [[1.0]],
            {"curvatures": [[-1.0]]},
            ValueError,
            "`curvatures` must be non-negative and finite, got -1.0.",
        ),
        (
            [[1.0]],
            {"probabilities": [0.5, 0.5]},
            ValueError,
            "`probabilities` must have the shape (1,), got (2,).",
        ),
        (
            [[1.0], [2.0]],
            {"probabilities": [1.5, -0.5]},
            ValueError,
            "`probabilities[1]` must be non-negative and finite, got -0.5.",
        ),
        (
            [[1.0], [2.0]],
            {"probabilities": [0.5, 0.25]},
            ValueError,
            "`probabilities` must sum to 1, got 0.75.",
        ),
        ([[1.0]], {"dtype": "int32"}, TypeError, "`dtype` must be floating, got int32."),
    ],
)
def test_rejects(slopes, options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.online_convex(slopes, **options)


def test_traced_tables_out_of_range_are_nan():
    """Also where the sums hide a wrong number: the row may not come, and h > 0 is false for NaN."""

    @jax.jit
    @jax.vmap
    def run(slopes, curvatures, probabilities):
        problem = nj.online_convex(slopes, curvatures, probabilities=probabilities)
        trace = nj.rollout(nj.momentum(0.1), problem, jax.random.key(0), 1)
        return trace.params, trace.world.comparator(), trace.world.regret(trace.mean_loss)

    b, h, p = jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.array([0.25, 0.75])
    rows = [(b, h, p), (b.at[0].set(jnp.inf), h, p), (b.at[1].set(jnp.nan), h, p)]
    rows += [(b, h.at[0].set(-1.0), p), (b, h.at[1].set(jnp.inf), p)]
    rows += [(b, h, jnp.array([1.5, -0.5])), (b, h, jnp.array([0.25, 0.5])), (b, h, p * jnp.nan)]
    rows += [(b, h, jnp.array([0.0, 1.0]))]  # A row that never comes is fine.
    for values in run(*map(jnp.stack, zip(*rows, strict=True))):
        assert np.isfinite(values[0]).all()
        assert np.isfinite(values[-1]).all()
        assert np.isnan(values[1:-1]).all()


@pytest.mark.parametrize("radius", [0.0, -1.0, math.inf])
def test_rejects_a_radius_that_is_none(radius):
    world = OnlineWorld(jnp.int32(0), jnp.ones(1), None)
    with pytest.raises(ValueError, match=r"^`radius` must be positive and finite, got "):
        world.comparator(radius)
    with pytest.raises(ValueError, match=r"^`radius` must be positive and finite, got "):
        world.regret(0.0, radius)
