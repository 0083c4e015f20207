"""Tests of `classification`: its gradient in closed form, an oracle in float64, folds, errors."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from nested_jax.problems import ClassificationBatch

RTOL = 1e-12  # In float64: sums of few products, a few steps.
STANDARD_ERRORS = 5  # One sample in two million is further off.
KEY = jax.random.key(0)
EXAMPLES, INPUTS, CLASSES = 11, 4, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(EXAMPLES, INPUTS))
LABELS = np.arange(EXAMPLES) % CLASSES


def apply(params, x):
    return x @ params["w"] + params["b"]


def init(key):
    w = jax.random.normal(key, (INPUTS, CLASSES), float)
    return {"w": w, "b": jnp.zeros(CLASSES)}


def logistic(batch_size=2, **options):
    return nj.classification(apply, init, IMAGES, LABELS, batch_size=batch_size, **options)


def oracle(w, b, x, y):
    """Return loss and gradients of logistic regression, by its formulas."""
    z = x @ w + b
    z = z - z.max(1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    error = (p - np.eye(CLASSES)[y]) / len(y)
    loss = -np.mean(np.log(p[np.arange(len(y)), y]))
    return loss, x.T @ error, error.sum(0)


def test_gradient_of_logistic_regression_is_inputs_times_errors(x64):
    problem = logistic()
    params, world = problem.init(KEY)
    batch = ClassificationBatch(jnp.asarray(IMAGES), jnp.asarray(LABELS))
    loss, gradient = jax.value_and_grad(problem.loss)(params, batch)
    expected, dw, db = oracle(np.asarray(params["w"]), 0.0, IMAGES, LABELS)
    np.testing.assert_allclose(loss, expected, rtol=RTOL)
    np.testing.assert_allclose(gradient["w"], dw, rtol=RTOL)
    np.testing.assert_allclose(gradient["b"], db, rtol=RTOL, atol=RTOL)
    assert world is None


def test_steps_are_those_of_the_oracle(x64):
    problem, rate, order = logistic(3), 0.7, RNG.integers(0, EXAMPLES, (20, 3))
    trace = nj.rollout(nj.momentum(rate, decay=0.0), problem, KEY, 20, stride=1, draws=order)
    params, _ = problem.init(jax.random.split(KEY)[0])
    w, b = np.asarray(params["w"]), np.zeros(CLASSES)
    for at, loss in zip(order, trace.loss_curve, strict=True):
        expected, dw, db = oracle(w, b, IMAGES[at], LABELS[at])
        np.testing.assert_allclose(loss, expected, rtol=RTOL)
        w, b = w - rate * dw, b - rate * db
    np.testing.assert_allclose(trace.params["w"], w, rtol=RTOL)
    np.testing.assert_allclose(trace.params["b"], b, rtol=RTOL, atol=RTOL)


def drawn(problem, steps=3000):
    """Return how often each example is drawn."""
    numbered = jax.vmap(lambda key: problem.observe(problem.draw(key), None)[0].images)
    images = jax.jit(numbered)(jax.random.split(KEY, steps))
    distance = np.abs(np.asarray(images)[:, :, None] - IMAGES.astype(images.dtype)).max(-1)
    assert (distance.min(-1) == 0).all()
    return np.bincount(distance.argmin(-1).ravel(), minlength=EXAMPLES)


def test_examples_are_drawn_equally_often():
    counts = drawn(logistic())
    expected = counts.sum() / EXAMPLES
    assert abs(counts - expected).max() < STANDARD_ERRORS * math.sqrt(expected)


def test_a_batch_has_the_labels_of_its_images():
    problem = logistic(EXAMPLES)
    batch, _ = problem.observe(jnp.arange(EXAMPLES), None)
    np.testing.assert_array_equal(batch.labels, LABELS)
    np.testing.assert_array_equal(batch.images, IMAGES.astype(np.float32))


@pytest.mark.parametrize("fold", range(3))
def test_what_a_fold_holds_out_is_not_drawn(fold):
    folds = nj.held_out_masks(EXAMPLES, 3)
    counts = drawn(logistic(folds=folds, fold=fold))
    assert not counts[folds[fold]].any()
    expected = counts.sum() / (~folds[fold]).sum()
    assert abs(counts[~folds[fold]] - expected).max() < STANDARD_ERRORS * math.sqrt(expected)


@pytest.mark.parametrize("folds", [None, EXAMPLES])
def test_as_many_folds_as_examples_leave_one_out(folds):
    masks = nj.held_out_masks(EXAMPLES, folds)
    np.testing.assert_array_equal(masks.sum(0), 1)
    np.testing.assert_array_equal(masks.sum(1), np.ones(EXAMPLES))


def test_a_batch_may_hold_one_example():
    problem = logistic(1)
    batch, _ = problem.observe(problem.draw(KEY), None)
    assert batch.images.shape == (1, INPUTS)


def test_recorded_draws_are_positions_among_the_training_examples():
    folds = nj.held_out_masks(EXAMPLES, 3)
    training = np.flatnonzero(~folds[1])
    batch, _ = logistic(folds=folds, fold=1).observe(np.arange(len(training)), None)
    np.testing.assert_array_equal(batch.images, IMAGES[training].astype(np.float32))


def test_folds_and_rates_are_vmappable_in_one_compilation(x64):
    traces, folds = [], nj.held_out_masks(EXAMPLES, 3)

    def solve(rate, fold, images):
        traces.append(None)
        problem = nj.classification(
            apply, init, images, LABELS, batch_size=2, folds=folds, fold=fold
        )
        return nj.rollout(nj.momentum(rate), problem, KEY, 20).params["w"]

    over = jax.vmap(jax.vmap(solve, (0, None, None)), (None, 0, None))
    together = jax.jit(over)(jnp.array([0.1, 0.2]), jnp.arange(3), IMAGES)
    assert len(traces) == 1
    for fold in range(3):
        alone = solve(0.2, fold, IMAGES)
        np.testing.assert_allclose(together[fold, 1], alone, rtol=RTOL)


def test_a_sweep_holds_its_folds_against_the_masks():
    folds = nj.held_out_masks(EXAMPLES, 3)

    def run(fold):
        return {
            "loss": nj.rollout(nj.momentum(0.1), logistic(folds=folds, fold=fold), KEY, 2).mean_loss
        }

    with pytest.raises(
        ValueError,
        match=r"`fold`\[3\] = 3: `fold` must be an integer of at least 0 and at most 2, got 3.",
    ):
        nj.sweep(run, nj.Grid(fold=range(4)))


def test_labels_of_jax_may_be_captured_by_a_traced_function():
    labels = jnp.asarray(LABELS)

    def loss(rate):
        problem = nj.classification(apply, init, IMAGES, labels, batch_size=2)
        return nj.rollout(nj.momentum(rate), problem, KEY, 3).mean_loss

    expected = nj.rollout(nj.momentum(0.1), logistic(), KEY, 3).mean_loss
    np.testing.assert_allclose(jax.jit(loss)(0.1), expected, rtol=1e-5)


def test_a_traced_label_that_is_no_class_makes_every_loss_nan():
    images, params = IMAGES[:2], init(KEY)

    def loss(label):
        labels = jnp.array([0, 1]).at[1].set(label)
        problem = nj.classification(apply, init, images, labels, batch_size=1)
        # Of the first example alone, whose label is a class.
        return problem.loss(params, ClassificationBatch(images[:1], labels[:1]))

    losses = jax.jit(jax.vmap(loss))(jnp.array([2, 0, CLASSES, -1]))
    assert np.isfinite(losses).tolist() == [True, True, False, False]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_images_keep_their_dtype_and_the_loss_is_wide(dtype, x64):
    problem = nj.classification(apply, init, jnp.asarray(IMAGES, dtype), LABELS, batch_size=2)
    batch, _ = problem.observe(problem.draw(KEY), None)
    params = jax.tree.map(lambda p: p.astype(dtype), problem.init(KEY)[0])
    assert batch.images.dtype == dtype
    wide = "float32" if dtype == "bfloat16" else dtype
    assert problem.loss(params, batch).dtype == wide


ROW = np.zeros((1, INPUTS))
MASK = np.zeros((2, EXAMPLES), bool)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"apply": None}, TypeError, "`apply` must be callable, got None."),
        ({"init": 1}, TypeError, "`init` must be callable, got 1."),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1, got 0."),
        ({"images": [[1.0]]}, TypeError, "`images` must be an array, got [[1.0]]."),
        ({"labels": [0]}, TypeError, "`labels` must be an array, got [0]."),
        ({"labels": LABELS / 2}, TypeError, "`labels` must be integers, got float64."),
        (
            {"labels": LABELS[1:]},
            ValueError,
            "`labels` must be a vector with an entry for each of at least one of `images`, got "
            "shape (10,) for (11, 4).",
        ),
        (
            {"images": ROW[1:], "labels": LABELS[:0]},
            ValueError,
            "`labels` must be a vector with an entry for each of at least one of `images`, got",
        ),
        (
            {"apply": lambda params, x: x.sum(1)},
            ValueError,
            "`apply` must return floating logits of shape (batch, classes), got",
        ),
        *(
            (
                {"apply": apply},
                ValueError,
                "`apply` must return floating logits of shape (batch, classes), got",
            )
            for apply in (
                lambda params, x: jnp.zeros((2, CLASSES)),
                lambda params, x: jnp.zeros((1, CLASSES, 1)),
                lambda params, x: jnp.zeros((1, CLASSES), int),
            )
        ),
        ({"labels": LABELS + 1}, ValueError, "`labels` must be classes from 0 to 2, got 3."),
        ({"labels": LABELS - 1}, ValueError, "`labels` must be classes from 0 to 2, got -1."),
        ({"folds": MASK}, ValueError, "`folds` must come with `fold`, got None for `fold`."),
        ({"fold": 0}, ValueError, "`fold` must come with `folds`, got None for `folds`."),
        (
            {"folds": MASK[0], "fold": 0},
            ValueError,
            "`folds` must have shape (folds, 11), an entry an example, got (11,).",
        ),
        (
            {"folds": MASK[:, 1:], "fold": 0},
            ValueError,
            "`folds` must have shape (folds, 11), an entry an example, got (2, 10).",
        ),
        (
            {"folds": MASK[:0], "fold": 0},
            ValueError,
            "`folds` must have shape (folds, 11), an entry an example, got (0, 11).",
        ),
        (
            {"folds": MASK.astype(int), "fold": 0},
            TypeError,
            "`folds` must be a boolean array, got dtype('int64').",
        ),
        (
            {"folds": MASK, "fold": 2},
            ValueError,
            "`fold` must be an integer of at least 0 and at most 1, got 2.",
        ),
        (
            {"folds": MASK, "fold": -1},
            ValueError,
            "`fold` must be an integer of at least 0 and at most 1, got -1.",
        ),
        (
            {"folds": ~MASK, "fold": 0},
            ValueError,
            "`folds` must leave examples to train on, got none in [0 1].",
        ),
    ],
)
def test_rejects(changes, error, message):
    arguments = {"apply": apply, "init": init, "images": IMAGES, "labels": LABELS, "batch_size": 2}
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.classification(**(arguments | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nj.held_out_masks(5, 6), "`folds` must be at most `examples` = 5, got 6."),
        (
            lambda: nj.split_indices(5, (0.0, 1.0)),
            "`parts` must be positive shares that sum to 1, got (0.0, 1.0).",
        ),
        (
            lambda: nj.split_indices(5, (0.5, 0.4)),
            "`parts` must be positive shares that sum to 1, got (0.5, 0.4).",
        ),
        (
            lambda: nj.split_indices(5, (0.01, 0.99)),
            "`parts` must leave an example in each, got (0.01, 0.99) of 5.",
        ),
    ],
)
def test_folds_and_splits_reject(make, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        make()
