"""The runs of Adam against SGD, each part a sweep with a store of its own."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import nested_jax as nj
from experiments import _command, _data, _models
from experiments._adam_vs_sgd_methods import METHODS, PAIR, optimizer

if TYPE_CHECKING:
    import xarray as xr

    from experiments.adam_vs_sgd import Config

INITIALISATIONS = ("he", "glorot", "small")
MOMENTA = (0.5, 0.9, 0.97)
BATCHES = (50, 10, 200)
"""The first is the untuned one."""
RATES = 10.0 ** (np.arange(-8, 2) / 2)
"""In mini-batches: half decades from .0001 to 3.16."""
ONLINE_RATES = 10.0 ** (np.arange(-8, 0) / 2)
"""One example at a time: to .316."""
UNTUNED = {"learning_rate": 1e-3, "momentum": 0.9, "initialisation": 0, "batch": str(BATCHES[0])}
"""Rate of the notes, and customary constants."""
WINDOW = 1000
"""Examples of a running mean."""
SPAN = 200
"""Examples of a point of a loss curve; a multiple of every batch size."""
PURPOSES = ("online", "tuning", "final", "timing")
"""Each part has random numbers of its own."""
DIVERGED = 1.5
"""A validation loss of so many times the untrained network's."""
EVALUATED = 2000
"""Examples that are evaluated at once."""


ACTIVATED = ("momentum", "adam")
"""Methods under which activations are compared."""


def simulate(config: "Config", images: _data.Images) -> dict[str, "xr.Dataset"]:
    """Run every part that is not stored; return name -> results."""
    from experiments import _adam_vs_sgd_timing  # Which needs this module.

    results = {}
    for part in (online, tuning, activations):
        results[part.__name__] = part(config, images)
        _command.tell(part.__name__, results[part.__name__])
    results["timing"] = _adam_vs_sgd_timing.timing(config, images)
    # At the end, once everything is chosen: the only part that sees the test examples.
    results["final"] = final(config, images, tuned(results["tuning"]))
    return results


def network(config: "Config", images: _data.Images, **words: str) -> _models.Model:
    """Return the network."""
    pixels = images.train_images.shape[1]
    return _models.mlp(pixels, (config.width,) * config.depth, images.classes, **words)


class Start(NamedTuple):
    """What runs of one index have in common, whatever is compared.

    Attributes:
        params: The network's weights, with leading axes for initialisations and runs.
        loss: Their loss on the training images, likewise.
        draws: Random words of shape (runs, examples): the examples that are learned, in order.
    """

    params: Any
    loss: jax.Array
    draws: jax.Array


def start(config: "Config", images: _data.Images, purpose: str, runs: int) -> Start:
    """Draw weights and examples for a number of runs."""
    models = [network(config, images, initialisation=word) for word in INITIALISATIONS]
    examples = training(images)

    @jax.jit
    def drawn(key):
        key_params, key_draws = jax.random.split(jax.random.fold_in(key, PURPOSES.index(purpose)))
        keys = jax.random.split(key_params, runs)
        trees = [jax.vmap(model.init)(keys) for model in models]
        params = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        losses = [jax.lax.map(lambda p: evaluate(models[0], p, *examples)[0], x) for x in trees]
        # Drawn once and not step by step: programs are smaller and batches share the order.
        draws = jax.random.bits(key_draws, (runs, config.examples), jnp.uint32)
        return Start(params, jnp.stack(losses), draws)

    return drawn(jax.random.key(config.seed))


def train(
    config: "Config",
    tx: optax.GradientTransformation,
    problem: nj.Problem,
    params: Any,
    draws: jax.Array,
    size: int,
    curve: bool = True,
) -> nj.Rollout:
    """Train on all examples, `size` a step."""
    steps = config.examples // size
    stride = SPAN // size if curve else None
    draws = draws.reshape(steps, size)
    return nj.rollout(tx, problem, None, steps, stride=stride, initial=(params, None), draws=draws)


