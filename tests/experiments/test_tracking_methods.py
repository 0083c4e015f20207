"""Tests of the adaptive filters: closed forms and recurrences in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from experiments.tracking import methods
from nested_jax import theory

RTOL = 1e-9  # Of float64, over 80 steps.
STEPS, DIM = 80, 3


@pytest.fixture(scope="module", autouse=True)
def with_x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def data():
    """Return initial weights, features (the last is 1) and targets of a run."""
    rng = np.random.default_rng(0)
    features = np.append(rng.normal(size=(STEPS, DIM)), np.ones((STEPS, 1)), 1)
    return rng.normal(size=DIM + 1), features, rng.normal(size=STEPS)


def path_of(tx, data):
    """Return the parameters after each step, through `nj.rollout` on recorded batches."""
    weights, features, targets = data
    problem = nj.Problem(
        init=lambda key: (jnp.asarray(weights), None),
        draw=lambda key: None,
        observe=lambda draws, world: (nj.problems.RegressionBatch(*draws), world),
        loss=lambda params, batch: (params @ batch.features - batch.target) ** 2,
    )
    draws = jnp.asarray(features), jnp.asarray(targets)
    record = lambda params, state: params  # noqa: E731
    return nj.rollout(
        tx,
        problem,
        None,
        STEPS,
        initial=(weights, None),
        draws=draws,
        stride=1,
        record=record,
    ).records


def test_normalized_lms_is_its_recurrence(data):
    w, features, targets = data
    path = path_of(methods.normalized_lms(0.5), data)
    for after, f, y in zip(path, features, targets, strict=True):
        w = w + 0.5 * (y - w @ f) / (f @ f) * f
        np.testing.assert_allclose(after, w, rtol=0, atol=1e-6)  # The default of eps is 1e-8.
    # At rate 1 each step explains its own target.
    path = path_of(methods.normalized_lms(1.0, eps=0.0), data)
    np.testing.assert_allclose(np.sum(path * features, 1), targets, rtol=RTOL)


@pytest.mark.parametrize("forgetting", [1.0, 0.9])
def test_recursive_least_squares_solves_the_weighted_problem(data, forgetting):
    w, features, targets = data
    path = path_of(methods.recursive_least_squares(forgetting, initial=2.0), data)
    for t in (0, 5, STEPS - 1):
        ages = forgetting ** np.arange(t, -1, -1.0)
        prior = forgetting ** (t + 1.0) / 2.0
        gram = (features[: t + 1].T * ages) @ features[: t + 1] + prior * np.eye(DIM + 1)
        solved = np.linalg.solve(gram, (features[: t + 1].T * ages) @ targets[: t + 1] + prior * w)
        np.testing.assert_allclose(path[t], solved, rtol=RTOL)


def test_recursive_least_squares_stays_symmetric_in_float32():
    with jax.enable_x64(False):
        problem, tx = nj.drifting_regression(5), methods.recursive_least_squares(0.95)
        run = nj.rollout(tx, problem, jax.random.key(0), 20_000, warmup=19_000)
    P = np.asarray(run.opt_state.inverse)
    np.testing.assert_array_equal(P, P.T)
    assert np.linalg.eigvalsh(P)[0] > 0
    assert run.mean_loss < theory.predict_zero_loss(5)


def test_autostep_is_its_recurrence(data):
    w, features, targets = data
    path = path_of(methods.autostep(0.3, meta_rate=0.05, horizon=20.0), data)
    a, h, v = np.full(DIM + 1, 0.3), np.zeros(DIM + 1), np.zeros(DIM + 1)
    limited = 0
    for after, f, y in zip(path, features, targets, strict=True):
        error = y - w @ f
        m = error * f * h
        v = np.maximum(abs(m), v + a * f * f * (abs(m) - v) / 20)
        a = a * np.exp(0.05 * np.divide(m, v, out=np.zeros(DIM + 1), where=v > 0))
        limited += a @ f**2 > 1
        a = a / max(a @ f**2, 1)
        w = w + a * error * f
        h = h * (1 - a * f * f) + a * error * f
        np.testing.assert_allclose(after, w, rtol=RTOL)
    assert 0 < limited < STEPS
    # Without a meta-rate, as long as no step passes the target, it is SGD.
    still = path_of(methods.autostep(0.02, meta_rate=0.0), data)
    np.testing.assert_allclose(still, path_of(optax.sgd(0.01), data), rtol=RTOL)


def test_the_kalman_filter_is_the_conditional_mean(data):
    """Every weight is a sum of normals: condition their joint distribution on the targets."""
    levels, decay, noise_std, steps = 2, 0.9, 0.3, 12
    _, features, targets = data
    x = features[:steps, :DIM]
    # Per coordinate: coefficients of W_1 after each step on the initial levels and the drift.
    state, rows = np.eye(levels, levels + steps + 1), []
    for t in range(steps + 1):
        inflow, fresh = np.eye(levels + steps + 1)[levels + t], []
        for row in state[::-1]:
            inflow = decay * row + (1 - decay) * inflow
            fresh.append(inflow)
        state = np.array(fresh[::-1])
        rows.append(state[0])
    shared = np.array(rows) @ np.array(rows).T
    covariance = shared[:-1, :-1] * (x @ x.T) + noise_std**2 * np.eye(steps)
    tx = methods.kalman_filter(levels, decay=decay, noise_std=noise_std)
    path = path_of(tx, data)
    mean = (shared[-1, :-1, None] * x).T @ np.linalg.solve(covariance, targets[:steps])
    np.testing.assert_allclose(path[steps - 1], np.append(mean, 0), rtol=RTOL)


@pytest.mark.parametrize("missing", ["params", "batch"])
def test_what_a_filter_needs(missing):
    tx, w = methods.normalized_lms(0.5), jnp.ones(3)
    given = {"params": w, "batch": nj.problems.RegressionBatch(w, w[0])}
    with pytest.raises(ValueError, match=f"`{missing}` must be passed to `update`, got None."):
        tx.update(w, tx.init(w), **(given | {missing: None}))
