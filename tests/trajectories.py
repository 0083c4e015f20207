"""Given parameters and gradients, and how to run an optimizer along them.

The gradients do not depend on the parameters, so an error made at one step stays what it was and
cannot be hidden by a loss that contracts. Trees are dicts of NumPy arrays, as `tests.oracles`
takes and returns them.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax

SHAPES = {"matrix": (6, 4), "vector": (5,), "scalar": ()}
ZERO_STEPS = (4, 5)  # Two in a row: what a statistic of squares does with nothing at all.
SPIKE_STEP, SPIKE = 9, 50.0
# 20 steps of a dozen float64 roundings each, with numbers of order one.
FLOAT64_TOLERANCE = 1e-12


def given_params(seed=0):
    """Return parameters of order one: a (6, 4) matrix, a vector and a scalar."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) for name, shape in SHAPES.items()}


def given_gradients(steps=20, seed=1):
    """Return one tree of gradients a step, with steps of zeros, one zero entry and a spike."""
    rng = np.random.default_rng(seed)
    trees = []
    for step in range(steps):
        scale = 0.0 if step in ZERO_STEPS else SPIKE if step == SPIKE_STEP else 1.0
        trees.append({name: scale * rng.normal(size=shape) for name, shape in SHAPES.items()})
        trees[-1]["matrix"][2, 1] = 0.0 if step < 3 else trees[-1]["matrix"][2, 1]
    return trees


def run(tx, params, gradients, jit=True, dtype=None):
    """Return the parameters after each step, a list of trees of NumPy arrays.

    With `jit` the steps are one compiled `lax.scan`, else a Python loop of eager updates. Arrays
    are of `dtype`, by default of JAX's own float (64-bit under `jax.enable_x64`).
    """
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype or float), params)

    def step(carry, gradient):
        theta, state = carry
        updates, state = tx.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        return (theta, state), theta

    carry = params, tx.init(params)
    if jit:
        # Stacked, and taken apart again, by NumPy: of JAX each would be a program of its own.
        stacked = jax.tree.map(lambda *x: jnp.asarray(np.stack(x), dtype or float), *gradients)
        thetas = jax.jit(lambda c, gs: jax.lax.scan(step, c, gs)[1])(carry, stacked)
        thetas = jax.tree.map(np.asarray, thetas)
        return [
            jax.tree.map(lambda x, i=i: np.asarray(x[i]), thetas) for i in range(len(gradients))
        ]
    rows = []
    for gradient in gradients:
        gradient = jax.tree.map(lambda x: jnp.asarray(x, dtype or float), gradient)
        carry, theta = step(carry, gradient)
        rows.append(theta)
    return jax.tree.map(np.asarray, rows)


def outflow(tx, inflow):
    """Return the updates for `inflow` (time first), stacked likewise."""

    def step(state, update):
        update, state = tx.update(update, state)
        return state, update

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda x: x[0], inflow)), inflow)[1]


def distance(actual, expected):
    """Return the largest difference of two lists of trees, in units of the largest entry."""
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert [np.shape(x) for x in actual] == [np.shape(x) for x in expected]
    pairs = list(zip(actual, expected, strict=True))
    # maximum() hands NaN on, as max() does not.
    largest = np.max([np.max(np.abs(x - y)) for x, y in pairs])
    return float(largest / np.max([np.max(np.abs(y)) for _, y in pairs]))


def assert_agree(actual, expected, tolerance=FLOAT64_TOLERANCE):
    """Raise unless two lists of trees agree within `tolerance` of the largest entry."""
    assert distance(actual, expected) <= tolerance


def label(options):
    """Return a test's name for a dict of options; functions by name, without their address."""
    return ",".join(f"{key}={getattr(value, '__name__', value)}" for key, value in options.items())


def by_name(factory, first, *rest):
    """Call a factory with all arguments but the first by name, in the order of its signature."""
    names = [*inspect.signature(factory).parameters][1:]
    return factory(first, **dict(zip(names, rest, strict=False)))
