"""How long a step of each optimizer takes."""

import concurrent.futures
import os
import time
from typing import TYPE_CHECKING

import jax
import numpy as np

import nested_jax as nj
from experiments import _adam_vs_sgd_runs as runs
from experiments import _artifacts, _data
from experiments._adam_vs_sgd_methods import METHODS, optimizer

if TYPE_CHECKING:
    import xarray as xr

    from experiments.adam_vs_sgd import Config


def timing(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Time one training of every method alone, at one batch size, in turns.

    Programs are compiled and have run once before. Times that a former call left are kept.

    Returns:
        Over optimizer and round: `seconds` a step; `state`, numbers that the optimizer holds for
        every weight.
    """
    import xarray as xr

    path = config.out / "store" / "timing.nc"
    if path.exists():
        try:
            return xr.load_dataset(path)
        except (OSError, ValueError) as error:  # As a store's own error.
            raise ValueError(f"`store` must have times that can be read, got {path}.") from error
    size, examples = runs.BATCHES[0], runs.training(images)
    model = runs.network(config, images)
    begun = runs.start(config, images, "timing", 1)
    params = jax.tree.map(lambda x: x[0, 0], begun.params)

    def program(method):
        @jax.jit
        def once(images, labels, params, draws, rate):
            problem = nj.classification(model.apply, model.init, images, labels, batch_size=size)
            tx = optimizer(config, method, rate, 0.9)
            return runs.train(config, tx, problem, params, draws, size, curve=False).params

        return once.lower(*examples, params, begun.draws[0], 1e-3).compile()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = [*pool.map(program, METHODS)]
    steps = config.examples // size
    seconds = np.empty((len(METHODS), 1 + config.rounds))
    for turn in range(1 + config.rounds):
        for i, once in enumerate(programs):
            started = time.perf_counter()
            jax.block_until_ready(once(*examples, params, begun.draws[0], 1e-3))
            seconds[i, turn] = (time.perf_counter() - started) / steps
    held = [_held(config, name, params) for name in METHODS]
    results = xr.Dataset(
        {"seconds": (("optimizer", "round"), seconds[:, 1:]), "state": ("optimizer", held)},
        {"optimizer": [*METHODS]},
        {"steps": steps, "batch": size},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _artifacts.write_dataset(path, results)
    return results


def _held(config, method, params):
    """Return the numbers in the optimizer's state for each of the parameters."""
    state = jax.eval_shape(optimizer(config, method, 1e-3, 0.9).init, params)
    count = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state, params)]
    return count[0] / count[1]
