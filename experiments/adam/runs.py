"""The runs of the Adam experiment."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments.adam.config import WINDOWS, Config
from experiments.adam.corrections import epsilon, stopped
from experiments.adam.games import METHODS, games, play, player
from experiments.adam.networks import ladder, restart
from experiments.adam.tools import B1, B2, CURVATURES, adam, excess, key_of, measured, timed, times
from experiments.lab import Lab

if TYPE_CHECKING:
    import xarray as xr

BURST = 400
"""Length of a growing stream: what is left out is below rounding."""
STREAMS = {"lone": 0, "growing": 1}
"""A lone gradient among zeros; gradients that grow at the ratio that makes the largest step."""
TINY = 1e-200
"""Adam's epsilon where bounds are measured: negligible beside any gradient, and avoids 0 / 0."""
GRADIENTS = {
    "constant": (1.0, 0.0, 0.0),
    "alternating": (0.0, 1.0, 0.0),
    "noise": (0.0, 0.0, 1.0),
    "mean 0.1": (0.1, 0.0, 1.0),
    "mean 0.3": (0.3, 0.0, 1.0),
    "mean 1": (1.0, 0.0, 1.0),
    "mean 3": (3.0, 0.0, 1.0),
}
"""Streams of gradients: mean, size of the alternating part, standard deviation of the noise."""
GAME_RATE = 0.5
RATES = (1e-3, 10.0)
"""The smallest and the largest learning rate of the tuned games."""


def simulate(config: Config, lab: Lab) -> "dict[str, xr.Dataset]":
    """Run every part; each is a sweep and a dataset, named as in `Experiment.parts`."""
    first = (silence, bounds, signal, early, training, epsilon, restart, stopped, ladder)
    parts = (*first, counterexamples, regret)
    return {part.__name__: part(config, lab) for part in parts}


def silence(config: Config, lab: Lab) -> "xr.Dataset":
    """Measure the largest step after some zero gradients, with bias correction."""

    def run(stream: str, last: Any) -> dict[str, Any]:
        return largest_step(stream, last, config.silence)

    lasts = np.unique(np.geomspace(1, config.silence, 25).round().astype(int))
    return lab.sweep("silence", run, nj.Grid(stream=[*STREAMS], last=lasts))


def bounds(config: Config, lab: Lab) -> "xr.Dataset":
    """Measure it for other decays after endless silence, which is: without bias correction."""

    def run(stream: str, b1: Any, b2: Any) -> dict[str, Any]:
        return largest_step(stream, BURST, BURST, b1, b2, debias=False)

    decays = {"b1": [0.0, 0.5, 0.8, 0.9, 0.95], "b2": [0.95, 0.99, 0.999, 0.9999]}
    return lab.sweep("bounds", run, nj.Grid(stream=[*STREAMS], **decays))


def largest_step(
    stream: str, last: Any, steps: int, b1: Any = B1, b2: Any = B2, debias: bool = True
) -> dict[str, Any]:
    """Return the largest step, at a learning rate of 1, if the last gradient comes at `last`."""

    def draws(t: Any) -> jax.Array:
        return burst(STREAMS[stream], last - 1 - t, b1, b2)

    metrics = measured(adam(1.0, b1, b2, eps=TINY, debias=debias), draws, steps)
    return {"step": jnp.nanmax(metrics.step_rms)}


def burst(growing: int, left: jax.Array, b1: Any, b2: Any) -> jax.Array:
    """Return the gradient `left` steps before the last of a burst, which is 1; 0 outside it."""
    size = jnp.where(left == 0, 1.0, growing * (b1 / b2) ** jnp.maximum(left, 0))
    return jnp.where((left >= 0) & (left < BURST), size, 0.0)


