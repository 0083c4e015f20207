"""Tests of `scale_by_qhm` against the paper's recurrence, its special cases and `theory.qhm`."""

import re

import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory
from tests import oracles
from tests.trajectories import assert_agree, given_gradients, given_params, run

# The same products in float64, in another order.
RTOL = 1e-12


def descent(decay, nu, rate=0.1):
    return optax.chain(nj.scale_by_qhm(decay, nu=nu), nj.scale_by_learning_rate(rate))


@pytest.mark.parametrize(("decay", "nu"), [(0.999, 0.7), (0.5, 0.25)])
def test_agrees_with_the_paper(x64, decay, nu):
    params, gradients = given_params(), given_gradients()
    expected = oracles.qhm(params, gradients, 0.1, decay, nu)
    assert_agree(run(descent(decay, nu), params, gradients), expected)


@pytest.mark.parametrize(
    ("nu", "same"),
    [
        (1.0, nj.nested_momentum(0.1, decays=[0.9])),
        (0.0, optax.sgd(0.1)),
        (0.9, optax.sgd(0.1 * (1 - 0.9), momentum=0.9, nesterov=True)),
    ],
    ids=["average", "sgd", "nesterov"],
)
def test_special_cases(x64, nu, same):
    params, gradients = given_params(), given_gradients()
    assert_agree(run(descent(0.9, nu), params, gradients), run(same, params, gradients))


def test_its_weights_are_a_geometric_series_and_those_of_theory(x64):
    weights = 0.7 * (1 - 0.9) * 0.9 ** np.arange(100)
    weights[0] += 1 - 0.7
    for system in (
        theory.state_space(nj.scale_by_qhm(0.9, nu=0.7)),
        theory.qhm(0.9, weight=0.7),
    ):
        np.testing.assert_allclose(theory.impulse_response(system, 100), weights, rtol=RTOL)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decay": 1.0}, ValueError, "`decay` must lie in [0, 1), got 1.0."),
        ({"nu": 1.5}, ValueError, "`nu` must lie in [0, 1], got 1.5."),
        ({"nu": None}, TypeError, "`nu` must lie in [0, 1], got None."),
    ],
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.scale_by_qhm(**arguments)
