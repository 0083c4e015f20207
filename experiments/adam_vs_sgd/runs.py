"""The runs of Adam against SGD, each part a sweep."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adam_vs_sgd.config import (
    BATCHES,
    INITIALISATIONS,
    MOMENTA,
    ONLINE_RATES,
    RATES,
    SPAN,
    UNTUNED,
    WINDOW,
    Config,
)
from experiments.adam_vs_sgd.methods import METHODS, PAIR, build
from experiments.adam_vs_sgd.numbers import ACTIVATED, tuned
from experiments.adam_vs_sgd.timing import timing
from experiments.adam_vs_sgd.training import evaluate, network, start, train, training_set
from experiments.lab import Lab, data, models

if TYPE_CHECKING:
    import xarray as xr

DIVERGED = 1.5
"""A run with a validation loss above this times the untrained network's has diverged."""


def simulate(config: Config, lab: Lab) -> dict[str, "xr.Dataset"]:
    """Run all parts; return their results by name."""
    results = {part.__name__: part(config, lab) for part in (online, tuning, activations, timing)}
    # Last, when everything is chosen: the only part that sees the test images.
    results["final"] = final(config, lab, results["tuning"])
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
        optimizer=[*METHODS] if config.online == "all" else [*PAIR],
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
        optimizer=[*METHODS],
        batch=[str(size) for size in BATCHES[: config.batch_sizes]],
        learning_rate=RATES,
        momentum=MOMENTA,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return lab.sweep("tuning", _validated(config, lab.images), grid)


def activations(config: Config, lab: Lab) -> "xr.Dataset":
    """Cross-validate activations at every rate and initialisation; relu is part of `tuning`."""
    grid = nj.Grid(
        activation=[word for word in models.ACTIVATIONS if word != "relu"],
        optimizer=[*ACTIVATED],
        learning_rate=RATES,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return lab.sweep("activations", _validated(config, lab.images), grid)


def _validated(config: Config, images: data.Images) -> Partial:
    """Return the function that trains without a fold and evaluates on it."""
    folds = nj.held_out_masks(len(images.train_labels), config.folds, seed=config.seed)
    held = len(images.train_labels) // config.folds
    networks = {word: network(config, images, activation=word) for word in models.ACTIVATIONS}

    def run(images, labels, folds, start, *, optimizer, learning_rate, initialisation, fold,
            momentum=0.9, batch=UNTUNED["batch"], activation="relu"):  # fmt: skip
        model, size = networks[activation], int(batch)
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
    grid = nj.Grid(optimizer=[*METHODS], seed=range(config.seeds))
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
    in_batches = len(METHODS) * config.batch_sizes * len(RATES) * len(MOMENTA) * runs
    compared = (len(models.ACTIVATIONS) - 1) * len(ACTIVATED) * len(RATES) * runs
    # An example costs many times as much one at a time as in mini-batches.
    alone = 10 * len(METHODS) * len(ONLINE_RATES) * 2 * (config.tuning_seeds + config.seeds)
    return config.examples * an_example * (in_batches + compared + alone)
