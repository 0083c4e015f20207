"""The trainings: one sweep for each heatmap, over learning rate, decay or threshold, and seed.

The cells of a heatmap are evaluated on validation images. The test images are evaluated once for
each heatmap, on trainings of its best cell. A last part trains AdamW for different lengths.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import nested_jax as nj
from experiments.heatmaps.best import best_cell
from experiments.heatmaps.config import (
    ALIASES,
    LENGTHS,
    OF_LENGTHS,
    PARTS,
    VARIANTS,
    Config,
    Variant,
)
from experiments.heatmaps.variants import axes_of, length_axes, lengths, optimizer, table, units
from experiments.lab import Lab, models
from experiments.lab.data import Images, with_validation

if TYPE_CHECKING:
    import xarray as xr

EVALUATED = 1000
"""Examples that are evaluated at once, at most."""
UNTRAINED = 1.05
"""A training diverged if its loss ends above this multiple of the untrained network's loss."""
CHUNK, QUICK_CHUNK = 36, 66
"""Trainings per chunk on a CPU: to find the best size takes another compilation of each part."""


def simulate(config: Config, lab: Lab) -> "dict[str, xr.Dataset]":
    """Train every cell of every variant, and AdamW for every length.

    Returns:
        By variant, over learning_rate, weight_decay or clip_threshold, and seed: `train_loss`,
        `train_error`, `validation_loss`, `validation_error`, and `diverged`: whether the training
        loss ended above that of the initial network, and of guessing. `test_loss` and `test_error`
        are those of the best cell, over seed. `LENGTHS` has a further dimension, steps, and no test
        losses; its decays are normalized.
    """
    images = with_validation(lab.images, seed=config.seed)
    results = {}
    finish = _finisher(config, images)
    drawn = chance(config, images)
    for name, variant in VARIANTS.items():
        if name in ALIASES:
            results[name] = _normalized(results[ALIASES[name]], config.steps)
            continue
        cells = finish(
            lab.sweep(
                name,
                function(config, images, variant, drawn),
                grid(config, variant),
                chunk=_chunk(config, lab),
                piece="cells",
                units=units(variant),
            )
        )
        results[name] = cells.assign(_tested(config, lab, name, best_cell(cells), drawn))
    heatmap = _normalized(results["adamw-cosine"], config.steps)
    results[LENGTHS] = finish(_by_length(config, lab, images, heatmap))
    return results


def _chunk(config: Config, lab: Lab) -> int | str:
    """Return the trainings per chunk; "auto" for large networks and for a GPU."""
    if config.full or lab.device.platform != "cpu":
        return "auto"
    return QUICK_CHUNK if config.quick else CHUNK


def _normalized(results: "xr.Dataset", steps: int) -> "xr.Dataset":
    """Return trainings under a schedule of one cycle with the decays in normalized units."""
    decays = results.weight_decay * math.sqrt(steps)
    units_of = {"units": units(OF_LENGTHS)["weight_decay"]}
    same = results.assign_coords(weight_decay=decays.assign_attrs(units_of))
    # The time was spent once.
    return same.drop_attrs(deep=False).assign_attrs(guess=results.attrs["guess"])


def _finisher(config: Config, images: Images) -> "Callable[[xr.Dataset], xr.Dataset]":
    """Return a function that adds to results the loss of guessing, and what diverged."""
    import xarray as xr  # Slow to import.

    model, guess = network(config, images), float(np.log(images.classes))
    losses = jax.vmap(lambda params: evaluate(model, params, *parts(images))["train_loss"])
    params = chance(dataclasses.replace(config, steps=1), images)[0]
    initial = np.maximum(np.asarray(jax.jit(losses)(params), np.float64), guess)
    # A network that decayed to nothing guesses, up to rounding and the shares of the classes.
    bound = xr.DataArray(UNTRAINED * initial, dims="seed")

    def finish(results):
        # Not `loss > bound`, which is false for NaN.
        return results.assign(diverged=~(results.train_loss <= bound)).assign_attrs(guess=guess)

    return finish


def _tested(
    config: Config, lab: Lab, name: str, cell: "xr.Dataset", drawn: Any
) -> "dict[str, xr.DataArray]":
    """Train the best cell of a heatmap again, and evaluate the test images."""
    variant = VARIANTS[name]
    images = with_validation(lab.images, seed=config.seed)._replace(
        test_images=lab.images.test_images, test_labels=lab.images.test_labels
    )
    axes = {axis: [float(cell[axis])] for axis in ("learning_rate", variant.across)}
    found = lab.sweep(
        name,
        function(config, images, variant, drawn),
        nj.Grid(**axes, seed=_seeds(config)),
        piece="test",
        units=units(variant),
        progress=False,
    )
    # `function` calls its second images validation images: here, they are the test images.
    found = found.isel(dict.fromkeys(axes, 0), drop=True)
    return {f"test_{metric}": found[f"validation_{metric}"] for metric in ("loss", "error")}


def _by_length(config: Config, lab: Lab, images: Images, heatmap: "xr.Dataset") -> "xr.Dataset":
    """Train AdamW with normalized decays under one cosine cycle, for every length.

    The length of the heatmaps is read from the one of these trainings, `heatmap`, if it has them.
    """
    import xarray as xr

    variant, axes = OF_LENGTHS, length_axes()
    found: list[xr.Dataset] = []
    for steps in lengths(config.steps):
        if steps == config.steps and np.isin(axes["weight_decay"], heatmap.weight_decay).all():
            same = heatmap.sel(axes)[[name for name in units(variant) if name not in axes]]
            found.append(same.expand_dims(steps=[steps]))
            continue
        of_length = dataclasses.replace(config, steps=steps)
        one = lab.sweep(
            LENGTHS,
            function(of_length, images, variant, chance(of_length, images)),
            nj.Grid(**axes, seed=_seeds(config)),
            piece=str(steps),
            chunk=_chunk(config, lab),
            units=units(variant),
        )
        found.append(one.expand_dims(steps=[steps]))
    return xr.concat(found, "steps", combine_attrs="drop_conflicts")


