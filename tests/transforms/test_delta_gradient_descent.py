"""Tests of `delta_gradient_descent`, and of where it settles on linear regression."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests import oracles
from tests.trajectories import SHAPES, assert_agree, distance, given_gradients, given_params, run

TRUE_WEIGHTS = np.array([1.0, -2.0, 0.5])
# A covariance of the inputs that is far from the identity: of condition number 36.
COLOUR = np.array([[1.0, 0.0, 0.0], [1.2, 0.6, 0.0], [-0.5, 0.3, 0.8]])


def same(batch):
    return batch


def falling(step):
    return 0.3 / (1 + 0.2 * step)


def wave(step):
    return (step % 4) / 3.0


def fed(tx, gradients, inputs):
    """Return the parameters after each step, a list of trees, from the given ones."""

    def step(carry, row):
        (params, state), (g, x) = carry, row
        updates, state = tx.update(g, state, params, batch=x)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *zip(gradients, inputs, strict=True))
    start = jax.tree.map(jnp.asarray, given_params())
    _, thetas = jax.lax.scan(step, (start, tx.init(start)), stacked)
    thetas = jax.tree.map(np.asarray, thetas)
    return [jax.tree.map(lambda x, i=i: x[i], thetas) for i in range(len(gradients))]


def given_inputs(steps=20):
    rng = np.random.default_rng(2)
    return [{n: rng.normal(size=s[-1:]) for n, s in SHAPES.items()} for _ in range(steps)]


@pytest.mark.parametrize(("rate", "schedule"), [(0.3, None), (falling, wave)])
def test_agrees_with_the_oracle(x64, rate, schedule):
    params, gradients, inputs = given_params(), given_gradients(), given_inputs()
    tx = nj.delta_gradient_descent(rate, inputs=same, schedule=schedule)
    columns = {name: ([g[name] for g in gradients], [x[name] for x in inputs]) for name in params}
    expected = oracles.rows(
        {
            name: oracles.delta_gradient_descent(params[name], *columns[name], rate, schedule)
            for name in params
        }
    )
    assert_agree(fed(tx, gradients, inputs), expected)


def test_without_inputs_it_is_gradient_descent(x64):
    gradients, inputs = given_gradients(), given_inputs()
    nothing = jax.tree.map(np.zeros_like, inputs)
    actual = fed(nj.delta_gradient_descent(0.3, inputs=same), gradients, nothing)
    sgd = run(optax.sgd(0.3), given_params(), gradients)
    assert_agree(actual, sgd)
    assert distance(fed(nj.delta_gradient_descent(0.3, inputs=same), gradients, inputs), sgd) > 0.1


def regression(scale, noise_std):
    """Return linear regression with the loss `scale` (w . x - y)^2 on coloured inputs."""

    def draw(key):
        return jax.random.normal(key, (4,))

    def observe(z, world):
        x = jnp.asarray(COLOUR, z.dtype) @ z[:3]
        return (x, x @ jnp.asarray(TRUE_WEIGHTS, z.dtype) + noise_std * z[3]), world

    def loss(params, batch):
        return scale * (params @ batch[0] - batch[1]) ** 2

    return nj.Problem(lambda key: (jnp.zeros(3), None), draw, observe, loss)


@functools.partial(jax.jit, static_argnums=3)
def settled(scale, noise_std, keys, steps):
    tx = nj.delta_gradient_descent(0.1, inputs=lambda batch: batch[0])
    problem = regression(scale, noise_std)
    return jax.vmap(lambda key: nj.rollout(tx, problem, key, steps).params)(keys)


@pytest.mark.parametrize(("scale", "share"), [(1.0, 2 / 3), (0.5, 1 / 2)])
def test_settles_at_a_share_of_the_true_weights(x64, scale, share):
    """In `rollout`, exactly without noise and in the mean with it, whatever the covariance."""
    keys = jax.random.split(jax.random.key(0), 64)
    # The distance shrinks by 1e-6 in 1,000 steps, so what is left is rounding.
    exact = settled(scale, 0.0, keys, 3000)
    np.testing.assert_allclose(exact, np.tile(share * TRUE_WEIGHTS, (64, 1)), rtol=1e-12)
    noisy = np.asarray(settled(scale, 0.5, keys, 3000))
    error = noisy.std(0, ddof=1) / np.sqrt(len(keys))
    assert (error < 0.02).all()
    assert (np.abs(noisy.mean(0) - share * TRUE_WEIGHTS) < 4 * error).all()


@pytest.mark.parametrize(("scale", "speed"), [(1.0, 3), (0.5, 2)])
def test_one_step_scales_the_distance_along_the_inputs(x64, scale, speed):
    """The squared loss amplifies once eta |x|^2 > 2; half of it never does."""
    products = np.array([0.5, 1.99, 2.01, 1e6])
    x, w = np.array([0.6, 0.8]), np.array([1.0, 1.0])
    centre = (1 - 1 / speed) * TRUE_WEIGHTS[:2]

    def factor(product):
        tx = nj.delta_gradient_descent(product, inputs=same)
        gradient = 2 * scale * ((w - TRUE_WEIGHTS[:2]) @ x) * x
        updates, _ = tx.update(jnp.asarray(gradient), tx.init(w), jnp.asarray(w), batch=x)
        return (w + updates - centre) @ x / ((w - centre) @ x)

    factors = np.asarray(jax.vmap(factor)(jnp.asarray(products)))
    np.testing.assert_allclose(factors, 1 - speed * products / (1 + products), atol=1e-12)
    np.testing.assert_array_equal(np.abs(factors) > 1, (products > 2) & (scale == 1))


def test_an_overflow_of_the_inputs_is_seen():
    tx = nj.delta_gradient_descent(0.1, inputs=same)
    params = jnp.ones(2)
    updates, _ = tx.update(params, tx.init(params), params, batch=jnp.array([1e20, 0.0]))
    assert np.isnan(updates).all()


def test_metrics_report_its_rate():
    tx = nj.with_metrics(nj.delta_gradient_descent(0.25, inputs=same))
    params = jnp.ones(2)
    _, state = tx.update(params, tx.init(params), params, batch=params)
    assert float(nj.metrics_of(state).rate) == 0.25


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"params": None}, ValueError, "`delta_gradient_descent` needs `params` in `update`, got"),
        ({"batch": None}, ValueError, "`delta_gradient_descent` needs `batch` in `update`, got"),
        ({"batch": {"w": np.ones(2)}}, ValueError, "`inputs(batch)` must have shape (3,) for"),
        ({"batch": {"w": np.ones((2, 3))}}, ValueError, "parameters of (2, 3), got shape (2, 3)."),
        ({"batch": np.ones(3)}, ValueError, "`inputs(batch)` must have the structure of the param"),
        ({"batch": {"w": np.ones(3, int)}}, TypeError, "`inputs(batch)` must hold floating array"),
        ({"updates": {"w": np.ones(3)}}, ValueError, "Updates must have the shapes of the param"),
    ],
)
def test_an_update_rejects(changes, error, message):
    tx = nj.delta_gradient_descent(0.1, inputs=same)
    params = {"w": np.ones((2, 3))}
    given = {"updates": params, "params": params, "batch": {"w": np.ones(3)}} | changes
    with pytest.raises(error, match=re.escape(message)):
        tx.update(given["updates"], tx.init(params), given["params"], batch=given["batch"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be non-negative and finite"),
        ({"inputs": None}, TypeError, "`inputs` must be callable, got None."),
        ({"schedule": 1.0}, TypeError, "`schedule` must be callable, got 1.0."),
    ],
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.delta_gradient_descent(**({"learning_rate": 0.1, "inputs": same} | arguments))