def signal(config: Config, lab: Lab) -> "xr.Dataset":
    """Measure the signal-to-noise ratio on streams of gradients."""
    at, shape = times(config.signal_steps), (config.dim,)
    mean, swing, noise = (jnp.asarray(part) for part in zip(*GRADIENTS.values(), strict=True))

    def run(stream: Any, b1: Any, seed: Any) -> dict[str, Any]:
        key = key_of(config, seed)

        def draws(t: Any) -> jax.Array:
            xi = jax.random.normal(jax.random.fold_in(key, t), shape)
            sign = 1.0 - 2.0 * (t % 2)
            return mean[stream] + swing[stream] * sign + noise[stream] * xi

        found = measured(adam(1.0, b1), draws, config.signal_steps, shape)
        return {"ratio": found.signal_to_noise[at - 1], "step": found.step_rms[at - 1]}

    streams, decays = range(len(GRADIENTS)), [0.0, 0.5, 0.9, 0.99]
    grid = nj.Grid(stream=streams, b1=decays, seed=range(config.seeds))
    return timed(lab.sweep("signal", run, grid), at).assign_coords(stream=[*GRADIENTS])


def early(config: Config, lab: Lab) -> "xr.Dataset":
    """Measure the step on a constant gradient, with and without bias correction."""
    at = times(config.early_steps)

    def run(debias: bool, b2: Any) -> dict[str, Any]:
        tx = adam(1.0, b2=b2, debias=debias)
        return {"step": measured(tx, lambda t: jnp.ones(()), config.early_steps).step_rms[at - 1]}

    grid = nj.Grid(debias=[True, False], b2=[0.9, 0.99, 0.999, 0.9999])
    return timed(lab.sweep("early", run, grid), at)


def training(config: Config, lab: Lab) -> "xr.Dataset":
    """Train on a noisy quadratic with and without bias correction."""
    problem, at = nj.quadratic(CURVATURES, noise_std=1.0), times(config.training_steps)

    def run(debias: bool, b2: Any, learning_rate: Any, seed: Any) -> dict[str, Any]:
        key, tx = key_of(config, seed), adam(learning_rate, b2=b2, debias=debias)
        trace = nj.rollout(tx, problem, key, config.training_steps, stride=1, record=excess)
        key_init, _ = jax.random.split(key)  # As `rollout` does.
        first = excess(problem.init(key_init)[0])
        return {"peak": jnp.max(trace.records) / first, "loss": trace.records[at - 1] / first}

    grid = nj.Grid(
        debias=[True, False],
        b2=[0.99, 0.999, 0.9999],
        learning_rate=np.geomspace(1e-3, 10.0, 17),
        seed=range(config.seeds),
    )
    return timed(lab.sweep("training", run, grid), at)


def counterexamples(config: Config, lab: Lab) -> "xr.Dataset":
    """Play the games on which Adam does not converge, at the learning rate 0.5 / sqrt(t)."""
    table, at = games(), times(WINDOWS)

    def run(game: str, optimizer: str, seed: Any) -> dict[str, Any]:
        steps = config.short_game_steps if game == "period 3" else config.game_steps
        tx = player(optimizer, table[game], GAME_RATE)
        found = play(table[game], tx, key_of(config, seed), steps)
        theta, regret = found["theta"][:, 0], found["regret"]
        steps = jnp.asarray(steps)
        return {"theta": theta[at - 1], "regret": regret[at - 1], "last": theta[-1], "steps": steps}

    names = ["period 101", "period 3", "by chance"]
    grid = nj.Grid(game=names, optimizer=METHODS, seed=range(config.seeds))
    results = timed(lab.sweep("counterexamples", run, grid), at)
    # The same for every method and seed.
    return results.assign(steps=results.steps.isel(optimizer=0, seed=0))


def regret(config: Config, lab: Lab) -> "xr.Dataset":
    """Play at many learning rates; the first `tuning_seeds` choose one."""
    table, steps, at = games(config.online_dim), config.regret_steps, times(WINDOWS)

    def run(game: str, optimizer: str, learning_rate: Any, seed: Any) -> dict[str, Any]:
        tx = player(optimizer, table[game], learning_rate)
        return {"regret": play(table[game], tx, key_of(config, seed), steps)["regret"][at - 1]}

    grid = nj.Grid(
        game=["sparse", "curved", "by chance"],
        optimizer=METHODS,
        learning_rate=np.geomspace(*RATES, config.rates),
        seed=range(config.tuning_seeds + config.seeds),
    )
    results = timed(lab.sweep("regret", run, grid), at * (steps // WINDOWS))
    return results.assign_attrs(tuning_seeds=config.tuning_seeds)
