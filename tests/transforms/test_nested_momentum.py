"""Tests of `scale_by_nested_momentum` and its decays against their closed forms."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

import nested_jax as nj
from tests import oracles
from tests.trajectories import assert_agree, by_name, given_gradients, given_params, run

RTOL = 1e-13  # In float64 each of 20 steps x 4 stages rounds twice: well inside this.
# The coefficients of 18 stages without lag reach 48620 and cancel down to numbers of order one.
ZERO_LAG_ATOL = 2**18 * np.finfo(np.float64).eps
FLOAT32_RTOL = 20 * np.finfo(np.float32).eps  # Of 18 stages; numbers that do not add up.
MIXED = [0.9, 0.5, 0.0, 0.99]


def outflow(tx, inflow):
    """Return the updates for `inflow` (time first), stacked likewise."""

    def step(state, update):
        update, state = tx.update(update, state)
        return state, update

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda x: x[0], inflow)), inflow)[1]


def impulse(steps, dtype=float):
    return jnp.zeros(steps, dtype).at[0].set(1.0)


@pytest.mark.parametrize("stages", [0, 1, 2, 5])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_impulse_response_is_negative_binomial(x64, decay, stages):
    weights = [math.comb(j + stages - 1, j) if j else 1 for j in range(20)]
    expected = (1 - decay) ** stages * np.array(weights) * decay ** np.arange(20)
    if stages == 0:
        expected = np.eye(20)[0]
    actual = outflow(nj.scale_by_nested_momentum([decay] * stages), impulse(20))
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


def test_unequal_decays_are_a_signed_mixture_of_parallel_averages(x64):
    decays = np.array([0.9, 0.5, 0.7])
    weights = [
        np.prod([a * (1 - b) / (a - b) for b in decays if b != a]) for a in decays
    ]  # 9.6, 0.1 and -8.7: it cancels.
    np.testing.assert_allclose(sum(weights), 1.0, rtol=RTOL)
    averages = [outflow(nj.scale_by_nested_momentum([a]), impulse(20)) for a in decays]
    actual = outflow(nj.scale_by_nested_momentum(decays), impulse(20))
    np.testing.assert_allclose(actual, weights @ np.array(averages), atol=RTOL)
    permuted = outflow(nj.scale_by_nested_momentum(decays[::-1]), impulse(20))
    np.testing.assert_allclose(permuted, actual, rtol=RTOL)


class AgainstTheOracle(chex.TestCase):
    """Steps one by one, as a training loop takes them."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_twenty_steps(self):
        """The standard trajectory, with and without jit."""
        gradients = given_gradients()
        with jax.enable_x64(True):
            for decays, debias in [([], False), ([0.95] * 3, False), (MIXED, False), (MIXED, True)]:
                tx = nj.scale_by_nested_momentum(decays, debias=debias)
                update = self.variant(tx.update)
                state, actual = tx.init(jax.tree.map(jnp.asarray, gradients[0])), []
                for gradient in gradients:
                    updates, state = update(jax.tree.map(jnp.asarray, gradient), state)
                    actual.append(jax.tree.map(np.asarray, updates))
                expected = oracles.by_name(oracles.cascade, gradients, decays, debias)
                assert_agree(actual, expected)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("decays", [[0.95], [0.95] * 18, MIXED], ids=str)
def test_optimizer_agrees_with_the_oracle(x64, decays, debias):
    params, gradients = given_params(), given_gradients()
    expected = oracles.nested_momentum(params, gradients, 0.1, decays, debias=debias)
    tx = nj.nested_momentum(0.1, decays=decays, debias=debias)
    assert_agree(run(tx, params, gradients), expected)


