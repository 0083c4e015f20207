"""Further races: other models in mini-batches, and one pass over the images one at a time."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adam_vs_sgd.config import (
    BATCHES,
    DIVERGED,
    MOMENTA,
    ONLINE_RATES,
    RACE_RATES,
    UNTUNED,
    Config,
)
from experiments.adam_vs_sgd.methods import build, compared
from experiments.adam_vs_sgd.training import evaluate, network, start, sweep, train, training_set
from experiments.lab import Lab, data, models

if TYPE_CHECKING:
    import xarray as xr


class Race(NamedTuple):
    """A model and its loss.

    Attributes:
        model: The model.
        loss: (params, images, labels) -> mean loss.
    """

    model: models.Model
    loss: Callable[[Any, Any, Any], jax.Array]


RACES = ("logistic", "linear", "autoencoder")
"""Logistic regression, the network without activations, and an autoencoder."""


def race(config: Config, images: data.Images, name: str) -> Race:
    """Return one of `RACES`."""
    pixels = images.train_images.shape[1]
    if name == "autoencoder":
        model = models.autoencoder(pixels, (config.width,), max(config.width // 4, 1))
        return Race(model, lambda params, x, _: models.reconstruction(model, params, x))
    if name == "logistic":
        model = models.logistic(pixels, images.classes)
    else:
        model = network(config, images, activation=models.LINEAR)
    return Race(model, lambda params, x, y: evaluate(model, params, x, y)[0])


def races(config: Config, lab: Lab) -> "xr.Dataset":
    """Cross-validate every method on other models, at every rate and momentum.

    Returns:
        Over model, optimizer, learning_rate, momentum and fold: `loss` of the examples that the
        fold holds out, in nats or, for the autoencoder, as a squared error; `error`, the share
        that is misclassified, NaN for the autoencoder; `diverged`; `collapse`, for the linear
        network the largest difference between its outputs and those of the one layer that it
        equals, divided by the largest output, and otherwise NaN.
    """
    images = lab.images
    folds = nj.held_out_masks(len(images.train_labels), config.folds, seed=config.seed)
    held = len(images.train_labels) // config.folds
    entered = {name: race(config, images, name) for name in RACES}
    begun = {
        name: start(config, images, "races", config.folds, [one.model], one.loss)
        for name, one in entered.items()
    }

    def run(images, labels, folds, begun, *, model, optimizer, learning_rate, momentum, fold):
        (net, loss), started = entered[model], begun[model]
        problem = nj.classification(
            net.apply, net.init, images, labels, batch_size=BATCHES[0], folds=folds, fold=fold
        )
        problem = problem._replace(loss=lambda params, batch: loss(params, *batch))
        params = jax.tree.map(lambda x: x[0, fold], started.params)
        tx = build(config, optimizer, learning_rate, momentum)
        trace = train(config, tx, problem, params, started.draws[fold], BATCHES[0], curve=False)
        at = jnp.argsort(~folds[fold], stable=True)[:held]
        found, shown, nan = loss(trace.params, images[at], labels[at]), images[at], jnp.nan
        # Not `loss > bound`, which is false for NaN.
        diverged = ~(found <= DIVERGED * started.loss[0, fold])
        is_classifier = model != "autoencoder"
        return {
            "loss": found,
            "error": evaluate(net, trace.params, shown, labels[at])[1] if is_classifier else nan,
            "diverged": diverged,
            "collapse": collapse(net, trace.params, shown) if model == "linear" else nan,
        }

    grid = nj.Grid(
        model=[*RACES],
        optimizer=compared(config),
        learning_rate=RACE_RATES,
        momentum=MOMENTA,
        fold=range(config.folds),
    )
    return sweep(
        config, lab, "races", Partial(run, *training_set(images), jnp.asarray(folds), begun), grid
    )


def collapse(model: models.Model, params: Any, images: Any) -> jax.Array:
    """Return how far a linear network is from one layer, relative to its largest output."""
    weights, biases = models.collapsed(params)
    outputs = model.apply(params, images)
    return jnp.abs(outputs - (images @ weights + biases)).max() / jnp.abs(outputs).max()


def one_pass(config: Config, lab: Lab) -> "xr.Dataset":
    """Learn as many examples as there are training images, one at a time, at every rate.

    Returns:
        Over optimizer, learning_rate, replaced and seed: `loss`, the mean over all examples, each
        before it is learned; `diverged`. With `replaced` = 0 every image comes once, in random
        order; with 1 each is drawn anew from all. Rates are chosen on the first `tuning_seeds`
        seeds.
    """
    model, runs = network(config, lab.images), config.tuning_seeds + config.seeds
    passing = dataclasses.replace(config, examples=len(lab.images.train_labels))
    key = jax.random.fold_in(jax.random.key(config.seed), len("one pass"))
    orders = jax.vmap(lambda key: jax.random.permutation(key, passing.examples))(
        jax.random.split(key, runs)
    ).astype(jnp.uint32)

    def run(images, labels, start, orders, *, optimizer, learning_rate, replaced, seed):
        params = jax.tree.map(lambda x: x[0, seed], start.params)
        problem = nj.classification(model.apply, model.init, images, labels, batch_size=1)
        # Draws below the number of examples are positions.
        draws = jnp.where(replaced == 1, start.draws[seed], orders[seed])
        tx = build(config, optimizer, learning_rate, UNTUNED["momentum"])
        loss = train(passing, tx, problem, params, draws, 1, curve=False).mean_loss
        return {"loss": loss, "diverged": ~(loss <= start.loss[0, seed])}

    begun = start(passing, lab.images, "one_pass", runs)
    grid = nj.Grid(
        optimizer=compared(config), learning_rate=ONLINE_RATES, replaced=[0, 1], seed=range(runs)
    )
    height, width = lab.images.shape
    about = {
        "tuning_seeds": config.tuning_seeds,
        "images": len(lab.images.train_labels) + len(lab.images.test_labels),
        "training": passing.examples,
        "shape": f"{height} × {width}",
        "name": lab.images.name,
    }
    bound = Partial(run, *training_set(lab.images), begun, orders)
    return lab.sweep("one_pass", bound, grid).assign_attrs(about)
