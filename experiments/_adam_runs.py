"""The runs of the Adam experiment, each part a sweep of its own."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nested_jax as nj
from nested_jax.problems import OnlineWorld

if TYPE_CHECKING:
    import xarray as xr

    from experiments.adam import Config

B1, B2 = 0.9, 0.999
"""Adam's decays, where nothing else is said."""
BURST = 400
"""Steps that a growing stream lasts: by then what is left out is below the rounding."""
STREAMS = {"lone": 0, "growing": 1}
"""A lone gradient among zeros; gradients that grow as the tight bound wants them."""
TINY = 1e-200
"""Adam's epsilon, where bounds are measured: nothing beside any gradient, and no 0 / 0."""
GRADIENTS = {
    "constant": (1.0, 0.0, 0.0),
    "alternating": (0.0, 1.0, 0.0),
    "noise": (0.0, 0.0, 1.0),
    "mean 0.1": (0.1, 0.0, 1.0),
    "mean 0.3": (0.3, 0.0, 1.0),
    "mean 1": (1.0, 0.0, 1.0),
    "mean 3": (3.0, 0.0, 1.0),
}
"""Streams of gradients: mean, size of what alternates, standard deviation of the noise."""
CURVATURES = np.geomspace(1.0, 100.0, 10)
NOISE_STD = 1.0
METHODS = ("SGD", "Nesterov", "AdaGrad", "Adam", "AMSGrad")
RARE = 0.012
"""Probability of the large loss. The paper's 0.01 leaves a mean slope of .2 among a noise of 100:
the best decision itself would be a matter of chance for a million steps; here the slope is 2.2."""
GAME_RATE = 0.5
RATES = (1e-3, 10.0)
"""The least and the largest rate to try."""
WINDOWS = 1000
"""Windows of a game in which the regret is taken."""
POINTS = 60
"""Times, at equal ratios, at which a run is reported."""


class Game(NamedTuple):
    """An online problem in the box [-1, 1]^n.

    Attributes:
        title: What it is called in the report.
        problem: The losses.
        b1, b2: Adam's decays in it.
        scale: The largest gradient, by which rates of SGD and Nesterov are divided, so that all
            methods are given steps of one order.
    """

    title: str
    problem: nj.Problem
    b1: float
    b2: float
    scale: float


def simulate(config: "Config") -> dict[str, "xr.Dataset"]:
    """Run every part; return name -> results."""
    return {
        "silence": silence(config),
        "bounds": bounds(config),
        "signal": signal(config),
        "early": early(config),
        "training": training(config),
        "counterexamples": counterexamples(config),
        "regret": regret(config),
    }


def given(shape: tuple[int, ...] = ()) -> nj.Problem:
    """Return the problem whose gradients are the recorded draws themselves."""
    return nj.Problem(
        init=lambda key: (jnp.zeros(shape), None),
        draw=lambda key: jax.random.normal(key, shape),
        observe=lambda draws, world: (draws, world),
        loss=lambda params, batch: jnp.sum(params * batch),
    )


def adam(rate, b1=B1, b2=B2, eps=1e-8, amsgrad=False, debias=True) -> Any:
    """Return Adam with every choice there is, measured."""
    scale = nj.scale_by_adam(b1, b2=b2, eps=eps, amsgrad=amsgrad, debias=debias)
    return nj.with_metrics(optax.chain(scale, nj.scale_by_learning_rate(rate)))


def silence(config: "Config") -> "xr.Dataset":
    """Measure the largest step over the rate, with bias correction, by when it is provoked."""
    lasts = np.unique(np.geomspace(1, config.silence, 25).round().astype(int))

    def run(stream, last):
        def draws(t):
            return burst(STREAMS[stream], last - 1 - t, B1, B2)

        metrics = measured(adam(1.0, eps=TINY), draws, config.silence)
        return {"step": jnp.nanmax(metrics.step_rms)}

    return nj.sweep(run, nj.Grid(stream=[*STREAMS], last=lasts), progress=False)


def bounds(config: "Config") -> "xr.Dataset":
    """Measure the same for other decays, as after endless silence: without bias correction."""

    def run(stream, b1, b2):
        def draws(t):
            return burst(STREAMS[stream], BURST - 1 - t, b1, b2)

        metrics = measured(adam(1.0, b1, b2, eps=TINY, debias=False), draws, BURST)
        return {"step": jnp.nanmax(metrics.step_rms)}

    decays = {"b1": [0.0, 0.5, 0.8, 0.9, 0.95], "b2": [0.95, 0.99, 0.999, 0.9999]}
    return nj.sweep(run, nj.Grid(stream=[*STREAMS], **decays), progress=False)


def burst(growing: int, left: jax.Array, b1: Any, b2: Any) -> jax.Array:
    """Return the gradient `left` steps before the last of a burst, which is 1; 0 outside it."""
    size = jnp.where(left == 0, 1.0, growing * (b1 / b2) ** jnp.maximum(left, 0))
    return jnp.where((left >= 0) & (left < BURST), size, 0.0)


