"""Tests of `scale_by_nested_momentum` against closed forms: averages, bias correction."""

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
from tests.trajectories import assert_agree, given_gradients, given_params, outflow, run
from tests.transforms.cascades import FLOAT32_RTOL, RTOL, impulse

MIXED = [0.9, 0.5, 0.0, 0.99]


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