@pytest.mark.parametrize("stages", [1, 2, 3, 18])
def test_bias_correction_of_equal_decays_is_the_incomplete_beta_function(x64, stages):
    gradients = jnp.asarray(np.random.default_rng(2).normal(size=30))
    response = special.betainc(stages, np.arange(1, 31), 0.1)
    plain = outflow(nj.scale_by_nested_momentum([0.9] * stages), gradients)
    tx = nj.scale_by_nested_momentum([0.9] * stages, debias=True)
    np.testing.assert_allclose(outflow(tx, gradients), plain / response, rtol=1e-11)
    state = tx.init(gradients[0])
    for t in range(10):
        _, state = tx.update(gradients[t], state)
        np.testing.assert_allclose(np.prod(state.gains), response[t], rtol=RTOL)
    if stages == 3:
        assert float(np.prod(state.gains)) == pytest.approx(0.1109, abs=5e-5)
        naive = (1 - 0.9**10) ** 3
        assert naive == pytest.approx(0.2763, abs=5e-5)


@pytest.mark.parametrize(
    "decays", [[0.999] * 18, [0.95] * 4, [0.9, 0.0, 0.9999, 0.0]], ids=["deep", "equal", "mixed"]
)
def test_debiased_constants_pass_from_the_first_step_on(decays):
    # The response of 18 stages to the first constant is 1e-54, which is 0 in float32.
    constant = jnp.full((50, 2), jnp.array([3.0, -1e-3]))
    actual = outflow(nj.scale_by_nested_momentum(decays, debias=True), constant)
    np.testing.assert_allclose(actual, constant, rtol=FLOAT32_RTOL)


def test_debias_is_exact_for_scheduled_decays(x64):
    gradients = np.random.default_rng(3).normal(size=30)
    decays = [lambda step: 0.99 - 0.5 / (step + 1.0), lambda step: 0.02 * step, lambda step: 0.9]

    def step(state, t_and_gradient):
        t, gradient = t_and_gradient
        tx = nj.scale_by_nested_momentum([decay(t) for decay in decays], debias=True)
        update, state = tx.update(gradient, state)
        return state, update

    start = nj.scale_by_nested_momentum([0.5] * 3, debias=True).init(jnp.zeros(()))
    times = jnp.arange(30.0)
    _, actual = jax.lax.scan(step, start, (times, jnp.asarray(gradients)))
    np.testing.assert_allclose(actual, oracles.cascade(gradients, decays, True), rtol=1e-11)


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


@pytest.mark.parametrize("debias", [False, True])
def test_padding_a_level_out_changes_nothing(debias):
    gradients = jnp.asarray(np.random.default_rng(4).normal(size=(40, 3)), float)
    short = outflow(nj.scale_by_nested_momentum([0.9, 0.5], debias=debias), gradients)
    for padded in ([0.9, 0.5, 0.0, 0.0], [0.0, 0.9, 0.0, 0.5]):
        actual = outflow(nj.scale_by_nested_momentum(padded, debias=debias), gradients)
        # Not to the bit: a compiler may round a product and a sum once or twice.
        np.testing.assert_allclose(actual, short, rtol=0, atol=FLOAT32_RTOL)
    none = outflow(nj.scale_by_nested_momentum([0.0, 0.0], debias=debias), gradients)
    np.testing.assert_array_equal(none, gradients)


def test_padding_changes_nothing_even_after_an_infinite_update():
    """A stage never forgets an infinity; what is no stage has nothing to forget."""
    gradients = jnp.array([1.0, np.inf, 1.0, 1.0])

    def after(decays):
        return np.asarray(outflow(nj.scale_by_nested_momentum(decays), gradients))

    with_stage, without = [0.5, np.inf, np.inf, np.inf], [1.0, np.inf, 1.0, 1.0]
    traced = jax.jit(lambda decays, g: outflow(nj.scale_by_nested_momentum(decays), g))
    for decays, expected in (([0.5, 0.0], with_stage), ([0.0], without), ([0.5], with_stage)):
        np.testing.assert_array_equal(after(decays), expected)
        np.testing.assert_array_equal(traced(jnp.array(decays), gradients), expected)


