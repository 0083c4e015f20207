"""Tests of `clip_by_block_rms` against its definition, optax and what its state is to report."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms import _clipping
from tests import oracles

RTOL = 1e-14  # In float64: a mean of a few squares, a root, a quotient and a product.
FLOAT32_RTOL = 10 * np.finfo(np.float32).eps


def clip(updates, threshold):
    tx = nj.clip_by_block_rms(threshold)
    return tx.update(updates, tx.init(updates))


def random_updates(dtype=float):
    rng = np.random.default_rng(0)
    scales = {"small": 0.1, "middle": 1.0, "large": 30.0}
    return {n: jnp.asarray(s * rng.normal(size=(4, 3)), dtype) for n, s in scales.items()}


def test_each_leaf_has_a_root_mean_square_of_its_own():
    updates = {
        "low": jnp.array([1.0, -1.0]),
        "high": jnp.array([[3.0, -5.0]]),
        "one": jnp.array(-8),
    }
    updates["one"] = updates["one"].astype(float)
    clipped, state = clip(updates, 2.0)
    np.testing.assert_array_equal(clipped["low"], updates["low"])
    np.testing.assert_allclose(
        clipped["high"], updates["high"] * 2 / math.sqrt(17), rtol=FLOAT32_RTOL
    )
    np.testing.assert_allclose(clipped["one"], -2.0, rtol=FLOAT32_RTOL)
    assert float(state.rms) == 8
    assert float(state.factor) == 0.25


@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0, 2.0, 1e30])
def test_agrees_with_the_oracle_and_optax(x64, threshold):
    updates = random_updates()
    clipped, state = clip(updates, threshold)
    theirs = optax.clip_by_block_rms(threshold).update(updates, optax.EmptyState())[0]
    for name in updates:
        expected = oracles.clip_by_block_rms(np.asarray(updates[name]), threshold)
        np.testing.assert_allclose(clipped[name], expected, rtol=RTOL)
        np.testing.assert_allclose(clipped[name], theirs[name], rtol=RTOL)
    rms = {name: oracles.rms(np.asarray(u)) for name, u in updates.items()}
    np.testing.assert_allclose(state.rms, max(rms.values()), rtol=RTOL)
    factors = [1 / max(1, r / threshold) for r in rms.values()]
    np.testing.assert_allclose(state.factor, min(factors), rtol=RTOL)


def test_what_is_below_the_threshold_leaves_bit_for_bit():
    updates = random_updates(jnp.float32)["middle"]
    clipped, state = clip(updates, 1e30)
    np.testing.assert_array_equal(clipped, updates)
    assert state.factor == 1


def test_state_is_of_the_last_update():
    tx = nj.clip_by_block_rms(1.0)
    state = tx.init(jnp.ones(2))
    assert (state.rms, state.factor) == (0, 1)
    _, state = tx.update(jnp.full(2, 4.0), state)
    _, state = tx.update(jnp.full(2, 0.5), state)
    assert (state.rms, state.factor) == (0.5, 1)


def test_the_largest_leaf_counts_wherever_it_is():
    # Three groups of `_clipping.GROUP` = 64: their ends, and the end of the incomplete one.
    places = np.array([0, 63, 64, 129])
    rows = np.ones((4, 130), np.float32)
    rows[np.arange(4), places] = 8
    # One leaf holds a number for each case, so that the programs are few.
    values = [jnp.asarray(column) for column in rows.T]
    largest = jax.vmap(_clipping._largest, (0, None))(values, jnp.float32(0))
    np.testing.assert_array_equal(largest, 8)


def test_nan_shows_in_its_leaf_and_in_the_state():
    clipped, state = clip({"bad": jnp.array([1.0, jnp.nan]), "good": jnp.ones(2)}, 0.5)
    assert np.isnan(clipped["bad"]).all()
    np.testing.assert_array_equal(clipped["good"], 0.5)
    assert np.isnan(state.rms)
    assert np.isnan(state.factor)


def test_leaves_of_size_0_and_empty_trees():
    updates = {"void": jnp.zeros((0, 3)), "none": None, "masked": optax.MaskedNode()}
    clipped, state = clip(updates, 1.0)
    assert jax.tree.structure(clipped) == jax.tree.structure(updates)
    assert clipped["void"].shape == (0, 3)
    assert (state.rms, state.factor) == (0, 1)
    _, state = clip(updates | {"some": jnp.full(2, 2.0)}, 1.0)
    assert (state.rms, state.factor) == (2, 0.5)
    assert clip({}, 1.0)[0] == {}


def test_zeros_leave_as_zeros_and_their_derivative_is_finite():
    clipped, state = clip(jnp.zeros(3), 1.0)
    np.testing.assert_array_equal(clipped, 0)
    assert (state.rms, state.factor) == (0, 1)
    slope = jax.grad(lambda u: clip(u, 1.0)[0].sum())(jnp.zeros(3))
    np.testing.assert_array_equal(slope, 1)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bit_updates_are_measured_in_float32(dtype):
    updates = jnp.full(8, 512.0, dtype)  # In float16 the square is infinite.
    clipped, state = clip(updates, 1.0)
    assert clipped.dtype == dtype
    assert state.rms.dtype == state.factor.dtype == jnp.float32
    np.testing.assert_array_equal(np.asarray(clipped, float), 1.0)
    assert (state.rms, state.factor) == (512, 1 / 512)


def test_state_is_of_the_parameters_dtype_where_float64_is_allowed(x64):
    params = jnp.ones(2, jnp.float32)
    tx = nj.clip_by_block_rms(1.0)
    state = tx.init(params)
    for each in (state, tx.update(params, state)[1]):
        assert each.rms.dtype == each.factor.dtype == jnp.float32


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.inf, math.nan])
def test_rejects_a_threshold_out_of_range(threshold):
    message = f"`threshold` must be positive and finite, got {threshold:g}."
    with pytest.raises(ValueError, match=re.escape(message)):
        nj.clip_by_block_rms(threshold)


@pytest.mark.parametrize("threshold", [None, "1", True])
def test_rejects_a_threshold_that_is_no_number(threshold):
    message = f"`threshold` must be positive and finite, got {threshold!r}."
    with pytest.raises(TypeError, match=re.escape(message)):
        nj.clip_by_block_rms(threshold)