def evaluate(model: _models.Model, params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Return the mean cross-entropy and the share of errors, a part of the examples at a time."""

    def of_some(images, labels):
        logits = model.apply(params, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = jnp.isfinite(logits).all(1) & (jnp.argmax(logits, 1) == labels)
        return losses, ~right

    if len(labels) <= EVALUATED:  # A smaller program.
        losses, wrong = of_some(images, labels)
    else:
        losses, wrong = jax.lax.map(
            lambda example: jax.tree.map(lambda x: x[0], of_some(*(x[None] for x in example))),
            (images, labels),
            batch_size=EVALUATED,
        )
    return jnp.mean(losses), jnp.mean(wrong, dtype=losses.dtype)


def training(images: _data.Images) -> tuple[jax.Array, jax.Array]:
    """Return the training images and labels."""
    return jnp.asarray(images.train_images), jnp.asarray(images.train_labels)


def _sweep(config: "Config", run: Partial, grid: nj.Grid, part: str) -> "xr.Dataset":
    return nj.sweep(run, grid, store=config.out / "store" / part)


def online(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Train one example at a time, at every rate, without and with penalty.

    Returns:
        Over optimizer, learning_rate, penalised (0 or 1) and seed: `curve`, mean losses of 200
        examples each, every example before it is learned; `loss`, their mean; `diverged`.
        The first `tuning_seeds` seeds are there to choose rates by, the others to report.
    """
    model, runs = network(config, images), config.tuning_seeds + config.seeds

    def run(images, labels, start, *, optimizer_name, learning_rate, penalised, seed):
        params = jax.tree.map(lambda x: x[0, seed], start.params)
        problem = nj.classification(model.apply, model.init, images, labels, batch_size=1)
        tx = optimizer(config, optimizer_name, learning_rate, 0.9, penalised)
        trace = train(config, tx, problem, params, start.draws[seed], 1)
        # Not `loss > start`, which is false for NaN.
        last = jnp.mean(jnp.asarray(trace.loss_curve)[-WINDOW // SPAN :])
        diverged = ~(last <= start.loss[0, seed])
        return {"curve": trace.loss_curve, "loss": trace.mean_loss, "diverged": diverged}

    bound = Partial(run, *training(images), start(config, images, "online", runs))
    grid = nj.Grid(
        optimizer_name=[*METHODS] if config.online == "all" else [*PAIR],
        learning_rate=ONLINE_RATES,
        penalised=[0, 1],
        seed=range(runs),
    )
    about = {name: getattr(config, name) for name in ("tuning_seeds", "penalty", "weight_decay")}
    return _named(_sweep(config, bound, grid, "online"), curve_0="span").assign_attrs(about)


def tuning(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Cross-validate every method at every rate, momentum, initialisation and batch size.

    Returns:
        Over optimizer, batch, learning_rate, momentum, initialisation and fold: `loss` and
        `error` of the examples that the fold holds out, and `diverged`.
    """
    grid = nj.Grid(
        optimizer_name=[*METHODS],
        batch=[str(size) for size in BATCHES[: config.batch_sizes]],
        learning_rate=RATES,
        momentum=MOMENTA,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return _named(_sweep(config, _validated(config, images), grid, "tuning"))


def activations(config: "Config", images: _data.Images) -> "xr.Dataset":
    """Cross-validate activations at every rate and initialisation; relu is part of `tuning`."""
    grid = nj.Grid(
        activation=[word for word in _models.ACTIVATIONS if word != "relu"],
        optimizer_name=[*ACTIVATED],
        learning_rate=RATES,
        initialisation=range(len(INITIALISATIONS)),
        fold=range(config.folds),
    )
    return _named(_sweep(config, _validated(config, images), grid, "activations"))


def _validated(config, images):
    """Return the function that trains without a fold and evaluates on it."""
    folds = nj.held_out_masks(len(images.train_labels), config.folds, seed=config.seed)
    held = len(images.train_labels) // config.folds
    models = {word: network(config, images, activation=word) for word in _models.ACTIVATIONS}

    def run(images, labels, folds, start, *, optimizer_name, learning_rate, initialisation, fold,
            momentum=0.9, batch=UNTUNED["batch"], activation="relu"):  # fmt: skip
        model, size = models[activation], int(batch)
        params = jax.tree.map(lambda x: x[initialisation, fold], start.params)
        problem = nj.classification(
            model.apply, model.init, images, labels, batch_size=size, folds=folds, fold=fold
        )
        tx = optimizer(config, optimizer_name, learning_rate, momentum)
        trace = train(config, tx, problem, params, start.draws[fold], size, curve=False)
        # All folds hold out as many, to one example.
        at = jnp.argsort(~folds[fold], stable=True)[:held]
        loss, error = evaluate(model, trace.params, images[at], labels[at])
        # Slow training, too, may end a little above the loss that it began with on other images.
        diverged = ~(loss <= DIVERGED * start.loss[initialisation, fold])
        return {"loss": loss, "error": error, "diverged": diverged}

    begun = start(config, images, "tuning", config.folds)
    return Partial(run, *training(images), jnp.asarray(folds), begun)


def _named(results, **dims):
    """Return the results under the names that reports know."""
    results = results.rename(optimizer_name="optimizer", **dims)
    return results.assign_attrs(
        axes=["optimizer" if axis == "optimizer_name" else axis for axis in results.attrs["axes"]]
    )


def tuned(tuning: "xr.Dataset") -> dict[str, dict[str, Any]]:
    """Return each method's settings of least mean validation loss."""
    return {str(name): chosen(tuning.sel(optimizer=name)) for name in tuning.optimizer.values}


def chosen(results: "xr.Dataset") -> dict[str, Any]:
    """Return the settings of least mean validation loss, by axis."""
    best = nj.best_point(results, by="loss", over="fold")
    return {name: best[name].item() for name in UNTUNED if name in best.coords}


def final(
    config: "Config", images: _data.Images, settings: dict[str, dict[str, Any]]
) -> "xr.Dataset":
    """Train every method at its settings on all training examples, and look at the test.

    Returns:
        Over optimizer and seed: `curve`, mean losses of 200 examples each; `train_loss`,
        `train_error`, `test_loss`, `test_error` in the end.
    """
    model = network(config, images)

    def run(examples, test, start, *, optimizer_name, seed):
        setting = settings[optimizer_name]
        params = jax.tree.map(lambda x: x[setting["initialisation"], seed], start.params)
        size = int(setting["batch"])
        problem = nj.classification(
            model.apply, model.init, examples[0], examples[1], batch_size=size
        )
        rate, momentum = setting["learning_rate"], setting["momentum"]
        tx = optimizer(config, optimizer_name, rate, momentum)
        trace = train(config, tx, problem, params, start.draws[seed], size)
        found = {}
        for name, part in (("train", examples), ("test", test)):
            loss, error = evaluate(model, trace.params, *part)
            found |= {f"{name}_loss": loss, f"{name}_error": error}
        return {"curve": trace.loss_curve, **found}

    test = jnp.asarray(images.test_images), jnp.asarray(images.test_labels)
    bound = Partial(run, training(images), test, start(config, images, "final", config.seeds))
    grid = nj.Grid(optimizer_name=[*METHODS], seed=range(config.seeds))
    return _named(_sweep(config, bound, grid, "final"), curve_0="span")


def estimate(config: "Config", images: _data.Images) -> float:
    """Return about how many seconds all trainings take here, from a few of a few examples."""
    runs = len(INITIALISATIONS) * config.folds
    seconds = []
    for examples in (2 * SPAN, 12 * SPAN):
        shorter = dataclasses.replace(config, examples=examples)
        grid = nj.Grid(
            optimizer_name=["adam"],
            learning_rate=RATES[:1],
            initialisation=range(len(INITIALISATIONS)),
            fold=range(config.folds),
        )
        swept = nj.sweep(_validated(shorter, images), grid, progress=False)
        seconds.append(swept.attrs["run_seconds"])
    an_example = max(seconds[1] - seconds[0], 0.0) / (10 * SPAN * runs)
    tuned = len(METHODS) * config.batch_sizes * len(RATES) * len(MOMENTA) * runs
    compared = (len(_models.ACTIVATIONS) - 1) * len(ACTIVATED) * len(RATES) * runs
    # An example a step costs many times as much as in mini-batches.
    alone = 10 * len(METHODS) * len(ONLINE_RATES) * 2 * (config.tuning_seeds + config.seeds)
    return config.examples * an_example * (tuned + compared + alone)
