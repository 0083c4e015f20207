"""How well SGD and Adam generalize, and what may explain it: random splits of all images."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adam_vs_sgd.config import BATCHES, DIVERGED, FIFTHS, RATES, UNTUNED, Config
from experiments.adam_vs_sgd.methods import build
from experiments.adam_vs_sgd.training import evaluate_each, network, start, sweep
from experiments.lab import Lab, data

if TYPE_CHECKING:
    import xarray as xr

SPREAD = ("sgd", "adagrad", "adam")
"""Methods that are compared; AdaGrad is the one whose rates must shrink."""
SPLIT = (0.5, 0.25)
"""Shares of all images for training and for validation; the rest is for testing."""


def splits(config: Config, images: int) -> tuple[np.ndarray, int, int]:
    """Return an order of the images for each split, and where validation and testing begin."""
    generator = np.random.default_rng(config.seed)
    orders = np.stack([generator.permutation(images) for _ in range(config.splits)])
    train, validation = (int(share * images) for share in SPLIT)
    return orders.astype(np.int32), train, train + validation


def pooled(images: data.Images) -> tuple[jax.Array, jax.Array]:
    """Return all images and labels, those for training first."""
    return (
        jnp.concatenate([jnp.asarray(images.train_images), jnp.asarray(images.test_images)]),
        jnp.concatenate([jnp.asarray(images.train_labels), jnp.asarray(images.test_labels)]),
    )


def generalization(config: Config, lab: Lab) -> "xr.Dataset":
    """Train on half of all images at every rate and batch size; evaluate on the others.

    Returns:
        Over optimizer, batch, learning_rate and seed (the split): `train_loss`, `train_error`;
        `loss`, `error` of the validation images; `test_loss`, `test_error`; `wrong`, whether each
        test image is misclassified, over `tested`; `diverged`; over `fifth`, after each fifth of
        the run: `distance` to the initial weights relative to their norm, and `rate`, the
        effective rate of `effective_rate`. Beside them `image`, over seed and tested: which image.
    """
    count = len(lab.images.train_labels) + len(lab.images.test_labels)
    orders, first, second = splits(config, count)
    model = network(config, lab.images)

    def run(images, labels, orders, start, *, optimizer, batch, learning_rate, seed):
        size = int(batch)
        initial = jax.tree.map(lambda x: x[0, seed], start.params)
        problem = nj.classification(model.apply, model.init, images, labels, batch_size=size)
        draws = orders[seed, start.draws[seed] % first].astype(jnp.uint32).reshape(-1, size)
        tx = build(config, optimizer, learning_rate, UNTUNED["momentum"])

        def record(params, state):
            rate = effective_rate(optimizer, learning_rate, state)
            return relative_distance(params, initial), rate

        trace = nj.rollout(tx, problem, None, len(draws), stride=len(draws) // FIFTHS,
                           record=record, initial=(initial, None), draws=draws)  # fmt: skip
        found = evaluate_each(model, trace.params, images, labels)
        losses, wrong = (x[orders[seed]] for x in found)
        parts = {"train_": slice(first), "": slice(first, second), "test_": slice(second, None)}
        results: dict[str, Any] = {"wrong": wrong[second:]}
        for name, part in parts.items():
            results[f"{name}loss"] = losses[part].mean()
            results[f"{name}error"] = wrong[part].mean(dtype=losses.dtype)
        # Not `loss > bound`, which is false for NaN.
        results["diverged"] = ~(results["loss"] <= DIVERGED * start.loss[0, seed])
        distance, rate = trace.records
        return results | {"distance": distance, "rate": rate}

    grid = nj.Grid(
        optimizer=[*SPREAD],
        batch=[str(size) for size in BATCHES[: config.batch_sizes]],
        learning_rate=RATES,
        seed=range(config.splits),
    )
    begun = start(config, lab.images, "generalization", config.splits)
    bound = Partial(run, *pooled(lab.images), jnp.asarray(orders), begun)
    found = sweep(config, lab, "generalization", bound, grid)
    found = found.rename(distance_0="fifth", rate_0="fifth", wrong_0="tested")
    found = found.assign_attrs(images=count)
    return found.assign(image=(("seed", "tested"), orders[:, second:]))


def relative_distance(params: Any, initial: Any) -> jax.Array:
    """Return the distance of parameters to their initial values, relative to those' norm."""
    moved = jax.tree.map(jnp.subtract, params, initial)
    return optax.tree.norm(moved) / optax.tree.norm(initial)


def effective_rate(method: str, learning_rate: Any, state: Any) -> jax.Array:
    r"""Return the median, over coordinates, of what multiplies a gradient in a step.

    It is :math:`\alpha` for SGD, :math:`\alpha / \sqrt{s}` with the sum of squared gradients for
    AdaGrad, and :math:`\alpha / \sqrt{\hat v}` for Adam, without their epsilons. A mean would be
    that of the few weights with hardly any gradient, such as those of pixels that are always black.
    """
    if method == "sgd":
        return jnp.asarray(learning_rate, jnp.float32)
    if method == "adagrad":
        squares, gain = optax.tree_utils.tree_get(state, "sum_of_squares"), 1.0
    else:
        squares = optax.tree_utils.tree_get(state, "nu")
        gain = optax.tree_utils.tree_get(state, "nu_gain")
    coordinates = jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(squares)])
    return learning_rate / jnp.sqrt(jnp.median(coordinates) / gain)
