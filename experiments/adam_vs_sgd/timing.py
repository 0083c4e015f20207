"""How long a step of each optimizer takes."""

import concurrent.futures
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import nested_jax as nj
from experiments.adam_vs_sgd.config import BATCHES, Config
from experiments.adam_vs_sgd.methods import build, compared
from experiments.adam_vs_sgd.training import network, start, train, training_set
from experiments.lab import Lab

if TYPE_CHECKING:
    import xarray as xr


def timing(config: Config, lab: Lab) -> "xr.Dataset":
    """Time one training run of every method alone, at one batch size, in turns.

    Programs are compiled and have run once before. Times stored by an earlier call are kept.

    Returns:
        Over optimizer and round: `seconds` of a step; `state`, the numbers that the optimizer
        stores for every weight.
    """
    import xarray as xr

    path = lab.folder / "store" / "timing.nc"
    lab.begin("timing", stored=float(path.exists()))
    if path.exists():
        try:
            return nj.sweeps.load(path)
        except (OSError, ValueError) as error:  # Like the error of a sweep's store.
            raise ValueError(f"`store` must have times that can be read, got {path}.") from error
    size, begun = BATCHES[0], start(config, lab.images, "timing", 1)
    model, params = network(config, lab.images), jax.tree.map(lambda x: x[0, 0], begun.params)
    arguments = (*training_set(lab.images), params, begun.draws[0], 1e-3)

    def program(method):
        @jax.jit
        def once(images, labels, params, draws, rate):
            problem = nj.classification(model.apply, model.init, images, labels, batch_size=size)
            tx = build(config, method, rate, 0.9)
            return train(config, tx, problem, params, draws, size, curve=False).params

        return once.lower(*arguments).compile()

    methods = compared(config)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = [*pool.map(program, methods)]
    # Methods take turns, so that a busy machine slows all of them; the first turn warms up.
    turns = [[_seconds(once, arguments) for once in programs] for _ in range(1 + config.rounds)]
    steps = config.examples // size
    seconds = np.transpose(turns[1:]) / steps
    held = [_held(config, name, params) for name in methods]
    results = xr.Dataset(
        {"seconds": (("optimizer", "round"), seconds), "state": ("optimizer", held)},
        {"optimizer": methods},
        {"steps": steps, "batch": size},
    )
    nj.sweeps.save(results, path)
    return results


def _seconds(once: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(once(*arguments))
    return time.perf_counter() - started


def _held(config: Config, method: str, params: Any) -> float:
    """Return the numbers in the optimizer's state for each of the parameters."""
    state = jax.eval_shape(build(config, method, 1e-3, 0.9).init, params)
    state_size, size = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, params))
    return state_size / size
