"""Tests of nested momentum whose stages change only every so many steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nested_jax as nj
from tests import oracles

RTOL = 1e-11  # Of float64, over 60 steps of six stages.
STEPS = 60

# Decays and periods, outermost first.
CASCADES = {
    "one": ([0.9], [5]),
    "slower outside": ([0.9, 0.5, 0.7], [6, 2, 1]),
    "slower inside": ([0.5, 0.9], [1, 7]),
    "no common factor": ([0.95] * 6, [5, 3, 2, 7, 1, 4]),
    "passing stages": ([0.0, 0.5, 0.0, 0.8], [9, 2, 4, 3]),
    "every step": ([0.9, 0.5], [1, 1]),
    "never": ([0.5, 0.5], [2, 1000]),
}


def gradients():
    return np.random.default_rng(0).normal(size=(STEPS, 3))


@functools.partial(jax.jit, static_argnames=("debias", "readout"))
def outputs(decays, periods, inputs, debias=False, readout="last"):
    tx = nj.scale_by_nested_momentum(decays, periods=periods, debias=debias, readout=readout)

    def step(state, u):
        y, state = tx.update(u, state)
        return state, y

    return jax.lax.scan(step, tx.init(inputs[0]), inputs)[1]


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("name", CASCADES)
def test_it_is_its_recurrence(name, debias, x64):
    decays, periods = CASCADES[name]
    expected = oracles.periodic_cascade(gradients(), decays, periods, debias)
    found = outputs(np.array(decays), np.array(periods), gradients(), debias)
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=RTOL)


def test_concrete_and_traced_numbers_agree(x64):
    decays, periods = CASCADES["passing stages"]
    tx = nj.scale_by_nested_momentum(decays, periods=periods)
    state, found = tx.init(jnp.zeros(3)), []
    for u in gradients()[:20]:
        y, state = tx.update(u, state)
        found.append(y)
    traced = outputs(np.array(decays), np.array(periods), gradients()[:20])
    np.testing.assert_allclose(found, traced, rtol=RTOL)


@pytest.mark.parametrize("debias", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_period_of_1_is_the_cascade_bit_by_bit(dtype, debias):
    """Operation by operation; compiled together, XLA may contract other products and sums."""
    plain = nj.scale_by_nested_momentum([0.9, 0.0, 0.5], debias=debias)
    every = nj.scale_by_nested_momentum([0.9, 0.0, 0.5], periods=[1, 4, 1], debias=debias)
    inputs = jnp.asarray(gradients()[:8], dtype).at[3, 0].set(jnp.inf).at[4].set(-0.0)
    states = [tx.init(inputs[0]) for tx in (plain, every)]
    for u in inputs:
        one, states[0] = plain.update(u, states[0])
        other, states[1] = every.update(u, states[1])
        assert one.dtype == other.dtype == dtype
        np.testing.assert_array_equal(np.asarray(one, float), np.asarray(other, float))
        np.testing.assert_array_equal(np.signbit(one), np.signbit(other))


def test_one_program_serves_all_levels_decays_and_periods(x64):
    run = jax.jit(jax.vmap(lambda a, c: outputs(a, c, gradients()[:, :1], True)))
    decays = np.array([[0.9, 0.0, 0.0], [0.9, 0.5, 0.0], [0.9, 0.5, 0.7]])
    periods = np.array([[3, 1, 1], [4, 2, 9], [1, 5, 2]])
    found = run(decays, periods)
    for a, c, y in zip(decays, periods, found, strict=True):
        expected = oracles.periodic_cascade(gradients()[:, :1], a, c, True)
        np.testing.assert_allclose(y, expected, rtol=RTOL, atol=RTOL)
    run(decays[::-1], periods + 1)
    assert run._cache_size() == 1


def test_a_constant_passes_once_the_outermost_stage_has_changed(x64):
    ones = np.ones((30, 1))
    found = outputs(np.array([0.9, 0.8]), np.array([4, 3]), ones, debias=True)[:, 0]
    # The outermost first changes in step 4, by a mean in which the inner one is there.
    np.testing.assert_array_equal(found[:3], 0)
    np.testing.assert_allclose(found[3:], 1, rtol=RTOL)


def test_means_of_constant_blocks_are_a_slower_cascade(x64):
    """One stage with period C sees blocks of C equal inputs as single ones."""
    blocks = gradients()[:12]
    slow = outputs(np.array([0.9]), np.array([5]), np.repeat(blocks, 5, axis=0))
    fast = outputs(np.array([0.9]), np.array([1]), blocks)
    np.testing.assert_allclose(slow[4::5], fast, rtol=RTOL)


def test_readouts_combine_the_levels(x64):
    decays, periods = np.array([0.9, 0.5]), np.array([2, 3])
    inner = outputs(decays[1:], periods[1:], gradients())
    both = outputs(decays, periods, gradients())
    mean = outputs(decays, periods, gradients(), readout="mean")
    np.testing.assert_allclose(mean, (gradients() + inner + both) / 3, rtol=RTOL, atol=RTOL)


def test_an_infinite_update_stays_infinite_and_no_nan():
    inputs = np.zeros((9, 1), np.float32)
    inputs[1] = np.inf
    found = outputs(np.array([0.5]), np.array([3]), inputs)[:, 0]
    np.testing.assert_array_equal(found, [0, 0] + [np.inf] * 7)


def test_the_optimizer_takes_periods(x64):
    tx = nj.nested_momentum(0.1, levels=2, decay=0.9, max_levels=3, periods=[4, 7])
    state, found = tx.init(jnp.zeros(3)), []
    for u in gradients()[:10]:
        y, state = tx.update(u, state)
        found.append(y)
    expected = oracles.periodic_cascade(gradients()[:10], [0.9], [4])
    np.testing.assert_allclose(found, -0.1 * np.asarray(expected), rtol=RTOL)


@pytest.mark.parametrize(
    ("periods", "error", "message"),
    [
        ([2], ValueError, "`periods` must have one entry for each of `decays`, got 1 for 2."),
        ([2, 0], ValueError, r"`periods\[1\]` must be an integer of at least 1, got 0."),
        ([1.5, 2], TypeError, r"`periods\[0\]` must be an integer of at least 1, got 1.5."),
        ([2, 2**40], ValueError, r"`periods\[1\]` must be less than 2147483648, got 109951162777"),
        (3, TypeError, "`periods` must be a sequence of numbers or a vector, got 3."),
        (np.ones((2, 2), int), ValueError, "`periods` must be a vector, got an array of shape"),
    ],
)
def test_what_is_refused(periods, error, message):
    with pytest.raises(error, match=message):
        nj.scale_by_nested_momentum([0.9, 0.5], periods=periods)


@pytest.mark.parametrize(
    ("decays", "periods"), [([0.9, 0.5], [2, 0]), ([0.9, 0.5], [-3, 2]), ([0.9, 1.5], [4, 2])]
)
def test_what_is_traced_and_out_of_range_is_nan_from_the_first_step(decays, periods):
    found = outputs(np.array(decays), np.array(periods), gradients()[:4])
    assert np.isnan(found).all()


def test_the_state_holds_what_is_used():
    for debias in (False, True):
        tx = nj.scale_by_nested_momentum([0.9, 0.5], periods=[2, 3], debias=debias)
        memory = tx.init(jnp.ones(2)).periods
        assert [phase.dtype for phase in memory.phases] == [jnp.int32] * 2
        assert len(memory.weights) == (2 if debias else 0)


def test_a_state_of_the_other_kind_is_refused():
    plain = nj.scale_by_nested_momentum([0.9])
    every = nj.scale_by_nested_momentum([0.9], periods=[2])
    message = "`state` must be of nested momentum {} periods, got one {}."
    with pytest.raises(ValueError, match=message.format("with", "without")):
        every.update(jnp.ones(2), plain.init(jnp.ones(2)))
    with pytest.raises(ValueError, match=message.format("without", "with")):
        plain.update(jnp.ones(2), every.init(jnp.ones(2)))
