"""Mini-batch classification of given examples, for real data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from nested_jax._core.checks import (
    check_callable,
    check_count,
    check_length,
    is_traced,
    or_nan,
)
from nested_jax._core.dtypes import widened
from nested_jax._core.types import Params, ScalarLike
from nested_jax.problems._problem import Problem


class ClassificationBatch(NamedTuple):
    """A mini-batch of examples.

    Attributes:
        images: One example per row, in any shape and dtype that the model accepts.
        labels: Their classes, counted from 0.
    """

    images: Array
    labels: Int[Array, " batch"]


def classification(
    apply: Callable[[Params, Any], Any],
    init: Callable[[Any], Params],
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    batch_size: int,
    folds: np.ndarray | jax.Array | None = None,
    fold: ScalarLike | None = None,
) -> Problem:
    r"""Classify examples, in mini-batches drawn with replacement.

    Each step draws :math:`i_1, \dots, i_b` independently and uniformly from the training
    examples, and the loss is the mean cross-entropy

    .. math::

        R(\theta) = \frac 1 b \sum_{k=1}^b \Bigl( \log \sum_c e^{z_{kc}} - z_{k y_k} \Bigr), \quad
        z_k = f_\theta(x_{i_k}), \; y_k = y_{i_k} .

    To evaluate on all examples, pass `ClassificationBatch(images, labels)` to `problem.loss`: with
    `trace.params` it returns the training or test loss.

    With `folds`, only examples that fold `fold` does not hold out are drawn. A draw is 32 random
    bits, taken modulo the number of training examples, so runs on different folds share their
    draws. Recorded draws below that number are positions among the training examples. For one
    example per step in a given order, use `rollout(..., draws=order[:, None])`.

    Args:
        apply: (params, images) -> logits of shape (batch, classes); pure and differentiable.
        init: key -> params.
        images: Examples along the first axis, at least one. In a sweep, bind them with
            `jax.tree_util.Partial` so that they are not compiled in as constants.
        labels: The class of each example, integers from 0. If they are traced and one is not a
            class of the model, every loss is NaN.
        batch_size: b >= 1, static.
        folds: Masks of the held-out examples, boolean of shape (folds, examples), as returned by
            `nested_jax.held_out_masks`; nothing is held out if not given.
        fold: The index of the fold to hold out, an integer from 0; may be traced.

    Returns:
        A problem whose draws are unsigned integers of shape (b,) and whose batches are
        `ClassificationBatch`. Nothing moves: the world is None.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If shapes do not match, a concrete label is not a class of the model, or only
            one of `folds` and `fold` is given.

    Example:
        >>> import jax, jax.numpy as jnp, nested_jax as nj
        >>> images, labels = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0, 0, 1, 1])
        >>> apply = lambda params, x: x @ params["w"] + params["b"]
        >>> init = lambda key: {"w": jnp.zeros((1, 2)), "b": jnp.zeros(2)}
        >>> problem = nj.classification(apply, init, images, labels, batch_size=2)
        >>> trace = nj.rollout(nj.momentum(1.0), problem, jax.random.key(0), 200)
        >>> apply(trace.params, images).argmax(1)
        Array([0, 0, 1, 1], dtype=int32)
    """
    check_callable("apply", apply)
    check_callable("init", init)
    check_length("batch_size", batch_size)
    known = _check_examples(apply, init, images, labels)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    examples = labels.shape[0]
    order, count, valid = _training_examples(examples, folds, fold)
    valid &= known

    def draw(key):
        return jax.random.bits(key, (int(batch_size),), jnp.uint32)

    def observe(draws, world):
        # With n examples, the modulo makes some more frequent by a relative n / 2^32.
        at = jnp.asarray(draws, jnp.uint32) % count
        at = at if order is None else order[at]
        return ClassificationBatch(images[at], labels[at]), world

    def loss(params, batch):
        logits = apply(params, batch.images)
        logits = logits.astype(widened(logits.dtype))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return or_nan(valid, jnp.mean(losses))

    return Problem(init=lambda key: (init(key), None), draw=draw, observe=observe, loss=loss)


def _check_examples(apply, init, images, labels):
    """Raise unless images, labels and model fit; return whether traced labels are classes."""
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, np.ndarray | jax.Array):
            raise TypeError(f"`{name}` must be an array, got {value!r}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must be integers, got {labels.dtype}.")
    if labels.ndim != 1 or images.shape[:1] != labels.shape or not labels.size:
        raise ValueError(
            "`labels` must be a vector with an entry for each of at least one of `images`, got "
            f"shape {labels.shape} for {images.shape}."
        )
    # Evaluate shapes only; nothing is computed.
    params = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    row = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.asarray(images[:0]).dtype)
    logits = jax.eval_shape(apply, params, row)
    shape = getattr(logits, "shape", ())
    if len(shape) != 2 or shape[0] != 1 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"`apply` must return floating logits of shape (batch, classes), got {logits} for one "
            "image."
        )
    if is_traced(labels):
        # Once for all steps. Without it, -1 would be the last class.
        return jnp.all((labels >= 0) & (labels < shape[1]))
    classes = np.asarray(labels)  # Under jit, JAX arithmetic on a constant would be traced.
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= shape[1]:
        found = low if low < 0 else high
        raise ValueError(f"`labels` must be classes from 0 to {shape[1] - 1}, got {found}.")
    return True


def _training_examples(examples, folds, fold):
    """Return an order with training examples first, their number, and whether the fold exists.

    The order is None for all examples in theirs.
    """
    if (folds is None) != (fold is None):
        given, other = ("folds", "fold") if fold is None else ("fold", "folds")
        raise ValueError(f"`{given}` must come with `{other}`, got None for `{other}`.")
    if folds is None:
        return None, jnp.uint32(examples), True
    held_out, valid = _held_out(examples, folds, fold)
    if is_traced(folds):
        valid &= ~jnp.all(held_out)
    return jnp.argsort(held_out, stable=True), jnp.sum(~held_out, dtype=jnp.uint32), valid


def _held_out(examples: int, folds: Any, fold: Any) -> tuple[Bool[Array, " examples"], Any]:
    if not isinstance(folds, np.ndarray | jax.Array) or folds.dtype != bool:
        raise TypeError(f"`folds` must be a boolean array, got {getattr(folds, 'dtype', folds)!r}.")
    if folds.ndim != 2 or folds.shape[1] != examples or not folds.shape[0]:
        raise ValueError(
            f"`folds` must have shape (folds, {examples}), an entry an example, got {folds.shape}."
        )
    valid = check_count("fold", fold, high=folds.shape[0] - 1)
    if not is_traced(folds):
        everything = np.flatnonzero(np.asarray(folds).all(1))
        if everything.size:
            raise ValueError(f"`folds` must leave examples to train on, got none in {everything}.")
    return jnp.asarray(folds)[fold], valid
