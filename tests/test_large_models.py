"""Tests of docs/howto/large_models.md: layers in one stack get the updates of single ones."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "large_models.md"
STEPS = 4
RTOL = 1e-12  # Means over an axis more, in another order: roundings of float64.


def layer(key, dtype=None):
    return {
        "kernel": jax.random.normal(key, (3, 5), dtype),
        "bias": jax.random.normal(key, 5, dtype),
    }


def stacked(layers):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def trajectory(tx, params):
    """Return parameters after some steps; the gradients are cubes of them."""
    state = tx.init(params)
    for _ in range(STEPS):
        updates, state = tx.update(jax.tree.map(lambda p: p**3, params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def layers_of(seed, count=3):
    return [layer(key, float) for key in jax.random.split(jax.random.key(seed), count)]


@pytest.mark.parametrize(
    "tx",
    [nj.momentum(0.01), nj.nested_momentum(0.01, levels=3), nj.nesterov(0.01), nj.adamw(0.01)],
    ids=["momentum", "nested_momentum", "nesterov", "adamw"],
)
def test_elementwise_transforms_take_stacks_as_they_are(tx, x64):
    layers = layers_of(0)
    alone = stacked([trajectory(tx, params) for params in layers])
    together = trajectory(tx, stacked(layers))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=RTOL), together, alone)


def test_the_recipe_for_transforms_that_take_norms(x64):
    names = {}
    recipe, _ = re.findall(r"```{code-cell}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(recipe, names)
    layers, head = layers_of(0), layer(jax.random.key(1), float)
    params = {"layers": stacked(layers), "head": head}
    tx = nj.adafactor(0.1)
    alone = {"layers": stacked([trajectory(tx, p) for p in layers]), "head": trajectory(tx, head)}
    actual = trajectory(names["tx"], params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=RTOL), actual, alone)
    # Without it, the stack would share one norm.
    shared = trajectory(tx, params)["layers"]["kernel"]
    assert np.max(np.abs(shared - alone["layers"]["kernel"])) > 1e-3


@pytest.mark.parametrize("leaves", [64, 65, 200])
def test_clipping_tells_the_extremes_of_many_leaves(leaves):
    rms = np.random.default_rng(0).permutation(np.arange(1, leaves + 1)).astype(np.float32)
    tx, updates = nj.clip_by_block_rms(2.0), [jnp.full(2, x) for x in rms]
    _, state = tx.update(updates, tx.init(updates))
    assert (state.rms, state.factor) == (leaves, np.float32(2 / leaves))
    updates[leaves // 2] *= jnp.nan
    _, state = tx.update(updates, tx.init(updates))
    assert np.isnan(state.rms)
    assert np.isnan(state.factor)


def test_clipping_many_leaves_is_differentiable():
    def largest(scale):
        updates = [scale * (i + 1) for i in range(100)]
        tx = nj.clip_by_block_rms(2.0)
        return tx.update(updates, tx.init(updates))[1].rms

    assert jax.grad(largest)(jnp.float32(0.5)) == 100
