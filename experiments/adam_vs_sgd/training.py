"""A training run: the network, how it starts, what it learns, and how it is evaluated."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

import nested_jax as nj
from experiments.adam_vs_sgd.config import CHUNKS, INITIALISATIONS, SPAN, Config
from experiments.lab import Lab, data, models

if TYPE_CHECKING:
    import xarray as xr

PURPOSES = ("online", "tuning", "final", "timing", "one_pass", "races", "generalization")
"""Each has its own random numbers."""
EVALUATED = 2000
"""Number of images that are evaluated at once."""


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


def network(config: Config, images: data.Images, **words: str) -> models.Model:
    """Return the network."""
    pixels = images.train_images.shape[1]
    return models.mlp(pixels, (config.width,) * config.depth, images.classes, **words)


def training_set(images: data.Images) -> tuple[jax.Array, jax.Array]:
    """Return the training images and labels."""
    return jnp.asarray(images.train_images), jnp.asarray(images.train_labels)


def start(
    config: Config,
    images: data.Images,
    purpose: str,
    runs: int,
    networks: Sequence[models.Model] = (),
    loss: Callable[[Any, Any, Any], Any] | None = None,
) -> Start:
    """Draw weights and examples for a number of runs.

    Args:
        config: The options.
        images: What is learned.
        purpose: One of `PURPOSES`.
        runs: How many.
        networks: Alike but for their initialisation; the classifier's if none is given.
        loss: (params, images, labels) -> the initial loss; the cross-entropy if not given.
    """
    networks = networks or [network(config, images, initialisation=w) for w in INITIALISATIONS]
    loss = loss or (lambda params, *examples: evaluate(networks[0], params, *examples)[0])
    examples = training_set(images)

    @partial(jax.jit, compiler_options=models.DRAWS)
    def drawn(key):
        key_params, key_draws = jax.random.split(jax.random.fold_in(key, PURPOSES.index(purpose)))
        keys = jax.random.split(key_params, runs)
        trees = [jax.vmap(model.init)(keys) for model in networks]
        params = jax.tree.map(lambda *x: jnp.stack(x), *trees)
        losses = [jax.lax.map(lambda p: loss(p, *examples), x) for x in trees]
        # Drawn once and not step by step: programs are smaller, and all batch sizes learn the
        # examples in the same order.
        draws = jax.random.bits(key_draws, (runs, config.examples), jnp.uint32)
        return Start(params, jnp.stack(losses), draws)

    return drawn(jax.random.key(config.seed))


def train(
    config: Config,
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


def sweep(config: Config, lab: Lab, part: str, run: Partial, grid: nj.Grid) -> "xr.Dataset":
    """Sweep in the chunks of `CHUNKS`, but of any size for smoke tests, `--full` and a GPU."""
    fixed = lab.device.platform == "cpu" and not (config.quick or config.full)
    return lab.sweep(part, run, grid, chunk=CHUNKS[part] if fixed else "auto")


def evaluate(model: models.Model, params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Return the mean cross-entropy and the share of errors."""
    losses, wrong = evaluate_each(model, params, images, labels)
    return jnp.mean(losses), jnp.mean(wrong, dtype=losses.dtype)


def evaluate_each(model: models.Model, params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """Return the cross-entropy of each image, and whether it is misclassified."""

    def of_some(images, labels):
        logits = model.apply(params, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        right = jnp.isfinite(logits).all(1) & (jnp.argmax(logits, 1) == labels)
        return losses, ~right

    if len(labels) <= EVALUATED:  # A smaller program.
        return of_some(images, labels)
    return jax.lax.map(
        lambda example: jax.tree.map(lambda x: x[0], of_some(*(x[None] for x in example))),
        (images, labels),
        batch_size=EVALUATED,
    )
