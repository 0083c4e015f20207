"""The runs of Adam against SGD, each part a sweep."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adam_vs_sgd.config import (
    BATCHES,
    DIVERGED,
    INITIALISATIONS,
    MOMENTA,
    ONLINE_RATES,
    RACE_RATES,
    RATES,
    SCHEDULES,
    SPAN,
    UNTUNED,
    WARMUPS,
    WINDOW,
    Config,
)
from experiments.adam_vs_sgd.generalization import SPREAD, generalization
from experiments.adam_vs_sgd.methods import PAIR, build, compared
from experiments.adam_vs_sgd.numbers import ACTIVATED, tuned
from experiments.adam_vs_sgd.races import RACES, one_pass, races
from experiments.adam_vs_sgd.timing import timing
from experiments.adam_vs_sgd.training import evaluate, network, start, sweep, train, training_set
from experiments.lab import Lab, data, models

if TYPE_CHECKING:
    import xarray as xr


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Run all parts; return their results by name."""
    parts = (online, one_pass, tuning, schedules, activations, races, timing)
    results = {part.__name__: part(config, lab) for part in parts}
    # Last, when everything is chosen: only these see the test images.
    results["final"] = final(config, lab, results["tuning"])
    results["generalization"] = generalization(config, lab)
    return results


def online(config: Config, lab: Lab) -> "xr.Dataset":
    """Train one example at a time, at every learning rate, without and with penalty.

    Returns:
        Over optimizer, learning_rate, penalised (0 or 1) and seed: `curve`, mean losses of 200
        examples each, every example before it is learned; `loss`, their mean; `diverged`.
        Learning rates are chosen on the first `tuning_seeds` seeds and reported on the others.
    """
    model, runs = network(config, lab.images), config.tuning_seeds + config.seeds

    def run(images, labels, start, *, optimizer, learning_rate, penalised, seed):
        params = jax.tree.map(lambda x: x[0, seed], start.params)
        problem = nj.classification(model.apply, model.init, images, labels, batch_size=1)
        tx = build(config, optimizer, learning_rate, 0.9, penalised)
        trace = train(config, tx, problem, params, start.draws[seed], 1)
        # Not `loss > start`, which is false for NaN.
        last = jnp.mean(jnp.asarray(trace.loss_curve)[-WINDOW // SPAN :])
        diverged = ~(last <= start.loss[0, seed])
        return {"curve": trace.loss_curve, "loss": trace.mean_loss, "diverged": diverged}

    bound = Partial(run, *training_set(lab.images), start(config, lab.images, "online", runs))
    grid = nj.Grid(
        optimizer=compared(config),
        learning_rate=ONLINE_RATES,
        penalised=[0, 1],
        seed=range(runs),
    )
    about = {name: getattr(config, name) for name in ("tuning_seeds", "penalty", "weight_decay")}
    return lab.sweep("online", bound, grid).rename(curve_0="span").assign_attrs(about)


def tuning(config: Config, lab: Lab) -> "xr.Dataset":
    """Cross-validate every method at every rate, momentum, initialisation and batch size.

    Returns:
        Over optimizer, batch, learning_rate, momentum, initialisation and fold: `loss` and
        `error` of the examples that the fold holds out, and `diverged`.
    """
    grid = nj.Grid(
        optimizer=compared(config),
        batch=[str(size) for size in BATCHES[: config.batch_sizes]],
        learning_rate=RATES,
        momentum=MOMENTA,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return sweep(config, lab, "tuning", _validated(config, lab.images), grid)


def schedules(config: Config, lab: Lab) -> "xr.Dataset":
    """Cross-validate SGD and Adam at every rate, schedule, warm-up and initialisation.

    Returns:
        As `tuning`, over optimizer, learning_rate, schedule, warmup, initialisation and fold.
    """
    grid = nj.Grid(
        optimizer=[*PAIR],
        learning_rate=RATES,
        schedule=range(len(SCHEDULES)),
        warmup=WARMUPS,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return sweep(config, lab, "schedules", _validated(config, lab.images), grid)


def scheduled(rate: Any, schedule: Any, warmup: Any, steps: int) -> Callable[[Any], Any]:
    """Return a learning rate that follows one of `SCHEDULES`, whose index may be traced.

    Args:
        rate: The largest learning rate.
        schedule: An index of `SCHEDULES`.
        warmup: Share of the steps in which the rate rises.
        steps: Number of steps of the run.
    """
    kinds = nj.constant(steps), nj.cosine(steps), nj.step_drop(steps)
    chosen = nj.Schedule(
        lambda step: jnp.stack([kind(step) for kind in kinds])[schedule], kinds[0].cycle_steps
    )
    warmed = nj.with_warmup(chosen, jnp.floor(warmup * steps))
    return lambda step: rate * warmed(step)


def activations(config: Config, lab: Lab) -> "xr.Dataset":
    """Cross-validate activations at every rate and initialisation; relu is part of `tuning`."""
    grid = nj.Grid(
        activation=[word for word in models.ACTIVATIONS if word != "relu"],
        optimizer=[*ACTIVATED],
        learning_rate=RATES,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return sweep(config, lab, "activations", _validated(config, lab.images), grid)


def _validated(config: Config, images: data.Images) -> Partial:
    """Return the function that trains without a fold and evaluates on it."""
    folds = nj.held_out_masks(len(images.train_labels), config.folds, seed=config.seed)
    held = len(images.train_labels) // config.folds
    networks = {word: network(config, images, activation=word) for word in models.ACTIVATIONS}

    def run(images, labels, folds, start, *, optimizer, learning_rate, initialisation, fold,
            momentum=0.9, batch=UNTUNED["batch"], activation="relu",
            schedule=None, warmup=0.0):  # fmt: skip
        model, size = networks[activation], int(batch)
        if schedule is not None:
            steps = config.examples // size
            learning_rate = scheduled(learning_rate, schedule, warmup, steps)
        params = jax.tree.map(lambda x: x[initialisation, fold], start.params)
        problem = nj.classification(
            model.apply, model.init, images, labels, batch_size=size, folds=folds, fold=fold
        )
        tx = build(config, optimizer, learning_rate, momentum)
        trace = train(config, tx, problem, params, start.draws[fold], size, curve=False)
        # Folds differ by at most one example; all are evaluated on equally many.
        at = jnp.argsort(~folds[fold], stable=True)[:held]
        loss, error = evaluate(model, trace.params, images[at], labels[at])
        # Slow training, too, may end a little above the loss that it began with on other images.
        diverged = ~(loss <= DIVERGED * start.loss[initialisation, fold])
        return {"loss": loss, "error": error, "diverged": diverged}

    begun = start(config, images, "tuning", config.folds)
    return Partial(run, *training_set(images), jnp.asarray(folds), begun)


def final(config: Config, lab: Lab, validated: "xr.Dataset") -> "xr.Dataset":
    """Train every method, tuned, on all training images, and evaluate it on the test images.

    Args:
        config: The options.
        lab: Where it runs.
        validated: The results of `tuning`.

    Returns:
        Over optimizer and seed: `curve`, mean losses of 200 examples each; `train_loss`,
        `train_error`, `test_loss`, `test_error` after training.
    """
    model, settings = network(config, lab.images), tuned(validated)

    def run(examples, test, start, *, optimizer, seed):
        setting = settings[optimizer]
        params = jax.tree.map(lambda x: x[setting["initialisation"], seed], start.params)
        size = int(setting["batch"])
        problem = nj.classification(model.apply, model.init, *examples, batch_size=size)
        tx = build(config, optimizer, setting["learning_rate"], setting["momentum"])
        trace = train(config, tx, problem, params, start.draws[seed], size)
        found = {"curve": trace.loss_curve}
        for name, part in (("train", examples), ("test", test)):
            loss, error = evaluate(model, trace.params, *part)
            found |= {f"{name}_loss": loss, f"{name}_error": error}
        return found

    test = jnp.asarray(lab.images.test_images), jnp.asarray(lab.images.test_labels)
    begun = start(config, lab.images, "final", config.seeds)
    grid = nj.Grid(optimizer=compared(config), seed=range(config.seeds))
    bound = Partial(run, training_set(lab.images), test, begun)
    return lab.sweep("final", bound, grid).rename(curve_0="span")


def estimate(config: Config, lab: Lab) -> float:
    """Return about how many seconds all runs take here, measured on a few short ones."""
    runs = len(INITIALISATIONS) * config.folds
    axes = {"initialisation": range(len(INITIALISATIONS)), "fold": range(config.folds)}
    grid = nj.Grid(optimizer=["adam"], learning_rate=RATES[:1], **axes)
    seconds = []
    for examples in (2 * SPAN, 12 * SPAN):
        shorter = dataclasses.replace(config, examples=examples)
        swept = nj.sweep(_validated(shorter, lab.images), grid, progress=False)
        seconds.append(swept.attrs["run_seconds"])
    an_example = max(seconds[1] - seconds[0], 0.0) / (10 * SPAN * runs)
    methods = len(compared(config))
    in_batches = methods * config.batch_sizes * len(RATES) * len(MOMENTA) * runs
    others = (len(models.ACTIVATIONS) - 1) * len(ACTIVATED) * len(RATES) * runs
    others += len(PAIR) * len(RATES) * len(SCHEDULES) * len(WARMUPS) * runs
    others += len(RACES) * methods * len(RACE_RATES) * len(MOMENTA) * config.folds
    others += len(SPREAD) * len(RATES) * config.batch_sizes * config.splits
    # An example costs many times as much one at a time as in mini-batches.
    alone = 10 * methods * len(ONLINE_RATES) * 2 * (config.tuning_seeds + config.seeds)
    once = alone * len(lab.images.train_labels) / config.examples
    return config.examples * an_example * (in_batches + others + alone + once)
