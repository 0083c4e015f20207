"""Tests of `nested_decays` and `matched_delay_decays`: the decays of levels."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from tests import oracles
from tests.trajectories import by_name, outflow
from tests.transforms.cascades import FLOAT32_RTOL, RTOL, impulse


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_decays_of_levels(decay):
    for levels in (1, 2, 5, 19):
        equal, matched = (
            by_name(decays, levels, decay, 19)
            for decays in (nj.nested_decays, nj.matched_delay_decays)
        )
        np.testing.assert_array_equal(equal, oracles.nested_decays(levels, decay, 19))
        expected = oracles.matched_delay_decays(levels, decay, 19)
        np.testing.assert_allclose(matched, expected, rtol=RTOL)
        np.testing.assert_array_equal(nj.nested_decays(levels, decay=decay), equal[: levels - 1])
        assert equal.dtype == matched.dtype == np.float64


@pytest.mark.parametrize("levels", [2, 3, 8, 19])
def test_matched_decays_keep_the_total_delay(x64, levels):
    def delay(decays):
        response = outflow(nj.scale_by_nested_momentum(decays), impulse(3000))
        return jnp.sum(response * jnp.arange(3000))

    matched = nj.matched_delay_decays(levels, decay=0.95, max_levels=19)
    equal = nj.nested_decays(levels, decay=0.95, max_levels=19)
    actual = jax.jit(jax.vmap(delay))(jnp.array([matched, equal]))
    np.testing.assert_allclose(actual, [19.0, (levels - 1) * 19.0], rtol=1e-11)


@pytest.mark.parametrize("decays", [nj.nested_decays, nj.matched_delay_decays])
@pytest.mark.parametrize("decay", [0.0, 0.95])
def test_traced_decays_of_levels_are_the_concrete_ones(decays, decay):
    levels = jnp.arange(1, 7)
    expected = [decays(m, decay=decay, max_levels=6) for m in range(1, 7)]
    both = jax.jit(jax.vmap(lambda m, a: decays(m, decay=a, max_levels=6), (0, None)))(
        levels, decay
    )
    np.testing.assert_allclose(both, expected, rtol=FLOAT32_RTOL)
    of_levels = jax.vmap(lambda m: decays(m, decay=decay, max_levels=6))(levels)
    np.testing.assert_allclose(of_levels, expected, rtol=FLOAT32_RTOL)
    of_decay = jax.jit(lambda a: decays(4, decay=a, max_levels=6))(decay)
    np.testing.assert_allclose(of_decay, expected[3], rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("decays", [nj.nested_decays, nj.matched_delay_decays])
@pytest.mark.parametrize(
    ("levels", "decay"), [(7, 0.5), (0, 0.5), (-1, 0.5), (3, 1.0), (3, -0.1), (1, 1.0)]
)
def test_traced_numbers_out_of_range_are_nan(decays, levels, decay):
    actual = jax.jit(lambda m, a: decays(m, decay=a, max_levels=3))(levels, decay)
    assert np.isnan(actual).all()


@pytest.mark.parametrize("decay", [np.float32(0.9), jnp.float32(0.9), jnp.bfloat16(0.9)])
def test_decays_of_levels_are_float64_whatever_is_given(decay):
    for decays in (nj.nested_decays(3, decay=decay), nj.matched_delay_decays(2, decay=decay)):
        assert decays.dtype == np.float64
        np.testing.assert_allclose(decays, float(decay), rtol=RTOL)


@pytest.mark.parametrize("decays", [nj.nested_decays, nj.matched_delay_decays])
def test_concrete_jax_numbers_stay_concrete_under_jit(decays):
    levels, decay = jnp.asarray(3), jnp.float32(0.9)
    inside = []
    jax.jit(lambda: inside.append(decays(levels, decay=decay, max_levels=5)))()
    np.testing.assert_array_equal(inside[0], decays(3, decay=float(decay), max_levels=5))
    with pytest.raises(ValueError, match="`levels` must be at most `max_levels` = 2, got 3"):
        jax.jit(lambda: decays(levels, decay=decay, max_levels=2))()


def test_traced_numbers_of_few_bits_are_taken_in_32():
    """A difference 1 - decay would round in 16 bits, and 200 does not fit into an int8."""
    decay = jnp.bfloat16(0.1)
    few = jax.jit(lambda levels, a: nj.nested_decays(levels, decay=a, max_levels=200))
    exact = nj.nested_decays(3, decay=float(decay), max_levels=200)
    np.testing.assert_array_equal(few(jnp.int8(3), decay), exact.astype(np.float32))
    matched = jax.jit(lambda a: nj.matched_delay_decays(7, decay=a))(decay)
    exact = nj.matched_delay_decays(7, decay=float(decay))
    np.testing.assert_allclose(matched, exact, rtol=FLOAT32_RTOL)

    @jax.jit
    def settled(a):
        tx = nj.scale_by_nested_momentum([a] * 6)
        one = jnp.ones(())
        step = lambda state, _: tx.update(one, state)[::-1]  # noqa: E731
        return jax.lax.scan(step, tx.init(one), length=100)[1][-1]

    np.testing.assert_allclose(settled(decay), 1, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("decays", [nj.nested_decays, nj.matched_delay_decays])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "`levels` must be an integer of at least 1, got 0."),
        ((2.0,), TypeError, "`levels` must be an integer of at least 1, got 2.0."),
        ((2, 1.0), ValueError, "`decay` must lie in [0, 1), got 1.0."),
        ((4, 0.5, 3), ValueError, "`levels` must be at most `max_levels` = 3, got 4."),
        ((1, 0.5, 0), ValueError, "`max_levels` must be an integer of at least 1, got 0."),
        ((1, 0.5, 2.0), TypeError, "`max_levels` must be an integer of at least 1, got 2.0."),
        ((10**12,), ValueError, f"`levels` must be less than 100001, got {10**12}."),
        ((1, 0.5, 100_001), ValueError, "`max_levels` must be less than 100001, got 100001."),
    ],
)
def test_rejects_levels(decays, arguments, error, message):
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        by_name(decays, *arguments)


@pytest.mark.parametrize("decays", [nj.nested_decays, nj.matched_delay_decays])
def test_traced_levels_need_a_static_maximum(decays):
    with pytest.raises(TypeError, match="`max_levels` must be given when `levels` is traced"):
        jax.jit(decays)(3)
    with pytest.raises(TypeError, match="`max_levels` must be a Python integer, known when tracin"):
        jax.jit(decays)(3, decay=0.5, max_levels=4)
    with pytest.raises(TypeError, match="`levels` must be an integer of at least 1, got JitTracer"):
        jax.jit(lambda levels: decays(levels, decay=0.5, max_levels=4))(2.0)
