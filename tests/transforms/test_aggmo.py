"""Tests of `scale_by_aggmo` against the paper's recurrence, momentum and `theory.aggmo`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from tests import oracles
from tests.trajectories import assert_agree, given_gradients, given_params, run

DECAYS = (0.0, 0.9, 0.99)
# The same sums of 100 products in float64, in another order.
RTOL = 1e-12


def descent(decays, rate=0.1):
    return optax.chain(nj.scale_by_aggmo(decays), nj.scale_by_learning_rate(rate))


@pytest.mark.parametrize("decays", [DECAYS, (0.5, 0.0)])
def test_agrees_with_the_paper(x64, decays):
    params, gradients = given_params(), given_gradients()
    expected = oracles.aggmo(params, gradients, 0.1, decays)
    assert_agree(run(descent(decays), params, gradients), expected)


def test_one_decay_is_momentum(x64):
    params, gradients = given_params(), given_gradients()
    actual = run(descent([0.9]), params, gradients)
    assert_agree(actual, run(nj.momentum(0.1, decay=0.9), params, gradients), 0.0)


def test_its_weights_are_the_mean_of_geometric_series_and_those_of_theory(x64):
    powers = np.array(DECAYS) ** np.arange(100)[:, None]
    for system in (nj.scale_by_aggmo(DECAYS), theory.aggmo(DECAYS)):
        system = theory.state_space(system) if hasattr(system, "init") else system
        actual = theory.impulse_response(system, 100)
        np.testing.assert_allclose(actual, powers.mean(1), rtol=RTOL)


@pytest.mark.parametrize(
    ("decays", "error", "message"),
    [
        ([], ValueError, "`decays` must hold one decay at least, got none."),
        ([0.9, 1.0], ValueError, "`decays[1]` must lie in [0, 1), got 1.0."),
        (np.ones((2, 2)), ValueError, "`decays` must be a vector, got an array of shape (2, 2)."),
        (0.9, TypeError, "`decays` must be a sequence of numbers or a vector, got 0.9."),
    ],
)
def test_rejects(decays, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.scale_by_aggmo(decays)


def test_rejects_a_state_of_other_decays():
    state = nj.scale_by_aggmo([0.5]).init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"`state` must be of 3 decays, got 1 momenta\."):
        jax.eval_shape(nj.scale_by_aggmo().update, jnp.ones(2), state)
