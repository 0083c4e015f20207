"""Runs on a small network that learns images: a fresh Adam on trained weights, and a ladder."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adam.config import WINDOW, Config
from experiments.adam.corrections import EPS, WARMUP
from experiments.adam.tools import B1, B2, adam, key_of, timed
from experiments.lab import Lab, models
from experiments.lab.data import Images
from nested_jax.problems import ClassificationBatch

if TYPE_CHECKING:
    import xarray as xr

TRAINED_RATE = 1e-3
"""The learning rate of training before a restart."""
RESTART_RATES = (1e-3, 1e-2)
RESTART_STEPS = 200
EPSILONS = np.geomspace(1e-10, 1.0, 6)
BATCHES = 100
"""Number of batches over which the size of a gradient is averaged."""
EVALUATED = 360
"""Number of training images on which a loss is computed during a run."""
LADDER = ("AdaGrad", "RMSProp", "+ bias correction", "+ momentum = Adam")
"""Methods, each with one difference to the one before it."""
LADDER_RATES = np.geomspace(1e-4, 1.0, 9)


def network(config: Config, images: Images, train: Any) -> tuple[models.Model, nj.Problem]:
    """Return the network and the problem of learning images."""
    model = models.mlp(images.train_images.shape[1], (config.hidden,), images.classes)
    size = config.batch_size
    return model, nj.classification(model.apply, model.init, *train, batch_size=size)


def train_of(images: Images) -> tuple[Any, Any]:
    """Return the training images and their labels."""
    return images.train_images, images.train_labels


def evaluated(problem: nj.Problem, train: Any) -> Any:
    """Return what computes the loss on some of the training images."""
    batch = ClassificationBatch(*(part[:EVALUATED] for part in train))
    return lambda params, opt_state=None: problem.loss(params, batch)


def restart(config: Config, lab: Lab) -> "xr.Dataset":
    """Train a network; go on with a fresh Adam, with and without warm-up, and record the loss."""
    images = lab.images

    def trained(train: Any, *, seed: Any) -> dict[str, Any]:
        _, problem = network(config, images, train)
        key = key_of(config, seed)
        tx = nj.adam(TRAINED_RATE, eps=EPS)
        params = nj.rollout(tx, problem, key, config.pretraining_steps).params

        def squares(key: Any) -> Any:
            batch, _ = problem.observe(problem.draw(key), None)
            return jnp.mean(jnp.square(ravel_pytree(jax.grad(problem.loss)(params, batch))[0]))

        keys = jax.random.split(jax.random.fold_in(key, config.pretraining_steps), BATCHES)
        gradient = jnp.sqrt(jnp.mean(jax.lax.map(squares, keys)))
        return {"weights": ravel_pytree(params)[0], "gradient": gradient}

    def restarted(train: Any, weights: Any, *, seed: Any, **options: Any) -> dict[str, Any]:
        model, problem = network(config, images, train)
        _, tree_of = ravel_pytree(model.init(jax.random.key(0)))
        params, loss = tree_of(weights[seed]), evaluated(problem, train)
        ramp = nj.with_warmup(nj.constant(RESTART_STEPS), options["warmup"])
        tx = adam(options["learning_rate"], eps=options["eps"], schedule=ramp)
        key = jax.random.fold_in(key_of(config, seed), 1)
        start, steps = (params, None), RESTART_STEPS
        trace = nj.rollout(tx, problem, key, steps, initial=start, stride=1, record=loss)
        return {"peak": jnp.max(trace.records) / loss(params), "start": loss(params)}

    train, seeds = train_of(images), range(config.seeds)
    before = lab.sweep("restart", Partial(trained, train), nj.Grid(seed=seeds), piece="trained")
    weights = before.weights.transpose("seed", ...).values
    axes = {"learning_rate": RESTART_RATES, "eps": EPSILONS, "warmup": [0, WARMUP]}
    bound, grid = Partial(restarted, train, weights), nj.Grid(**axes, seed=seeds)
    after = lab.sweep("restart", bound, grid, piece="restarted")
    return after.assign(gradient=before.gradient)


def ladder(config: Config, lab: Lab) -> "xr.Dataset":
    """Train with each method of the ladder at many rates; `tuning_seeds` choose one."""
    images, steps = lab.images, config.network_steps

    def run(train: Any, *, optimizer: str, learning_rate: Any, seed: Any) -> dict[str, Any]:
        _, problem = network(config, images, train)
        tx, key = rung(optimizer, learning_rate), key_of(config, seed)
        record = evaluated(problem, train)
        trace = nj.rollout(tx, problem, key, steps, stride=WINDOW, record=record)
        last = problem.loss(trace.params, ClassificationBatch(*train))
        return {"loss": trace.records, "last": last}

    axes = {"optimizer": LADDER, "learning_rate": LADDER_RATES}
    grid = nj.Grid(**axes, seed=range(config.tuning_seeds + config.seeds))
    results = lab.sweep("ladder", Partial(run, train_of(images)), grid)
    results = timed(results, np.arange(WINDOW, steps + 1, WINDOW))
    return results.assign_attrs(tuning_seeds=config.tuning_seeds)


def rung(method: str, rate: Any) -> Any:
    """Return a method of the ladder: each has one difference to the one before it."""
    if method == LADDER[0]:  # The root of the sum of squares; RMSProp has that of their average.
        # In this function of optax, epsilon is inside the root.
        scale = optax.scale_by_rss(initial_accumulator_value=0.0, eps=EPS**2)
    else:
        b1 = B1 if method == LADDER[3] else 0.0
        scale = nj.scale_by_adam(b1, b2=B2, eps=EPS, debias=method != LADDER[1])
    return optax.chain(scale, nj.scale_by_learning_rate(rate))
