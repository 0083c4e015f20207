"""What the level sweep runs: nested momentum on the published streams, or on JAX's numbers.

A configuration here is anything with the fields of `levels.Config`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments._rust_stream import published_stream
from nested_jax import kernels
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld

MODEL_INIT_STD = 2.0
"""Standard deviation of the model's initial weights in the published experiment."""


def initial_loss(config: Any) -> float:
    """Return the expected loss of the untrained model, |w - W|^2 + noise."""
    return MODEL_INIT_STD**2 * (config.dim + 1) + config.dim + config.noise_std**2


def function(config: Any) -> Partial:
    """Return the pure function of model_level, data_level and seed that `simulate` sweeps."""
    return _published_run(config) if config.stream == "published" else _jax_run(config)


def _published_run(config: Any) -> Partial:
    """Return the sweep's function on Rust's random streams."""
    streams = [
        published_stream(
            dim=config.dim,
            data_levels=config.data_levels,
            steps=config.steps,
            model_seed=config.model_seed + i,
            data_seed=config.data_seed + i,
        )
        for i in range(config.seeds)
    ]
    dim, size = config.dim, 2 * config.dim + 1

    def run(model, data, *, model_level, data_level, seed):
        # The initial weights of all levels come first, so the steps of d levels start after d.
        levels = data[seed, : config.data_levels * dim].reshape(config.data_levels, dim)

        def draws(t):
            z = jax.lax.dynamic_slice(data, (seed, data_level * dim + t * size), (1, size))[0]
            return DriftingRegressionDraws(drift=z[:dim], inputs=z[dim:-1], noise=z[-1])

        world = DriftingRegressionWorld(weights=tuple(levels))
        source = {"key": None, "world": world, "draws": draws}
        return _report(config, model[seed], model_level, data_level, **source)

    models, data = (jnp.asarray(np.stack(parts)) for parts in zip(*streams, strict=True))
    return Partial(run, models, data)


def _jax_run(config: Any) -> Partial:
    """Return the sweep's function on JAX's random numbers."""

    def keys(first):
        # The 64 bits of a seed are the key, so that neither end of the range is cut off.
        words = [[seed >> 32, seed % 2**32] for seed in range(first, first + config.seeds)]
        return jax.random.wrap_key_data(jnp.array(words, jnp.uint32), impl="threefry2x32")

    def run(model_keys, data_keys, *, model_level, data_level, seed):
        model = jax.random.normal(model_keys[seed], (config.dim + 1,))
        return _report(config, model, model_level, data_level, key=data_keys[seed])

    return Partial(run, keys(config.model_seed), keys(config.data_seed))


def _report(
    config: Any, model, model_level, data_level, key, world=None, draws=None
) -> dict[str, jax.Array]:
    """Run one combination from the model's initial normals; draw what is not given."""
    if world is None:
        key_world, key = jax.random.split(key)
        # How the true weights begin depends on nothing but the room for them.
        world = nj.drifting_regression(config.dim, data_levels=config.data_levels).init(key_world)[
            1
        ]
    trace = kernels.regression_rollout(
        nj.nested_decays(model_level, decay=config.decay, max_levels=config.model_levels),
        config.learning_rate,
        key,
        config.steps,
        dim=config.dim,
        data_levels=data_level,
        data_decay=config.decay,
        noise_std=config.noise_std,
        max_data_levels=config.data_levels,
        warmup=config.warmup,
        bound=1000 * initial_loss(config),
        initial=(MODEL_INIT_STD * model, world),
        draws=draws,
        implementation=config.implementation,
    )
    return {"loss": trace.mean_loss, "first_beyond": trace.diverged_at}
