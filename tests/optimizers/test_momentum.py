"""Tests of accumulated momentum, of the rate, and of the optimizers made of both momenta."""

import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms import ScaleByAccumulatedMomentumState, ScaleByLearningRateState
from tests import oracles
from tests.trajectories import (
    assert_agree,
    by_name,
    given_gradients,
    given_params,
    outflow,
    run,
)

RTOL = 1e-12  # In float64 each of 20 to 40 steps rounds a few times.
FLOAT32_RTOL = 8 * np.finfo(np.float32).eps


def stacked_gradients():
    return jax.tree.map(lambda *g: jnp.stack(g), *given_gradients())


def halved(step):
    return 0.5 ** (step // 7)


def falling(step):
    return 0.3 / (1.0 + step)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_a_constant_gradient_reaches_the_terminal_velocity(x64, decay):
    steps = np.arange(1, 41)
    actual = outflow(nj.momentum(0.5, decay=decay), jnp.full(40, 3.0))
    # The geometric series 1 + decay + ..., on its way to 1 / (1 - decay).
    np.testing.assert_allclose(actual, -1.5 * (1 - decay**steps) / (1 - decay), rtol=RTOL)


class AgainstTheOracle(chex.TestCase):
    """Steps one by one, as a training loop takes them."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_twenty_steps(self):
        """The standard trajectory, with and without jit."""
        params, gradients = given_params(), given_gradients()
        with jax.enable_x64(True):
            tx = nj.momentum(falling, decay=0.9, schedule=halved)
            update = self.variant(tx.update)
            theta = jax.tree.map(jnp.asarray, params)
            state, actual = tx.init(theta), []
            for gradient in gradients:
                updates, state = update(jax.tree.map(jnp.asarray, gradient), state)
                theta = optax.apply_updates(theta, updates)
                actual.append(jax.tree.map(np.asarray, theta))
            expected = oracles.momentum(params, gradients, falling, 0.9, schedule=halved)
            assert_agree(actual, expected)


@pytest.mark.parametrize("schedule", [None, halved])
@pytest.mark.parametrize("learning_rate", [0.1, falling])
def test_optimizers_agree_with_the_oracle(x64, learning_rate, schedule):
    params, gradients = given_params(), given_gradients()
    options = {"schedule": schedule}
    expected = oracles.momentum(params, gradients, learning_rate, 0.8, **options)
    assert_agree(run(nj.momentum(learning_rate, decay=0.8, **options), params, gradients), expected)
    expected = oracles.nested_momentum(params, gradients, learning_rate, [0.8] * 3, **options)
    tx = nj.nested_momentum(learning_rate, levels=4, decay=0.8, max_levels=6, **options)
    assert_agree(run(tx, params, gradients), expected)


def test_defaults_are_the_documented_ones(x64):
    params, gradients = given_params(), given_gradients()
    expected = oracles.momentum(params, gradients, 0.1, 0.9)
    assert_agree(run(nj.momentum(0.1), params, gradients), expected)
    expected = oracles.nested_momentum(params, gradients, 0.1, [0.95])
    assert_agree(run(nj.nested_momentum(0.1), params, gradients), expected)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_accumulated_is_averaged_over_one_minus_the_decay(x64, decay):
    gradients = stacked_gradients()
    averaged = outflow(nj.scale_by_nested_momentum([decay]), gradients)
    accumulated = outflow(nj.scale_by_accumulated_momentum(decay), gradients)
    scaled = jax.tree.map(lambda m: m / (1 - decay), averaged)
    chex.assert_trees_all_close(accumulated, scaled, rtol=RTOL)
    two_levels = outflow(nj.nested_momentum(0.1, levels=2, decay=decay), gradients)
    one_sum = outflow(nj.momentum(0.1 * (1 - decay), decay=decay), gradients)
    chex.assert_trees_all_close(two_levels, one_sum, rtol=RTOL)


def test_equals_optax(x64):
    gradients = stacked_gradients()
    pairs = [
        (nj.scale_by_accumulated_momentum(0.9), optax.trace(0.9)),
        (nj.scale_by_accumulated_momentum(), optax.trace(0.9)),
        (nj.momentum(0.1, decay=0.9), optax.sgd(0.1, momentum=0.9)),
        (nj.momentum(falling, decay=0.0), optax.sgd(falling)),
        (nj.nested_momentum(0.1, levels=1), optax.sgd(0.1)),
        (nj.nested_momentum(0.1, levels=1, max_levels=3), optax.sgd(0.1)),
        (
            nj.nested_momentum(1.0, levels=2, decay=0.9, debias=True),
            optax.chain(optax.ema(0.9), optax.scale(-1)),
        ),
        (nj.scale_by_learning_rate(0.1), optax.scale_by_learning_rate(0.1)),
        (nj.scale_by_learning_rate(falling), optax.scale_by_learning_rate(falling)),
        (nj.scale_by_learning_rate(1, schedule=halved), optax.scale_by_learning_rate(halved)),
    ]
    # All in one program: compiling is most of the time.
    ours = jax.jit(lambda g: [outflow(tx, g) for tx, _ in pairs])(gradients)
    theirs = jax.jit(lambda g: [outflow(tx, g) for _, tx in pairs])(gradients)
    chex.assert_trees_all_close(ours, theirs, rtol=RTOL)


def test_given_decays_take_the_place_of_levels(x64):
    gradients = stacked_gradients()
    decays = nj.matched_delay_decays(4, decay=0.9)
    expected = jax.tree.map(
        lambda m: -0.1 * m, outflow(nj.scale_by_nested_momentum(decays, debias=True), gradients)
    )
    actual = outflow(nj.nested_momentum(0.1, decays=decays, debias=True), gradients)
    chex.assert_trees_all_close(actual, expected, rtol=RTOL)


def test_rate_reports_itself():
    tx = nj.scale_by_learning_rate(falling, schedule=halved)
    state = tx.init(jnp.ones(2))
    assert isinstance(state, ScaleByLearningRateState)
    assert (state.count, state.count.dtype, state.rate) == (0, jnp.int32, 0.0)
    for step in range(10):
        update, state = tx.update(jnp.ones(2), state)
        np.testing.assert_allclose(state.rate, falling(step) * halved(step), rtol=FLOAT32_RTOL)
        np.testing.assert_array_equal(update, -state.rate)
        assert state.count == step + 1


def test_rate_of_a_very_long_run_does_not_wrap():
    tx = nj.scale_by_learning_rate(0.1)
    last = ScaleByLearningRateState(jnp.asarray(2**31 - 1, jnp.int32), jnp.zeros(()))
    assert tx.update(jnp.ones(()), last)[1].count == 2**31 - 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_rate_neither_promotes_nor_rounds_16_bit_updates(dtype):
    update, eps = jnp.asarray([3.0, -5.0, 7.0], dtype), float(jnp.finfo(dtype).eps)
    rate = 1 + eps / 2  # Rounded first, it would be 1; three times it is not 3.
    expected = (-rate * update.astype(float)).astype(dtype)
    assert expected[0] != -3.0
    for learning_rate in (rate, jnp.float32(rate), lambda step: rate):
        tx = nj.scale_by_learning_rate(learning_rate)
        actual, _ = jax.jit(tx.update)(update, tx.init(update))
        assert actual.dtype == dtype
        np.testing.assert_array_equal(actual, expected)


def test_a_float64_rate_is_exact_under_x64(x64):
    update, _ = nj.scale_by_learning_rate(0.1).update(
        jnp.ones(2), nj.scale_by_learning_rate(0.1).init(jnp.ones(2))
    )
    np.testing.assert_array_equal(update, -0.1)
    narrow = jnp.ones(2, jnp.float32)
    update, state = nj.scale_by_learning_rate(0.1).update(
        narrow, nj.scale_by_learning_rate(0.1).init(narrow)
    )
    assert (update.dtype, state.rate.dtype) == (jnp.float32, jnp.float64)


def test_numpy_trees_pass():
    tx, update = nj.momentum(0.1, decay=0.5), {"a": np.ones(2), "b": np.ones((), np.float32)}
    actual, _ = tx.update(update, tx.init(update))
    np.testing.assert_allclose(actual["a"], -0.1, rtol=FLOAT32_RTOL)
    assert {x.dtype for x in jax.tree.leaves(actual)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_forgets_in_every_dtype_under_a_traced_decay(x64, dtype):
    impulse = jnp.zeros(700, dtype).at[0].set(1.0)
    solve = jax.jit(lambda decay: outflow(nj.scale_by_accumulated_momentum(decay), impulse))
    actual = solve(jnp.float32(0.999))
    assert actual.dtype == dtype
    np.testing.assert_allclose(float(actual[-1]), 0.999**699, rtol=2**-7)


def test_accumulated_state_is_named_after_its_factory():
    tx = nj.scale_by_accumulated_momentum(0.5)
    state = tx.init(jnp.ones(2))
    assert isinstance(state, ScaleByAccumulatedMomentumState)
    for expected in (1.0, 1.5, 1.75):
        _, state = tx.update(jnp.ones(2), state)
        np.testing.assert_array_equal(state.momentum, expected)


def test_masked_leaves_pass_and_numbers_can_be_injected():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = optax.masked(nj.momentum(0.1), {"a": True, "b": False})
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.1, rtol=FLOAT32_RTOL)
    np.testing.assert_array_equal(updates["b"], 1.0)
    numbers = {"levels": 2, "decay": 0.95, "max_levels": 3}
    tx = optax.inject_hyperparams(nj.nested_momentum, "max_levels")(falling, **numbers)
    updates, state = jax.jit(tx.update)(params, tx.init(params))
    assert {"learning_rate", "decay"} <= state.hyperparams.keys()
    np.testing.assert_allclose(updates["a"], -0.3 * 0.05, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize(
    ("factory", "arguments", "error", "message"),
    [
        (nj.scale_by_accumulated_momentum, (1.0,), ValueError, "`decay` must lie in [0, 1), got 1"),
        (nj.scale_by_accumulated_momentum, (None,), TypeError, "`decay` must lie in [0, 1), got N"),
        (nj.momentum, (0.1, math.nan), ValueError, "`decay` must lie in [0, 1), got nan."),
        (nj.momentum, (-0.1,), ValueError, "`learning_rate` must be non-negative and finite, got "),
        (nj.momentum, ("fast",), TypeError, "`learning_rate` must be non-negative and finite, got"),
        (
            nj.scale_by_learning_rate,
            (math.inf,),
            ValueError,
            "`learning_rate` must be non-negative and fin",
        ),
        (nj.scale_by_learning_rate, (0.1, 0.5), TypeError, "`schedule` must be callable, got 0.5."),
        (nj.nested_momentum, (0.1, 0), ValueError, "`levels` must be an integer of at least 1, go"),
        (nj.nested_momentum, (0.1, 2, 1.5), ValueError, "`decay` must lie in [0, 1), got 1.5."),
        (nj.nested_momentum, (math.nan,), ValueError, "`learning_rate` must be non-negative and f"),
    ],
)
def test_rejects(factory, arguments, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        by_name(factory, *arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decays": [2.0]}, ValueError, "`decays[0]` must lie in [0, 1), got 2.0."),
        ({"levels": 3, "max_levels": 2}, ValueError, "`levels` must be at most `max_levels` = 2, "),
        ({"debias": None}, TypeError, "`debias` must be True or False, got None."),
        ({"schedule": 1}, TypeError, "`schedule` must be callable, got 1."),
    ],
)
def test_nested_momentum_rejects(options, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.nested_momentum(0.1, **options)


def test_decays_replace_levels():
    for given in ({"levels": 3}, {"decay": 0.5}, {"max_levels": 4}):
        with pytest.raises(ValueError, match=r"^`decays` replaces `levels`, `decay` and"):
            nj.nested_momentum(0.1, decays=[0.5], **given)


@pytest.mark.parametrize("max_levels", [1, 2, 3])
def test_levels_and_decay_out_of_range_are_an_error_or_nan(max_levels):
    """Also with room for one level, where the vector of decays is empty."""

    def first(levels, decay):
        tx = nj.nested_momentum(0.5, levels=levels, decay=decay, max_levels=max_levels)
        return tx.update(jnp.ones(()), tx.init(jnp.ones(())))[0]

    both = jax.jit(first)
    for levels in range(-1, max_levels + 2):
        for decay in (0.0, 0.75, 1.0, -0.5):
            of_levels = jax.jit(lambda m, a=decay: first(m, a))
            of_decay = jax.jit(lambda a, m=levels: first(m, a))
            room, unit = 1 <= levels <= max_levels, 0 <= decay < 1
            expected = -0.5 * (1 - decay) ** (levels - 1) if room and unit else np.nan
            np.testing.assert_array_equal(both(levels, decay), expected)
            for traced, number, known in ((of_levels, levels, unit), (of_decay, decay, room)):
                if known:
                    np.testing.assert_array_equal(traced(number), expected)
                else:
                    with pytest.raises(ValueError, match="must"):
                        traced(number)
            if not (room and unit):
                with pytest.raises(ValueError, match="must"):
                    first(levels, decay)
