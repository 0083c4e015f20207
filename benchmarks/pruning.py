"""What it saves to stop runs of a sweep early, side by side in one run with the whole sweep.

The command: `python -m benchmarks.pruning`.

Two sweeps. The first trains a network of three hidden layers at learning rates of which two in five
diverge within the first tenth of the steps; `diverged` stops them. The second is a heatmap of 11
learning rates, 12 weight decays and 10 seeds, the training of `examples/heatmap.py` in stages;
`halving` keeps a third of the cells at each rung. Compilation does not count: a first call of each
compiles, later ones take turns, and the minimum of their `run_seconds` counts. The whole sweep
computes a chunk in one program, without a look in between.

About 5 minutes on 2 idle CPU cores. Expected: the first at most 0.70 times, the second at most 0.40
times as long as the whole sweep; the runs that are left have the bits of a sweep in the same chunks
that stops none; the cell that halving finds has a mean loss within the interval of the best one's
seeds.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
import xarray
from flax import linen as nn

import nested_jax as nj
from benchmarks import _report

WHOLE, STOPPED = "whole", "stopped"
# The most that a sweep with stopping should take of the whole one.
MOST_DIVERGED, MOST_HALVING = 0.70, 0.40
LOST = 0.4
BOUND = 1e6
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Config:
    """Time sweeps that stop runs against whole ones."""

    rates: int = 40
    """Learning rates of the first sweep, of which two in five diverge; each with 10 seeds."""
    steps: int = 1_000
    """Steps of each of its runs, in 10 stages."""
    heatmap_steps: int = 900
    """Steps of each of the 1,320 runs of the heatmap, in 9 stages."""
    repeats: int = 2
    """Later calls of each, of which the minimum counts."""
    out: Path | None = None
    """JSON file to write the times to."""


def main(config: Config) -> None:
    """Measure both in turn and print the ratios."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    seconds: dict[str, dict[str, list[float]]] = {}
    ratios, found = {}, {}
    for name, (run, grid, stop, check) in _sweeps(config).items():
        times: dict[str, list[float]] = {WHOLE: [], STOPPED: []}
        results: dict[str, xarray.Dataset] = {}
        for i in range(1 + config.repeats):
            for way, rule in ((WHOLE, None), (STOPPED, stop)):
                results[way] = nj.sweep(run, grid, stop=rule, progress=False)
                if i:
                    times[way].append(results[way].attrs["run_seconds"])
        seconds[name] = times
        ratios[f"{name}, {STOPPED} / {WHOLE}"] = min(times[STOPPED]) / min(times[WHOLE])
        found[name] = check(**results)
        shown = ", ".join(f"{way}: {min(t):.2f} s" for way, t in times.items())
        print(f"{name}: {grid.size:,} runs, {shown}; {found[name]}")
    goals = dict(zip(ratios, (MOST_DIVERGED, MOST_HALVING), strict=True))
    _report.finish(config, _report.record(config, ratios, goals, seconds, found=found))


def _sweeps(config: Config) -> dict[str, Any]:
    # Not before: the example makes arrays, which settles the number of devices. Not later: a trace
    # would keep them.
    import examples.heatmap

    hidden = [layer for _ in range(3) for layer in (nn.Dense(64), nn.relu)]
    deep = nn.Sequential([*hidden, nn.Dense(10)])
    stable = round((1 - LOST) * config.rates)
    slow = np.geomspace(1e-3, 1e-1, stable)
    fast = np.geomspace(10.0, 100.0, config.rates - stable)
    rates = nj.Grid(learning_rate=np.concatenate([slow, fast]), seed=range(10))
    cells = nj.Grid(
        learning_rate=nj.powers_of_two(-10, 0),
        weight_decay=nj.powers_of_two(-13, -2),
        seed=range(10),
    )

    def descent(learning_rate, seed):
        return _training(deep, nj.momentum(learning_rate), seed, config.steps, 10, squared)

    def adamw(learning_rate, weight_decay, seed):
        schedule = nj.cosine(config.heatmap_steps)
        tx = nj.adamw(learning_rate, weight_decay=weight_decay, schedule=schedule)
        model = examples.heatmap.model
        return _training(model, tx, seed, config.heatmap_steps, 9, entropy)

    diverged = nj.sweeps.diverged("loss", bound=BOUND, over="seed")
    halving = nj.sweeps.halving("loss", factor=3, over="seed")
    return {
        "diverging rates": (
            descent,
            rates,
            diverged,
            functools.partial(_same_bits, descent, rates),
        ),
        "heatmap by halving": (adamw, cells, halving, _best_cell),
    }


def squared(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return a loss that a large rate drives to infinity, by the biases alone."""
    return jnp.sum((logits - jax.nn.one_hot(labels, 10)) ** 2, -1) / 2


entropy = optax.softmax_cross_entropy_with_integer_labels


def _training(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: Any,
    steps: int,
    stages: int,
    losses: Any,
) -> nj.Stages:
    """Return the training of `examples/heatmap.py`, of any model, in stages."""
    from examples import heatmap as example

    key_model, key_batches = jax.random.split(jax.random.key(seed))

    def loss(params, examples):
        logits = model.apply(params, example.images[examples] / 16)
        return losses(logits, example.labels[examples]).mean()

    def init():
        params = model.init(key_model, example.images[:1])
        return params, tx.init(params)

    def step(carry, batch):
        params, state = carry
        update, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, update), state), None

    def advance(carry, stage):
        key, shape = jax.random.fold_in(key_batches, stage), (steps // stages, 64)
        return jax.lax.scan(step, carry, jax.random.choice(key, example.train, shape))[0]

    def report(carry):
        return {"loss": loss(carry[0], example.test), "zero": 0.0}

    return nj.Stages(init, advance, report, stages=stages)


def _same_bits(
    run: Any, grid: nj.Grid, whole: xarray.Dataset, stopped: xarray.Dataset
) -> dict[str, float]:
    """Raise if stopping some runs changed bits of the others; return their share.

    The whole sweep has chunks of another shape, whose roundings may differ.
    """
    never = nj.sweeps.diverged("zero", over="seed")
    same_chunks = nj.sweep(run, grid, stop=never, chunk=stopped.attrs["chunk"], progress=False)
    left = stopped.stopped_because.values == ""
    np.testing.assert_array_equal(same_chunks.loss.values[left], stopped.loss.values[left])
    off = abs(whole.loss.values[left] / stopped.loss.values[left] - 1).max()
    return {"left": float(left.mean()), "furthest from the whole sweep": float(off)}


def _best_cell(whole: xarray.Dataset, stopped: xarray.Dataset) -> dict[str, float]:
    """Return how the cell that halving found does in the whole sweep, beside the best one."""
    axes = ("learning_rate", "weight_decay")
    best, chosen = (nj.best_point(each, over="seed") for each in (whole, stopped))
    at = whole.loss.sel({name: best[name] for name in axes}).values
    there = float(whole.loss.sel({name: chosen[name] for name in axes}).mean())
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, at.size - 1) * at.std(ddof=1) / at.size**0.5
    same = all(bool(best[name] == chosen[name]) for name in axes)
    if not (same or there <= at.mean() + half):
        raise AssertionError(
            f"Halving found {there:.4f}; the best is {at.mean():.4f} ± {half:.4f}."
        )
    return {"best": float(at.mean()), "± of its seeds": float(half), "of the cell found": there}


if __name__ == "__main__":
    import tyro  # Not above: `benchmarks.gpu` does without.

    main(tyro.cli(Config))