def test_a_concrete_decay_costs_no_selection():
    """Stages of decay 0 are found when the program is traced, not when it runs."""
    tx = nj.scale_by_nested_momentum([0.9, 0.0])
    program = jax.make_jaxpr(tx.update)(jnp.ones(2), tx.init(jnp.ones(2)))
    assert "select_n" not in str(program)


@pytest.mark.parametrize("debias", [False, True])
def test_depth_is_vmappable(x64, debias):
    gradients = jax.random.normal(jax.random.key(0), (20, 3))

    def at(levels, decay):
        return outflow(
            nj.scale_by_nested_momentum(
                nj.nested_decays(levels, decay=decay, max_levels=5), debias=debias
            ),
            gradients,
        )

    together = jax.jit(jax.vmap(at))(jnp.arange(1, 6), jnp.linspace(0.5, 0.98, 5))
    for levels, decay in enumerate(np.linspace(0.5, 0.98, 5), start=1):
        alone = outflow(
            nj.scale_by_nested_momentum([decay] * (levels - 1), debias=debias), gradients
        )
        np.testing.assert_allclose(together[levels - 1], alone, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_forgets_in_every_dtype_under_a_traced_decay(x64, dtype):
    solve = jax.jit(lambda a: outflow(nj.scale_by_nested_momentum([a]), impulse(700, dtype)))
    actual = solve(jnp.float32(0.999))
    assert actual.dtype == dtype
    np.testing.assert_allclose(float(actual[-1]), 0.001 * 0.999**699, rtol=2**-7)


def test_a_concrete_decay_is_complemented_before_it_is_rounded():
    # In float32, 1 - 0.9999 is off by 1.7e-4 of its value.
    for decays in ([0.9999], np.array([0.9999]), nj.nested_decays(2, decay=0.9999)):
        actual = outflow(nj.scale_by_nested_momentum(decays), impulse(1))
        np.testing.assert_allclose(actual, 1e-4, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("debias", [False, True])
def test_updates_wider_than_the_parameters_leave_the_state_as_it_is(x64, debias):
    tx = nj.scale_by_nested_momentum([0.5], debias=debias)
    state = tx.init(jnp.ones(2, jnp.bfloat16))
    updates, after = tx.update(jnp.ones(2, jnp.float64), state)
    chex.assert_trees_all_equal_dtypes(after, state)
    assert updates.dtype == jnp.float64


@chex.assert_max_traces(n=1)
def test_composes_with_chain_and_masked():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(nj.scale_by_nested_momentum([0.5], debias=True), {"a": True, "b": False}),
        optax.masked(nj.scale_by_nested_momentum([0.5]), {"a": False, "b": True}),
        optax.scale_by_learning_rate(0.1),
    )
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], -0.05, rtol=FLOAT32_RTOL)
    np.testing.assert_allclose(updates["b"], -0.025, rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("debias", [False, True])
def test_one_stage_is_optax_ema_and_none_is_identity(x64, debias):
    gradients = jax.tree.map(lambda *g: jnp.stack(g), *given_gradients())
    one = outflow(nj.scale_by_nested_momentum([0.9], debias=debias), gradients)
    chex.assert_trees_all_close(one, outflow(optax.ema(0.9, debias), gradients), rtol=1e-12)
    none = outflow(nj.scale_by_nested_momentum([], debias=debias), gradients)
    chex.assert_trees_all_equal(none, gradients)


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


def test_gains_are_of_the_parameters_dtype_where_float64_is_allowed(x64):
    params = jnp.ones(2, jnp.float32)

    def gains(decays):
        tx = nj.scale_by_nested_momentum(decays, debias=True)
        state = tx.init(params)
        return state.gains, tx.update(params, state)[1].gains

    for decays in ([0.9, 0.5], jnp.array([0.9, 0.5])):
        shapes = jax.tree.leaves(jax.eval_shape(gains, decays))
        assert {x.dtype for x in shapes} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.7, math.nan, math.inf])
