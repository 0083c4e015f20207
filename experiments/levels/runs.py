"""The runs of the level sweep: nested momentum on the published random numbers, or on JAX's."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.lab import Lab, UsageError
from experiments.levels import kernels
from experiments.levels.config import Config
from experiments.levels.predictions import MODEL_INIT_STD, initial_loss, predict
from experiments.levels.references import bounds, groups, references
from experiments.levels.rust_stream import published_stream
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld

if TYPE_CHECKING:
    import xarray as xr


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Run every combination of levels and seeds as one program.

    Returns:
        "results", over model_level, data_level and, if there are several, seed: `loss`, the mean
        after warm-up; `first_beyond`, the first step whose loss exceeds a thousand times that of
        the untrained model (-1 if none); `diverged`, whether the mean loss exceeds that of the
        untrained model; and what uses none of the runs: `predict` and `references`.
    """
    if config.implementation == "pallas" and lab.device.platform != "gpu":
        raise UsageError('`--implementation` must be "scan" without a GPU, got "pallas".')
    axes = {
        "model_level": range(1, config.model_levels + 1),
        "data_level": range(1, config.data_levels + 1),
        "seed": range(config.seeds),
    }
    run = function(config)
    results = lab.sweep("levels", run, nj.Grid(**axes))
    # `loss > initial` would be False for NaN.
    results["diverged"] = ~(results.loss <= initial_loss(config))
    results.loss.attrs = {"long_name": "mean loss after warm-up", "units": "squared error"}
    results = results if config.seeds > 1 else results.isel(seed=0, drop=True)
    # The longest first.
    inputs = [
        {d: _inputs(config, run, d) for d in group} for group in groups(axes["data_level"])[::-1]
    ]
    predicted, *found = _at_once(
        [partial(predict, config), *(partial(bounds, config, each) for each in inputs)]
    )
    bounds_found = {d: bound for each in found for d, bound in each.items()}
    return {"results": results.assign(predicted).assign(references(config, bounds_found))}


def _at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what functions return, called in threads: each compiles a program on one core."""
    wide = jnp.result_type(float) == np.float64
    # One run is too little work for a GPU, and JAX has the eigenvalues of matrices that are not
    # symmetric on CPUs only.
    device = jax.local_devices(backend="cpu")[0]

    def call(function: Callable[[], Any]) -> Any:
        # A thread has contexts of its own.
        with jax.enable_x64(wide), jax.default_device(device):
            return function()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*pool.map(call, calls)]


def _inputs(config: Config, run: Partial, data_level: int) -> np.ndarray:
    """Return the inputs of the first seed's runs, of shape (steps, dim)."""
    dim, steps, source = config.dim, config.steps, run.args[1][0]
    if config.stream == "jax":  # Others of the same kind: the bound is a mean over inputs.
        return np.asarray(jax.random.normal(source, (steps, dim)))
    size = 2 * dim + 1
    numbers = np.asarray(source)[data_level * dim :][: steps * size].reshape(steps, size)
    return numbers[:, dim:-1]


def function(config: Config) -> Partial:
    """Return the pure function of model_level, data_level and seed that `simulate` sweeps."""
    return _published_run(config) if config.stream == "published" else _jax_run(config)


def _published_run(config: Config) -> Partial:
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
        # The initial weights of all d levels come first; the steps start after them.
        levels = data[seed, : config.data_levels * dim].reshape(config.data_levels, dim)

        def draws(t):
            z = jax.lax.dynamic_slice(data, (seed, data_level * dim + t * size), (1, size))[0]
            return DriftingRegressionDraws(drift=z[:dim], inputs=z[dim:-1], noise=z[-1])

        world = DriftingRegressionWorld(weights=tuple(levels))
        source = {"key": None, "world": world, "draws": draws}
        return _trained(config, model[seed], model_level, data_level, **source)

    models, data = (jnp.asarray(np.stack(parts)) for parts in zip(*streams, strict=True))
    return Partial(run, models, data)


def _jax_run(config: Config) -> Partial:
    """Return the sweep's function on JAX's random numbers."""

    def keys(first):
        # The 64 bits of a seed are the key, so every seed below 2**64 has its own.
        words = [[seed >> 32, seed % 2**32] for seed in range(first, first + config.seeds)]
        return jax.random.wrap_key_data(jnp.array(words, jnp.uint32), impl="threefry2x32")

    def run(model_keys, data_keys, *, model_level, data_level, seed):
        model = jax.random.normal(model_keys[seed], (config.dim + 1,))
        return _trained(config, model, model_level, data_level, key=data_keys[seed])

    return Partial(run, keys(config.model_seed), keys(config.data_seed))


def _trained(
    config: Config, model, model_level, data_level, key, world=None, draws=None
) -> dict[str, jax.Array]:
    """Run one combination from the model's initial normals; draw the world if none is given."""
    if world is None:
        key_world, key = jax.random.split(key)
        # The initial true weights depend only on the largest number of levels.
        _, world = nj.drifting_regression(config.dim, data_levels=config.data_levels).init(
            key_world
        )

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