def measured(tx: Any, draws: Callable, steps: int, shape: tuple[int, ...] = ()) -> nj.Metrics:
    """Return the metrics of every step down the recorded gradients `draws`."""
    initial = (jnp.zeros(shape), None)
    record = _metrics
    return nj.rollout(
        tx, given(shape), None, steps, stride=1, record=record, initial=initial, draws=draws
    ).records


def _metrics(params, opt_state):
    return nj.metrics_of(opt_state)


def times(steps: int) -> np.ndarray:
    """Return step counts from 1 to `steps` at equal ratios."""
    return np.unique(np.geomspace(1, steps, POINTS).round().astype(int))


def signal(config: "Config") -> "xr.Dataset":
    """Measure the signal-to-noise ratio down streams of gradients."""
    steps, shape = config.signal_steps, (config.dim,)
    at = times(steps)
    columns = zip(*GRADIENTS.values(), strict=True)
    mean, swing, noise = (jnp.asarray(column) for column in columns)

    def run(stream, b1, seed):
        key = jax.random.fold_in(jax.random.key(config.seed), seed)

        def draws(t):
            xi = jax.random.normal(jax.random.fold_in(key, t), shape)
            sign = 1.0 - 2.0 * (t % 2)
            return mean[stream] + swing[stream] * sign + noise[stream] * xi

        found = measured(adam(1.0, b1), draws, steps, shape)
        return {"ratio": found.signal_to_noise[at - 1], "step": found.step_rms[at - 1]}

    axes = {
        "stream": range(len(GRADIENTS)),
        "b1": [0.0, 0.5, 0.9, 0.99],
        "seed": range(config.seeds),
    }
    results = _timed(nj.sweep(run, nj.Grid(**axes), progress=False), at, "ratio", "step")
    return results.assign_coords(stream=[*GRADIENTS])


def early(config: "Config") -> "xr.Dataset":
    """Measure the step over the rate down a constant gradient, with and without correction."""
    at = times(config.early_steps)

    def run(debias, b2):
        tx = adam(1.0, b2=b2, debias=debias)
        return {"step": measured(tx, lambda t: jnp.ones(()), config.early_steps).step_rms[at - 1]}

    grid = nj.Grid(debias=[True, False], b2=[0.9, 0.99, 0.999, 0.9999])
    return _timed(nj.sweep(run, grid, progress=False), at, "step")


def training(config: "Config") -> "xr.Dataset":
    """Train on a noisy quadratic with and without bias correction."""
    steps, problem = config.training_steps, nj.quadratic(CURVATURES, noise_std=NOISE_STD)
    at = times(steps)

    def run(debias, b2, learning_rate, seed):
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        tx = adam(learning_rate, b2=b2, debias=debias)

        def record(params, opt_state):
            return 0.5 * jnp.sum(jnp.asarray(CURVATURES) * jnp.square(params))

        trace = nj.rollout(tx, problem, key, steps, stride=1, record=record)
        key_init, _ = jax.random.split(key)  # As `rollout` does.
        first = record(problem.init(key_init)[0], None)
        excess = trace.records
        return {"peak": jnp.max(excess) / first, "loss": excess[at - 1] / first}

    axes = {
        "b2": [0.99, 0.999, 0.9999],
        "learning_rate": np.geomspace(1e-3, 10.0, 17),
        "seed": range(config.seeds),
    }
    grid = nj.Grid(debias=[True, False], **axes)
    return _timed(nj.sweep(run, grid, progress=False), at, "loss")


def games(dim: int = 20, seed: int = 0) -> dict[str, Game]:
    """Return the online problems: three on which Adam does not converge, and two others."""
    rare = [[1010.0], [-10.0]]
    in_turn = nj.online_convex(rare[:1] + rare[1:] * 100)
    by_chance = nj.online_convex(rare, probabilities=[RARE, 1 - RARE])
    three = nj.online_convex([[4.0], [-1.0], [-1.0]])
    return {
        "period 101": Game("1010θ, then 100 times −10θ", in_turn, 0.9, 0.99, 1010.0),
        "period 3": Game("4θ, then twice −θ", three, 0.0, 1 / 17, 4.0),
        "by chance": Game("1010θ or −10θ, by chance", by_chance, 0.9, 0.99, 1010.0),
        "sparse": _sparse(dim, np.random.default_rng(seed)),
        "curved": _curved(dim, np.random.default_rng(seed + 1)),
    }


def _sparse(dim, rng):
    """Return linear losses of one coordinate a step: some come often, some are large."""
    frequency = 1 / np.arange(1, dim + 1)
    frequency /= frequency.sum()
    sizes = rng.permutation(np.geomspace(0.1, 10.0, dim))
    lean = 0.2 * rng.choice([-1.0, 1.0], dim)
    slopes = np.concatenate([np.diag(sizes), -np.diag(sizes)])
    probabilities = np.concatenate([frequency * (1 + lean), frequency * (1 - lean)]) / 2
    problem = nj.online_convex(slopes, probabilities=probabilities)
    return Game("linear, one coordinate a step", problem, B1, B2, 10.0)


