"""Tests of what Adam against SGD trains: the methods, their training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from experiments.adam_vs_sgd import runs, timing, training
from experiments.adam_vs_sgd.config import SPAN, Config
from experiments.adam_vs_sgd.methods import METHODS, build
from experiments.lab import models
from tests.experiments.adam_vs_sgd import RTOL, SMALL


def parameters():
    keys = jax.random.split(jax.random.key(0), 2)
    return {"kernel": jax.random.normal(keys[0], (3, 2)), "bias": jax.random.normal(keys[1], (2,))}


def test_the_penalty_is_the_gradient_of_half_the_squared_weights():
    config = Config(penalty=0.3)
    params, gradient = parameters(), jax.tree.map(jnp.cos, parameters())

    def objective(p):
        linear = sum(jax.tree.leaves(jax.tree.map(lambda g, x: jnp.sum(g * x), gradient, p)))
        return linear + 0.3 * models.squared_norm(p) / 2

    tx = build(config, "sgd", 0.1, 0.9)
    actual, _ = tx.update(gradient, tx.init(params), params)
    expected = jax.tree.map(lambda g: -0.1 * g, jax.grad(objective)(params))
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=RTOL), actual, expected)


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("sgd", optax.sgd(0.01)),
        ("momentum", optax.sgd(0.01, momentum=0.8)),
        ("nesterov", optax.sgd(0.01, momentum=0.8, nesterov=True)),
        ("nested", optax.chain(*[optax.ema(0.8, debias=False)] * 2, optax.scale(-0.01))),
        # A delay of 4 steps, shared out to two averages: each of decay 2 / 3.
        ("nested_matched", optax.chain(*[optax.ema(2 / 3, debias=False)] * 2, optax.scale(-0.01))),
        ("adagrad", optax.adagrad(0.01)),
        ("rmsprop", optax.rmsprop(0.01, decay=0.98)),
        ("adam", optax.adam(0.01, b1=0.8)),
        (
            "adamw",
            optax.adamw(0.01, b1=0.8, weight_decay=0.02, mask={"kernel": True, "bias": False}),
        ),
    ],
)
def test_methods_are_what_they_are_called(method, reference):
    tx = build(Config(penalty=0, weight_decay=0.02), method, 0.01, 0.8)
    params = parameters()

    def trained(tx):
        state, found = tx.init(params), params
        for i in range(5):
            gradient = jax.tree.map(lambda p, i=i: jnp.sin(3 * p + i), found)
            update, state = tx.update(gradient, state, found)
            found = optax.apply_updates(found, update)
        return found

    actual, expected = trained(tx), trained(reference)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=RTOL), actual, expected)


def test_every_method_can_do_without_penalty_and_decay():
    config, params = Config(penalty=0.5, weight_decay=0.5), parameters()
    still = jax.tree.map(jnp.zeros_like, params)
    for method in METHODS:
        for share, moved in ((0.0, False), (1.0, True)):
            tx = build(config, method, 0.1, 0.9, share)
            update, _ = tx.update(still, tx.init(params), params)
            assert bool(jnp.abs(update["kernel"]).max() > 0) == moved, method
            assert not jnp.abs(update["bias"]).any(), method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_rate_and_a_momentum_that_may_be_swept(method):
    config, params = Config(), parameters()

    def update(rate, momentum):
        tx = build(config, method, rate, momentum)
        return tx.update(params, tx.init(params), params)[0]

    found = jax.eval_shape(update, 0.1, 0.9)
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, params)


@pytest.mark.parametrize("size", [1, 50])
def test_training_learns_the_examples_drawn_each_after_its_loss_was_taken(images, size):
    model, examples = training.network(SMALL, images), training.training_set(images)
    start = training.start(SMALL, images, "online", 2)
    params = jax.tree.map(lambda x: x[1, 1], start.params)
    problem = nj.classification(model.apply, model.init, *examples, batch_size=size)
    tx = nj.scale_by_learning_rate(0.05)
    trace = training.train(SMALL, tx, problem, params, start.draws[1], size)

    @jax.jit
    def step(params, at):
        def loss(p):
            z = model.apply(p, examples[0][at])
            return (jax.nn.logsumexp(z, 1) - z[jnp.arange(size), examples[1][at]]).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient), value

    losses = []
    for at in np.asarray(start.draws[1]).reshape(-1, size) % len(images.train_labels):
        params, value = step(params, at)
        losses.append(value)
    expected = np.asarray(losses).reshape(1000 // SPAN, -1).mean(1)
    np.testing.assert_allclose(trace.loss_curve, expected, rtol=1e-4)  # Roundings of 1,000 steps.


def test_a_fold_is_evaluated_on_what_was_not_trained_on(images):
    bound = runs._validated(SMALL, images)
    point = {"optimizer": "momentum", "learning_rate": 0.1, "initialisation": 0, "fold": 1}
    found = bound(**point)
    mask = nj.held_out_masks(len(images.train_labels), 2, seed=SMALL.seed)[1]
    start = training.start(SMALL, images, "tuning", 2)
    model = training.network(SMALL, images)
    seen = images.train_images[~mask], images.train_labels[~mask]
    problem = nj.classification(model.apply, model.init, *seen, batch_size=50)
    params = jax.tree.map(lambda x: x[0, 1], start.params)
    tx = build(SMALL, "momentum", 0.1, 0.9)
    trace = training.train(SMALL, tx, problem, params, start.draws[1], 50, curve=False)
    logits = np.asarray(model.apply(trace.params, images.train_images[mask]))
    expected = float((logits.argmax(1) != images.train_labels[mask]).mean())
    assert float(found["error"]) == pytest.approx(expected, abs=1.01 / int(mask.sum()))
    assert not bool(found["diverged"])


def test_evaluation_in_parts_and_at_once_is_that_of_numpy(images, monkeypatch):
    model = training.network(SMALL, images)
    params = model.init(jax.random.key(3))
    x, y = images.test_images[:7], images.test_labels[:7]
    z = np.asarray(model.apply(params, x), np.float64)
    expected = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(7), y]), np.mean(z.argmax(1) != y)
    for size in (7, 3):
        monkeypatch.setattr(training, "EVALUATED", size)
        np.testing.assert_allclose(training.evaluate(model, params, x, y), expected, rtol=RTOL)


def test_numbers_that_are_none_count_as_errors(images):
    model = training.network(SMALL, images)
    params = jax.tree.map(lambda p: p * jnp.nan, model.init(jax.random.key(3)))
    _, error = training.evaluate(model, params, images.test_images, images.test_labels)
    assert float(error) == 1


def test_states_hold_copies_of_the_weights():
    params = {"kernel": jnp.ones((60, 50)), "bias": jnp.ones(50)}
    held = {"sgd": 0, "nested": 2, "nested_matched": 2, "adam": 2, "adamw": 2}
    for method in METHODS:
        copies = timing._held(Config(), method, params)
        # Beside them counts, gains, and Adafactor's rows and columns.
        assert copies == pytest.approx(held.get(method, 1), abs=0.06), method
