"""The level sweep in JAX: as a user of nested_jax writes it, and fused by hand."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec
from jax.tree_util import Partial

import nested_jax as nj
from benchmarks._task import DECAY, DIM, FEATURES, LEVELS, NOISE_STD, RATE, Peer, Task
from experiments.levels import runs
from experiments.levels.config import Config
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld

RECORDED = "nested_jax, recorded draws"
KEYS = "nested_jax, JAX keys"
PUBLISHED = "nested_jax, published streams"
BY_HAND = "JAX, fused by hand"
# Model levels that go side by side in one array, padded to the most of them. Measured: one bucket
# is 1.5 times as slow, and so are seven.
BUCKETS = tuple((int(part[0]), int(part[-1])) for part in np.array_split(np.arange(1, 20), 4))
# 512 bits wide for float64 where the processor can: 1.25 times as fast; float32 loses by it.
WIDE: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}


def peers(task: Task) -> tuple[dict[str, Peer], dict[str, float]]:
    """Return the peers, and the seconds that each took to compile."""
    axes = {"model_level": range(1, LEVELS + 1), "data_level": range(1, LEVELS + 1)}
    published = Config(steps=task.steps, warmup=task.warmup)
    with_keys = dataclasses.replace(published, stream="jax")
    sweeps = {
        RECORDED: (_recorded(task), nj.Grid(**axes), True),
        KEYS: (runs.function(with_keys), nj.Grid(**axes, seed=[0]), False),
    }
    if task.dtype == np.float64:
        sweeps[PUBLISHED] = (runs.function(published), nj.Grid(**axes, seed=[0]), False)
    compile_seconds, timed = {}, {}
    for name, (run, grid, same_draws) in sweeps.items():
        compile_seconds[name] = nj.sweep(run, grid, progress=False).attrs["compile_seconds"]
        timed[name] = lambda run=run, grid=grid, same=same_draws: _time_sweep(run, grid, same)
    started = time.perf_counter()
    program, arguments = _by_hand(task, jax.devices("cpu"))
    compile_seconds[BY_HAND] = time.perf_counter() - started
    timed[BY_HAND] = lambda: _time_by_hand(program, arguments)
    return timed, compile_seconds


def _recorded(task: Task) -> Partial:
    def run(recorded, world, model, *, model_level, data_level):
        problem = nj.drifting_regression(
            DIM, data_levels=data_level, decay=DECAY, noise_std=NOISE_STD, max_levels=LEVELS
        )
        tx = nj.nested_momentum(RATE, levels=model_level, decay=DECAY, max_levels=LEVELS)
        initial = (2 * model, DriftingRegressionWorld(weights=tuple(world)))
        trace = nj.rollout(
            tx, problem, None, task.steps, warmup=task.warmup, initial=initial, draws=recorded
        )
        return {"loss": trace.mean_loss}

    draws = {name: jnp.asarray(values) for name, values in task.draws.items()}
    world, model = draws.pop("world"), draws.pop("model")
    return Partial(run, DriftingRegressionDraws(**draws), world, model)


def _time_sweep(run, grid, same_draws):
    results = nj.sweep(run, grid, progress=False)
    return results.attrs["run_seconds"], results.loss.values if same_draws else None


def _time_by_hand(program, arguments):
    started = time.perf_counter()
    losses = np.asarray(program(*arguments))[:, :LEVELS]
    return time.perf_counter() - started, losses


def _by_hand(task: Task, devices: Sequence[Any]):
    """Return the compiled sweep and its arguments: what one would write for this sweep alone.

    Runs are the last axis; levels are a tuple; the data levels are cut over the devices, which
    compute their own streams, once for all model levels; one scan moves all buckets.
    """
    mesh = Mesh(np.asarray(devices), ("run",), axis_types=(AxisType.Auto,))
    own, whole = PartitionSpec("run"), PartitionSpec()
    share = -(-LEVELS // len(devices))

    def on_device(data_levels, draws):
        targets = _targets(data_levels, draws)
        features = jnp.append(draws["inputs"], jnp.ones((task.steps, 1), task.dtype), axis=1)
        counted = jnp.arange(task.steps) >= task.warmup

        def step(buckets, now):
            moved = [_move(at, bucket, *now) for at, bucket in zip(BUCKETS, buckets, strict=True)]
            return moved, None

        starts = [_start(*at, share, draws["model"]) for at in BUCKETS]
        buckets, _ = jax.lax.scan(step, starts, (features, targets, counted))
        losses = [total.reshape(-1, share) for _, _, total in buckets]
        return jnp.concatenate(losses) / (task.steps - task.warmup)

    sharded = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(own, whole),
        out_specs=PartitionSpec(None, "run"),
        check_vma=False,
    )
    # Devices beyond the last level repeat it.
    data_levels = jnp.minimum(1 + jnp.arange(share * len(devices)), LEVELS)
    arguments = (data_levels, {name: jnp.asarray(x) for name, x in task.draws.items()})
    options = WIDE if task.dtype == np.float64 else {}
    return jax.jit(sharded).lower(*arguments).compile(options), arguments


def _targets(data_levels: jax.Array, draws: Mapping[str, jax.Array]) -> jax.Array:
    """Return what the model is to predict: [steps, data levels]."""
    kind = draws["model"].dtype
    keeps = [jnp.where(i < data_levels, DECAY, 0).astype(kind) for i in range(LEVELS)]

    def step(weights, now):
        inputs, noise, flow = now
        fresh = []
        for keep, level in zip(keeps[::-1], weights[::-1], strict=True):
            flow = keep * level + (1 - keep) * (flow if fresh else flow[:, None])
            fresh.append(flow)
        return fresh[::-1], jnp.sum(flow * inputs[:, None], 0) + NOISE_STD * noise

    shape = (DIM, data_levels.size)
    starts = [jnp.broadcast_to(level[:, None], shape) for level in draws["world"]]
    return jax.lax.scan(step, starts, (draws["inputs"], draws["noise"], draws["drift"]))[1]


def _start(least: int, most: int, share: int, model: jax.Array):
    """Return weights, momenta and the sum of losses of a bucket: [..., model x data levels]."""
    runs = (most - least + 1) * share
    weights = jnp.broadcast_to(2 * model[:, None], (FEATURES, runs))
    return weights, [jnp.zeros_like(weights)] * (most - 1), jnp.zeros_like(weights[0])


def _move(levels, bucket, features, target, counted):
    """Move a bucket one step on."""
    (least, most), (weights, momenta, total) = levels, bucket
    level = np.repeat(np.arange(least, most + 1), target.size)
    error = jnp.sum(weights * features[:, None], 0) - jnp.tile(target, most - least + 1)
    flow, fresh = 2 * error * features[:, None], []
    for i in reversed(range(most - 1)):
        # Those of all runs need no mask.
        keep = DECAY if i < least - 1 else jnp.where(i < level - 1, DECAY, 0).astype(error.dtype)
        flow = keep * momenta[i] + (1 - keep) * flow
        fresh.append(flow)
    total = total + jnp.where(counted, jnp.square(error), 0)
    return weights - RATE * flow, fresh[::-1], total
