"""Tests of the readouts of nested momentum: the last level, without lag, the mean of all."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from tests import oracles
from tests.trajectories import outflow
from tests.transforms.cascades import FLOAT32_RTOL, RTOL, impulse

# The coefficients of 18 stages without lag reach 48620 and cancel down to numbers of order one.
ZERO_LAG_ATOL = 2**18 * np.finfo(np.float64).eps


def without_lag(inflow, decay, stages):
    """Return 1 - (1 - E)^n of `inflow`, by taking from it n times what an average leaves of it."""
    rest = inflow
    for _ in range(stages):
        rest = rest - np.array(oracles.cascade(rest, [decay]))
    return inflow - rest if stages else inflow


@pytest.mark.parametrize("stages", [0, 1, 2, 3, 18])
@pytest.mark.parametrize("decay", [0.5, 0.95])
def test_zero_lag_leaves_nothing_of_the_average_of_what_is_left(x64, decay, stages):
    inflow = np.random.default_rng(6).normal(size=60)
    tx = nj.scale_by_nested_momentum([decay] * stages, readout="zero_lag")
    expected = without_lag(inflow, decay, stages)
    np.testing.assert_allclose(outflow(tx, jnp.asarray(inflow)), expected, atol=ZERO_LAG_ATOL)


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
def test_zero_lag_has_gain_1_and_no_mean_delay(x64, stages):
    tx = nj.scale_by_nested_momentum([0.8] * stages, readout="zero_lag")
    response = outflow(tx, impulse(1000))
    np.testing.assert_allclose(jnp.sum(response), 1.0, rtol=1e-12)
    delay = 4.0 if stages == 1 else 0.0
    np.testing.assert_allclose(jnp.sum(response * jnp.arange(1000)), delay, atol=1e-11)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("decays", [[], [0.9], [0.9, 0.5, 0.7], [0.95] * 5], ids=str)
def test_readouts_combine_the_stages(x64, decays, debias):
    inflow = np.random.default_rng(7).normal(size=40)
    n = len(decays)
    passed = [inflow] + [
        np.array(oracles.cascade(inflow, decays[n - j :], debias)) for j in range(1, n + 1)
    ]
    signed = [(-1) ** (j + 1) * math.comb(n, j) * passed[j] for j in range(1, n + 1)]
    expected = {
        "last": passed[-1],
        "zero_lag": sum(signed) if decays else inflow,
        "mean": np.mean(passed, axis=0),
    }
    for readout, values in expected.items():
        tx = nj.scale_by_nested_momentum(decays, debias=debias, readout=readout)
        np.testing.assert_allclose(outflow(tx, jnp.asarray(inflow)), values, rtol=1e-11)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("readout", ["zero_lag", "mean"])
def test_padding_a_level_out_changes_no_readout(x64, debias, readout):
    gradients = jnp.asarray(np.random.default_rng(8).normal(size=(40, 3)))

    def at(decays):
        return outflow(
            nj.scale_by_nested_momentum(decays, debias=debias, readout=readout), gradients
        )

    traced = jax.jit(jax.vmap(at))
    for short, padded in [
        ([0.9, 0.5], [[0.9, 0.5, 0.0, 0.0], [0.0, 0.9, 0.0, 0.5]]),
        ([], [[0.0] * 4] * 2),
        ([0.9] * 4, [[0.9] * 4] * 2),
    ]:
        # One program for the concrete ones.
        expected, *concrete = jax.jit(lambda rows=(short, *padded): [*map(at, rows)])()
        for actual in [*concrete, *traced(jnp.array(padded))]:
            np.testing.assert_allclose(actual, expected, rtol=0, atol=RTOL)


@pytest.mark.parametrize("readout", ["zero_lag", "mean"])
def test_readout_of_traced_levels(x64, readout):
    gradients = jnp.asarray(np.random.default_rng(9).normal(size=30))

    def at(levels, decay):
        tx = nj.nested_momentum(0.1, levels=levels, decay=decay, max_levels=5, readout=readout)
        return outflow(tx, gradients)

    together = jax.jit(jax.vmap(at))(jnp.arange(1, 6), jnp.linspace(0.5, 0.98, 5))
    for levels, decay in enumerate(np.linspace(0.5, 0.98, 5), start=1):
        tx = nj.nested_momentum(0.1, levels=levels, decay=decay, readout=readout)
        np.testing.assert_allclose(together[levels - 1], outflow(tx, gradients), atol=RTOL)


@pytest.mark.parametrize("readout", ["last", "zero_lag", "mean"])
def test_readout_is_differentiated_by_the_decay(x64, readout):
    def loss(decay):
        tx = nj.nested_momentum(0.1, levels=3, decay=decay, readout=readout)
        return jnp.sum(outflow(tx, jnp.array([1.0, -2.0, 0.5])) ** 2)

    step = 1e-6
    slope = (loss(0.7 + step) - loss(0.7 - step)) / (2 * step)
    # Within the scan weights are concrete, and what is computed of them would not be.
    np.testing.assert_allclose(jax.grad(loss)(0.7), slope, rtol=1e-8)


@pytest.mark.parametrize("readout", ["zero_lag", "mean"])
def test_constants_pass_every_debiased_readout(readout, optimized):
    constant = jnp.full((50, 2), jnp.array([3.0, -1e-3]))
    tx = nj.scale_by_nested_momentum([0.999] * 3, debias=True, readout=readout)
    np.testing.assert_allclose(outflow(tx, constant), constant, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("readout", ["zero_lag", "mean"])
def test_padding_changes_no_readout_even_after_an_infinite_update(readout, debias):
    """A term of weight 0 adds nothing, whether its weight is traced or not."""
    gradients = jnp.array([1.0, np.inf, 1.0, 1.0])

    def after(decays):
        tx = nj.scale_by_nested_momentum(decays, debias=debias, readout=readout)
        return outflow(tx, gradients)

    traced = jax.jit(after)
    for short in ([], [0.5], [0.5, 0.25]):
        expected = after(short)
        # Without lag the difference of two infinite averages is NaN, as it should be.
        assert np.isnan(expected).any() == (readout == "zero_lag" and len(short) == 2)
        zeros = [0.0] * (3 - len(short))
        for padded in ([*short, *zeros], [*zeros, *short]):
            np.testing.assert_allclose(traced(jnp.array(padded)), expected, rtol=FLOAT32_RTOL)
        np.testing.assert_allclose(after([*short, *zeros]), expected, rtol=FLOAT32_RTOL)
    np.testing.assert_array_equal(traced(jnp.array([0.5])), after([0.5]))


def test_a_level_without_weight_hides_no_infinity():
    for decays, expected in [([0.0, 0.0], [1.0, np.inf]), (np.array([0.5, 0.0]), [0.5, np.inf])]:
        tx = nj.scale_by_nested_momentum(decays, readout="zero_lag")
        actual = outflow(tx, jnp.array([1.0, np.inf]))
        np.testing.assert_array_equal(actual, expected)


def test_a_readout_of_16_bit_updates_is_summed_in_float32():
    updates = jax.random.normal(jax.random.key(0), (8, 64)).astype(jnp.bfloat16)
    tx = nj.scale_by_nested_momentum([0.9], readout="mean")
    expected = outflow(tx, updates.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(outflow(tx, updates), expected)


@pytest.mark.parametrize(
    "make", [nj.scale_by_nested_momentum, functools.partial(nj.nested_momentum, 0.1)]
)
def test_rejects_a_readout_it_does_not_know(make):
    rule = "`readout` must be one of 'last', 'zero_lag', 'mean', got "
    with pytest.raises(ValueError, match=f"^{rule}'dema'"):
        make(decays=[0.5], readout="dema")
    with pytest.raises(TypeError, match=f"^{rule}True"):
        make(decays=[0.5], readout=True)
