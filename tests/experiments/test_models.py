"""Tests of the models: against NumPy, at their initial weights, and in a problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from experiments.lab import models as _models

RTOL = 1e-12  # In float64, products of vectors of at most 64 entries.
STANDARD_ERRORS = 5
KEY = jax.random.key(0)
NUMPY = {
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
}


def layers(params):
    """Return (weights, biases) of each layer, in order."""
    return [
        (params[f"Dense_{i}"]["kernel"], params[f"Dense_{i}"]["bias"]) for i in range(len(params))
    ]


def double(params):
    """Return the parameters in float64, with biases that are not 0."""
    return jax.tree.map(lambda p: jnp.asarray(p, jnp.float64) + 0.1, params)


@pytest.mark.parametrize("activation", [*NUMPY])
def test_a_network_is_its_formula(activation, x64):
    model = _models.mlp(6, (5, 4), 3, activation=activation)
    params = double(model.init(KEY))
    images = np.random.default_rng(0).uniform(size=(7, 6))
    x = images
    for i, (weights, biases) in enumerate(layers(params)):
        x = (NUMPY[activation](x) if i else x) @ np.asarray(weights) + np.asarray(biases)
    np.testing.assert_allclose(model.apply(params, images), x, rtol=RTOL)


def test_logistic_regression_is_one_layer_that_begins_at_zero():
    params = _models.logistic(6, 3).init(KEY)
    assert jax.tree.map(jnp.shape, params) == {"Dense_0": {"bias": (3,), "kernel": (6, 3)}}
    assert not any(map(jnp.any, jax.tree.leaves(params)))


@pytest.mark.parametrize("activation", [*_models.ACTIVATIONS])
def test_an_autoencoder_narrows_and_widens_again(activation):
    model = _models.autoencoder(20, (8, 6), 2, activation=activation)
    params = model.init(KEY)
    assert [w.shape for w, _ in layers(params)] == [
        (20, 8),
        (8, 6),
        (6, 2),
        (2, 6),
        (6, 8),
        (8, 20),
    ]
    images = jnp.ones((3, 20))
    expected = np.mean((np.asarray(model.apply(params, images)) - 1) ** 2)
    np.testing.assert_allclose(_models.reconstruction(model, params, images), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("initialisation", "std"),
    [("he", (2 / 300) ** 0.5), ("lecun", 300**-0.5), ("glorot", (2 / 500) ** 0.5), ("small", 0.01)],
)
def test_initial_weights_have_their_standard_deviation(initialisation, std):
    weights, biases = layers(_models.mlp(300, (200,), initialisation=initialisation).init(KEY))[0]
    error = STANDARD_ERRORS / np.sqrt(2 * weights.size)
    # Flax truncates the normals of the first three at two standard deviations and rescales them.
    np.testing.assert_allclose(weights.std(), std, rtol=error)
    assert abs(float(weights.mean())) < STANDARD_ERRORS * std / np.sqrt(weights.size)
    assert not biases.any()


def test_orthogonal_weights_are():
    weights, _ = layers(_models.mlp(30, (20,), initialisation="orthogonal").init(KEY))[0]
    np.testing.assert_allclose(weights.T @ weights, np.eye(20), atol=1e-6)


def test_parameters_are_float32_and_vmappable_over_keys():
    model = _models.mlp(6, (5,), 3)
    params = jax.vmap(model.init)(jax.random.split(KEY, 4))
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.vmap(model.apply, (0, None))(params, jnp.ones((2, 6))).shape == (4, 2, 3)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_network_without_activations_equals_one_layer(depth, x64):
    model = _models.mlp(6, (5, 4, 7)[:depth], 3, activation=_models.LINEAR)
    params = double(model.init(KEY))
    images = np.random.default_rng(0).normal(size=(7, 6))
    weights, biases = _models.collapsed(params)
    assert (weights.shape, biases.shape) == ((6, 3), (3,))
    outputs = model.apply(params, images)
    np.testing.assert_allclose(outputs, images @ weights + biases, rtol=RTOL)
    # An affine map is fixed by what it does to 0 and to the unit vectors.
    at_zero = model.apply(params, np.zeros((1, 6)))[0]
    np.testing.assert_allclose(biases, at_zero, rtol=RTOL)
    np.testing.assert_allclose(weights, model.apply(params, np.eye(6)) - at_zero, rtol=RTOL)


def test_squared_norm_is_that_of_the_weights_alone():
    params = jax.tree.map(jnp.ones_like, _models.mlp(6, (5,), 3).init(KEY))
    assert float(_models.squared_norm(params)) == 6 * 5 + 5 * 3


def test_an_autoencoder_learns_by_the_problem_with_another_loss():
    images = jax.random.uniform(KEY, (50, 8))
    model = _models.autoencoder(8, (6,), 4, activation="tanh")
    problem = nj.classification(model.apply, model.init, images, jnp.zeros(50, int), batch_size=10)
    problem = problem._replace(
        loss=lambda params, batch: _models.reconstruction(model, params, batch.images)
    )
    trace = nj.rollout(nj.adam(1e-2), problem, KEY, 300, stride=100)
    assert trace.loss_curve[-1] < 0.5 * trace.loss_curve[0]