def _curved(dim, rng, rows=100):
    """Return squared distances to scattered targets, of very different weights."""
    weights = rng.permutation(np.geomspace(0.1, 10.0, dim)) * rng.exponential(size=(rows, dim))
    targets = rng.uniform(-0.8, 0.8, dim) + rng.normal(size=(rows, dim))
    probabilities = np.full(rows, 1 / rows)
    problem = nj.online_convex(-weights * targets, weights, probabilities=probabilities)
    return Game("squared distances to targets", problem, B1, B2, 10.0)


def player(method: str, game: Game, rate: Any) -> Any:
    """Return a method that plays in [-1, 1]: rates as 1 / sqrt(t), no bias correction."""

    def falling(t):
        return rate / jnp.sqrt(t + 1.0)

    def slowly(t):
        return falling(t) / game.scale

    if method == "SGD":
        return boxed(nj.momentum(slowly, decay=0.0))
    if method == "Nesterov":
        return boxed(nj.nesterov(slowly, decay=0.9))
    if method == "AdaGrad":  # Its own sum makes the rate fall.
        return boxed(optax.adagrad(rate, initial_accumulator_value=0.0))
    scale = nj.scale_by_adam(game.b1, b2=game.b2, amsgrad=method == "AMSGrad", debias=False)
    return boxed(optax.chain(scale, nj.scale_by_learning_rate(falling)))


def boxed(tx: Any, radius: float = 1.0) -> Any:
    """Return `tx` followed by the projection onto the box, which is a clip in any diagonal norm."""

    def update(updates, state, params=None):
        steps, state = tx.update(updates, state, params)
        return jnp.clip(params + steps, -radius, radius) - jnp.asarray(params), state

    return optax.GradientTransformation(tx.init, update)


def play(game: Game, tx: Any, key: jax.Array, steps: int) -> dict[str, jax.Array]:
    """Return what is played, and the regret over the number of steps, in each of `WINDOWS`."""
    problem, stride = game.problem, steps // WINDOWS
    start = problem.init(key)
    draws = jax.vmap(problem.draw)(jax.random.split(key, steps))
    trace = nj.rollout(
        tx,
        problem,
        key,
        steps,
        stride=stride,
        record=lambda params, opt_state: params,
        initial=start,
        draws=draws,  # None where nothing is drawn.
    )

    def window(world, rows):
        def step(world, row):
            return problem.observe(row, world)[1], None

        world, _ = jax.lax.scan(step, world, rows, stride)
        return world, world

    rows = None if draws is None else draws.reshape(WINDOWS, stride)
    _, worlds = jax.lax.scan(window, start[1], rows, WINDOWS)
    lost = stride * jnp.cumsum(jnp.asarray(trace.loss_curve))
    played = stride * jnp.arange(1, WINDOWS + 1)
    return {"theta": trace.records, "regret": jax.vmap(OnlineWorld.regret)(worlds, lost) / played}


def counterexamples(config: "Config") -> "xr.Dataset":
    """Play the games on which Adam does not converge, at the rate .5 / sqrt(t)."""
    table, at = games(), times(WINDOWS)

    def run(game, optimizer, seed):
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        steps = config.short_game_steps if game == "period 3" else config.game_steps
        found = play(table[game], player(optimizer, table[game], GAME_RATE), key, steps)
        theta = found["theta"][:, 0]
        return {
            "theta": theta[at - 1],
            "regret": found["regret"][at - 1],
            "last": theta[-1],
            "steps": jnp.asarray(steps),
        }

    grid = nj.Grid(
        game=["period 101", "period 3", "by chance"], optimizer=METHODS, seed=range(config.seeds)
    )
    results = _timed(nj.sweep(run, grid, progress=False), at, "theta", "regret")
    # The same for every method and seed.
    results["steps"] = results.steps.isel(optimizer=0, seed=0)
    return results


def regret(config: "Config") -> "xr.Dataset":
    """Play at every rate of a grid; the first `tuning_seeds` are there to choose one by."""
    table, steps, at = games(config.online_dim), config.regret_steps, times(WINDOWS)

    def run(game, optimizer, learning_rate, seed):
        key = jax.random.fold_in(jax.random.key(config.seed), seed)
        found = play(table[game], player(optimizer, table[game], learning_rate), key, steps)
        return {"regret": found["regret"][at - 1]}

    grid = nj.Grid(
        game=["sparse", "curved", "by chance"],
        optimizer=METHODS,
        learning_rate=np.geomspace(*RATES, config.rates),
        seed=range(config.tuning_seeds + config.seeds),
    )
    results = _timed(nj.sweep(run, grid, progress=False), at * (steps // WINDOWS), "regret")
    results.attrs["tuning_seeds"] = config.tuning_seeds
    return results


def _timed(results: "xr.Dataset", at: np.ndarray, *names: str) -> "xr.Dataset":
    """Return `results` with the time axis of the arrays `names` under one name."""
    for name in names:
        results[name] = results[name].rename({f"{name}_0": "t"})
    return results.assign_coords(t=at)
