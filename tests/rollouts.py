"""What the tests of `rollout` share: problems with known losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj

FLOAT32_RTOL = 8 * np.finfo(np.float32).eps
KEY = jax.random.key(0)

# The losses are the draws, whatever the optimizer does.
SCRIPT = nj.Problem(
    init=lambda key: (jnp.zeros(()), None),
    draw=jax.random.uniform,
    observe=lambda draws, world: (draws, world),
    loss=lambda params, batch: batch + 0 * params,
)


def scripted(losses, **options):
    return nj.rollout(optax.sgd(0.1), SCRIPT, KEY, len(losses), draws=losses, **options)


def observe_quadratic(draws, world):
    return {"target": draws["noise"] + world["steps"] / 10, "at": world["steps"]}, {
        "steps": world["steps"] + 1
    }


# No regression: a bowl whose bottom moves, with parameters, draws and world that are trees.
BOWL = nj.Problem(
    init=lambda key: (
        {"w": jax.random.uniform(key, (3,)), "b": jnp.ones(())},
        {"steps": jnp.zeros(())},
    ),
    draw=lambda key: {"noise": jax.random.uniform(key, (3,))},
    observe=observe_quadratic,
    loss=lambda params, batch: (
        jnp.sum(jnp.array([0.5, 1.0, 2.0]) * (params["w"] - batch["target"]) ** 2)
        + params["b"] ** 2
    ),
)