@pytest.mark.parametrize("convert", [list, tuple, np.array, jnp.array])
def test_rejects_a_decay_outside_the_unit_interval(convert, decay):
    decays = convert([0.5, decay])
    with pytest.raises(ValueError, match=rf"^`decays\[1\]` must lie in \[0, 1\), got {decays[1]}"):
        nj.scale_by_nested_momentum(decays)
    with pytest.raises(ValueError, match=rf"^`decays\[1\]` must lie in \[0, 1\), got {decays[1]}"):
        jax.eval_shape(lambda: nj.scale_by_nested_momentum(decays).init(jnp.ones(2)))


@pytest.mark.parametrize(
    ("decays", "error", "message"),
    [
        ([0.5, "0.5"], TypeError, "`decays[1]` must lie in [0, 1), got '0.5'."),
        ([True], TypeError, "`decays[0]` must lie in [0, 1), got True."),
        ([[0.5]], TypeError, "`decays[0]` must lie in [0, 1), got [0.5]."),
        (0.5, TypeError, "`decays` must be a sequence of numbers or a vector, got 0.5."),
        ("0.5", TypeError, "`decays` must be a sequence of numbers or a vector, got '0.5'."),
        (jnp.float32(0.5), ValueError, "`decays` must be a vector, got an array of shape ()."),
        (np.ones((2, 1)), ValueError, "`decays` must be a vector, got an array of shape (2, 1)."),
    ],
)
def test_rejects_what_is_no_vector_of_decays(decays, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.scale_by_nested_momentum(decays)


def test_rejects_a_traced_matrix_and_traced_integers_pass():
    with pytest.raises(
        ValueError, match=r"`decays` must be a vector, got an array of shape \(1, 2"
    ):
        jax.jit(lambda decays: nj.scale_by_nested_momentum(decays).init(0))(jnp.ones((1, 2)))
    zeros = jax.jit(lambda decays: outflow(nj.scale_by_nested_momentum(decays), jnp.ones(2)))
    np.testing.assert_array_equal(zeros(jnp.zeros(2, int)), 1.0)


def test_rejects_a_debias_that_is_no_flag():
    with pytest.raises(TypeError, match=r"`debias` must be True or False, got 1\."):
        nj.scale_by_nested_momentum([0.5], debias=1)


@pytest.mark.parametrize(
    "make", [nj.scale_by_nested_momentum, functools.partial(nj.nested_momentum, 0.1)]
)
def test_rejects_a_readout_it_does_not_know(make):
    rule = "`readout` must be one of 'last', 'zero_lag', 'mean', got "
    with pytest.raises(ValueError, match=f"^{rule}'dema'"):
        make(decays=[0.5], readout="dema")
    with pytest.raises(TypeError, match=f"^{rule}True"):
        make(decays=[0.5], readout=True)


@pytest.mark.parametrize(
    ("debias", "other", "message"),
    [
        (False, {"debias": True}, "2 stages and `debias` False, got 2 momenta and 2 gains."),
        (True, {"debias": False}, "2 stages and `debias` True, got 2 momenta and 0 gains."),
        (False, {"decays": [0.5]}, "2 stages and `debias` False, got 1 momenta and 0 gains."),
        (True, {"decays": [0.5] * 3, "debias": True}, "2 stages and `debias` True, got 3 momenta "),
    ],
)
def test_rejects_the_state_of_another_cascade(debias, other, message):
    tx = nj.scale_by_nested_momentum([0.5, 0.5], debias=debias)
    state = nj.scale_by_nested_momentum(**({"decays": [0.5, 0.5]} | other)).init(jnp.ones(2))
    message = f"`state` must be of nested momentum with {message}"
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        tx.update(jnp.ones(2), state)


@pytest.mark.parametrize("decays", [[], [0.5]], ids=str)
def test_rejects_updates_of_integers(decays):
    tx = nj.scale_by_nested_momentum(decays)
    with pytest.raises(TypeError, match="Arrays must be of a floating dtype, got int32 at"):
        tx.update({"w": jnp.ones(2, jnp.int32)}, tx.init({"w": jnp.ones(2)}))


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