def _seeds(config: Config) -> range:
    return range(config.seed, config.seed + config.seeds)


def grid(config: Config, variant: Variant) -> nj.Grid:
    """Return the cells of a heatmap, and the seeds."""
    return nj.Grid(**axes_of(variant, config.steps), seed=_seeds(config))


def network(config: Config, images: Images) -> models.Model:
    """Return the network that is trained."""
    return models.mlp(
        images.train_images.shape[1],
        (config.width,) * config.depth,
        images.classes,
        activation=config.activation,
        initialisation=config.initialisation,
    )


def parts(images: Images) -> tuple[Any, Any]:
    """Return training and held-out examples, each as images and labels."""
    train = jnp.asarray(images.train_images), jnp.asarray(images.train_labels)
    return train, (jnp.asarray(images.test_images), jnp.asarray(images.test_labels))


def chance(config: Config, images: Images) -> tuple[Any, jax.Array]:
    """Return initial parameters and batches of all seeds, which all variants share.

    They are drawn once, so that no other program has to compile a random number generator.
    """
    model = network(config, images)
    few = images.train_images[:1], images.train_labels[:1]
    problem = nj.classification(model.apply, model.init, *few, batch_size=config.batch_size)

    def of_seed(seed):
        key_model, key_batches = jax.random.split(jax.random.key(seed))
        draws = jax.vmap(problem.draw)(jax.random.split(key_batches, config.steps))
        return problem.init(key_model)[0], draws

    seeds = jnp.arange(config.seed, config.seed + config.seeds)
    return jax.jit(jax.vmap(of_seed), compiler_options=models.DRAWS)(seeds)


def function(config: Config, images: Images, variant: Variant, chance: Any) -> Partial:
    """Return the pure function of rate, decay (or threshold) and seed that is swept."""
    model = network(config, images)

    def run(train, held_out, chance, schedule, *, learning_rate, seed, **across):
        problem = nj.classification(model.apply, model.init, *train, batch_size=config.batch_size)
        tx = optimizer(variant, schedule, learning_rate, across[variant.across])
        params, draws = jax.tree.map(lambda x: x[seed - config.seed], chance)
        # Windows that divide the steps: a remainder would be a second copy of the program.
        window = math.gcd(config.steps, 512)
        initial = params, None
        trace = nj.rollout(
            tx, problem, None, config.steps, initial=initial, draws=draws, stride=window
        )
        return evaluate(model, trace.params, train, held_out)

    return Partial(run, *parts(images), chance, table(variant, config.steps))


def evaluate(model: models.Model, params: Any, train: Any, validation: Any) -> dict[str, jax.Array]:
    """Return mean cross-entropy and share of errors, on training and validation images."""

    def of_some(examples):
        images, labels = examples
        logits = model.apply(params, images)
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        # NaN in the logits is an error too.
        right = (jnp.argmax(logits, axis=1) == labels) & jnp.isfinite(logits).all(1)
        return jax.nn.logsumexp(logits, axis=1) - own, ~right

    count = len(train[1])
    # Both parts in one loop, so that the network is compiled once; a block at a time, because the
    # hidden layers of all examples and cells would not fit into memory.
    examples = tuple(jnp.concatenate(both) for both in zip(train, validation, strict=True))
    total = count + len(validation[1])
    blocks = -(-total // EVALUATED)
    size = -(-total // blocks)
    filled = jax.tree.map(lambda x: _filled(x, blocks, size), examples)
    losses, wrong = jax.tree.map(lambda x: x.reshape(-1)[:total], jax.lax.map(of_some, filled))
    found = {}
    for kind, part in (("train", slice(count)), ("validation", slice(count, total))):
        found[f"{kind}_loss"] = jnp.mean(losses[part])
        found[f"{kind}_error"] = jnp.mean(wrong[part], dtype=losses.dtype)
    return found


def _filled(x: jax.Array, blocks: int, size: int) -> jax.Array:
    """Return `x` in blocks along its first axis, the last padded with zeros."""
    missing = blocks * size - len(x)
    return jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)).reshape(blocks, size, *x.shape[1:])


def estimate(config: Config, lab: Lab) -> float:
    """Return about how many seconds the trainings take, from a few steps of a few cells."""
    variant = VARIANTS["adamw-cosine"]
    axes = {name: values[:2] for name, values in axes_of(variant, config.steps).items()}
    few = nj.Grid(**axes, seed=[config.seed])

    def seconds(steps: int) -> float:
        shorter = dataclasses.replace(config, steps=steps)
        run = function(shorter, lab.images, variant, chance(shorter, lab.images))
        return nj.sweep(run, few, progress=False).attrs["run_seconds"] / few.size

    # The time that does not grow with the steps is the evaluation.
    a_run, longer = seconds(4), seconds(24)
    a_step = max(longer - a_run, 0.0) / 20
    count = len(PARTS) - 1
    heatmaps = count * grid(config, variant).size
    each_length = math.prod(map(len, length_axes().values())) * config.seeds
    # The best cells are trained again, for the test images.
    runs = heatmaps + count * config.seeds
    others = [steps for steps in lengths(config.steps) if steps != config.steps]
    steps = runs * config.steps + each_length * sum(others)
    return (runs + each_length * len(others)) * a_run + steps * a_step
