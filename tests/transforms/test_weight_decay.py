"""Tests of `add_decoupled_weight_decay` and `adamw` against AdamW's paper and optax."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests import oracles
from tests.trajectories import assert_agree, given_gradients, given_params, run

RTOL = 1e-12  # A few float64 roundings.
FLOAT32_RTOL = 4 * np.finfo(np.float32).eps
MASK = {"matrix": True, "vector": False, "scalar": True}


class Tabulated:
    """A schedule of `tests.oracles` that takes traced steps below `steps`."""

    def __init__(self, schedule, steps):
        self.multipliers = np.array([schedule(step) for step in range(steps)])
        self.lengths = np.array([schedule.cycle_steps(step) for step in range(steps)])

    def __call__(self, step):
        return jnp.asarray(self.multipliers)[step]

    def cycle_steps(self, step):
        return jnp.asarray(self.lengths)[step]


def restarts(first_cycle, growth, steps):
    schedule = oracles.warm_restarts(first_cycle, growth)
    return schedule, Tabulated(schedule, steps)


def falling(step):
    return 0.3 / (1 + step)


def test_a_cycle_may_be_longer_than_an_int32_counts():
    schedule = nj.Schedule(multiplier=lambda step: 1.0, cycle_steps=lambda step: 3 * 10**9)
    tx = nj.add_decoupled_weight_decay(0.5, schedule=schedule, normalized=True)
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))
    np.testing.assert_allclose(state.decay, 0.5 / math.sqrt(3e9), rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("decay_times_rate", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("learning_rate", [0.1, falling], ids=["number", "falling"])
def test_agrees_with_the_oracle(x64, learning_rate, normalized, decay_times_rate, mask):
    params, gradients = given_params(), given_gradients()
    theirs, ours = restarts(3, 2.0, 20)
    flags = {"normalized": normalized, "decay_times_rate": decay_times_rate, "mask": mask}
    expected = oracles.adamw(params, gradients, learning_rate, 0.25, schedule=theirs, **flags)
    tx = nj.adamw(learning_rate, weight_decay=0.25, schedule=ours, **flags)
    assert_agree(run(tx, params, gradients), expected)


def test_agrees_with_the_oracle_without_a_schedule(x64):
    params, gradients = given_params(), given_gradients()
    expected = oracles.adamw(params, gradients, 0.1, 0.25, b1=0.5, b2=0.9, eps=0.1)
    tx = nj.adamw(0.1, weight_decay=0.25, b1=0.5, b2=0.9, eps=0.1)
    assert_agree(run(tx, params, gradients, jit=False), expected)


@pytest.mark.parametrize("learning_rate", [0.1, falling], ids=["number", "falling"])
def test_times_the_rate_equals_optax(x64, learning_rate):
    params, gradients = given_params(), given_gradients()
    expected = run(optax.adamw(learning_rate, weight_decay=0.25, mask=MASK), params, gradients)
    tx = nj.adamw(learning_rate, weight_decay=0.25, decay_times_rate=True, mask=MASK)
    assert_agree(run(tx, params, gradients), expected)


def test_normalized_decay_is_over_the_root_of_the_steps_in_the_cycle(x64):
    _, schedule = restarts(100, 2.0, 1600)
    schedule.multipliers = np.ones(1600)
    tx = nj.add_decoupled_weight_decay(0.05, schedule=schedule, normalized=True)
    params = jnp.ones(())

    def step(state, _):
        update, state = tx.update(jnp.zeros(()), state, params)
        return state, (update, state.decay)

    _, (updates, decays) = jax.lax.scan(step, tx.init(params), length=1600)
    # Restarts at 100, 300, 700 and 1500.
    lengths = np.repeat([100, 200, 400, 800, 1600], [100, 200, 400, 800, 100])
    np.testing.assert_allclose(decays, 0.05 / np.sqrt(lengths), rtol=RTOL)
    np.testing.assert_allclose(updates, -0.05 / np.sqrt(lengths), rtol=RTOL)


def test_without_gradients_parameters_fall_by_the_decay_alone(x64):
    params = given_params()
    zeros = [jax.tree.map(np.zeros_like, params)] * 10
    # A rate of 0 too: it is apart from the decay.
    thetas = run(nj.adamw(0.0, weight_decay=0.25), params, zeros)
    expected = [jax.tree.map(lambda p, t=t: p * 0.75**t, params) for t in range(1, 11)]
    assert_agree(thetas, expected)


def test_state_reports_the_coefficient_in_force(x64):
    theirs, ours = restarts(4, 1.0, 10)
    tx = nj.add_decoupled_weight_decay(
        0.5, learning_rate=falling, schedule=ours, normalized=True, mask=False
    )
    state, params = tx.init(jnp.ones(2)), jnp.ones(2)
    for step in range(6):
        _, state = tx.update(params, state, params)
        expected = 0.5 / math.sqrt(4) * falling(step) * theirs(step)
        np.testing.assert_allclose(state.decay, expected, rtol=RTOL)
    assert state.step == 6
    assert state.step.dtype == jnp.int32


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        {"matrix": np.True_, "vector": np.False_, "scalar": True},
        lambda params: jax.tree.map(lambda p: p.ndim != 1, params),
    ],
    ids=["tree", "numpy", "function"],
)
def test_what_is_masked_does_not_decay(mask):
    params = jax.tree.map(jnp.asarray, given_params())
    tx = nj.add_decoupled_weight_decay(0.25, mask=mask)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    for name, decays in MASK.items():
        expected = params[name] * (0.75 if decays else 1)
        np.testing.assert_allclose(updates[name], expected, rtol=FLOAT32_RTOL)


def test_a_mask_may_be_a_prefix():
    params = {"a": {"w": jnp.ones(2), "b": jnp.ones(2)}, "c": [jnp.ones(()), None]}
    tx = nj.add_decoupled_weight_decay(0.25, mask={"a": False, "c": True})
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(updates["a"]["w"][0]) == 1.0
    assert float(updates["c"][0]) == 0.75
    assert updates["c"][1] is None


def test_masks_nest_in_optax_masked():
    params = {"a": jnp.ones(()), "b": jnp.ones(()), "c": jnp.ones(())}
    inner = nj.add_decoupled_weight_decay(0.25, mask={"a": True, "b": False, "c": True})
    tx = optax.masked(inner, {"a": True, "b": True, "c": False})
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.map(float, updates) == {"a": 0.75, "b": 1.0, "c": 1.0}


def test_fits_optax_tree_map_params():
    params = given_params()
    tx = nj.adamw(0.1, mask=MASK)
    state = tx.init(params)
    assert jax.tree.structure(
        optax.tree_map_params(tx, lambda leaf: leaf, state)
    ) == jax.tree.structure(state)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_16_bit_products_are_formed_in_32_bit(dtype):
    params, update = jnp.asarray([300.0, -7.0], dtype), jnp.asarray([0.1, 0.2], dtype)
    tx = nj.add_decoupled_weight_decay(1e-3)
    actual, state = tx.update(update, tx.init(params), params)
    assert (actual.dtype, state.decay.dtype) == (dtype, jnp.float32)
    expected = update.astype(jnp.float32) - jnp.float32(1e-3) * params.astype(jnp.float32)
    np.testing.assert_array_equal(actual, expected.astype(dtype))


def test_narrow_updates_of_wide_parameters_stay_narrow():
    params, update = jnp.ones(2), jnp.ones(2, jnp.bfloat16)
    tx = nj.add_decoupled_weight_decay(0.25)
    assert tx.update(update, tx.init(params), params)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight_decay": -1}, ValueError, "`weight_decay` must be non-negative and finite"),
        ({"weight_decay": "a"}, TypeError, "`weight_decay` must be non-negative and finite"),
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be non-negative and finite"),
        ({"schedule": 0.5}, TypeError, "`schedule` must be callable, got 0.5."),
        ({"normalized": 1}, TypeError, "`normalized` must be True or False, got 1."),
        ({"normalized": True}, TypeError, "`schedule` must have a method `cycle_steps`"),
        (
            {"normalized": True, "schedule": falling},
            TypeError,
            "`schedule` must have a method `cycle_steps` if `normalized`, got <function falling",
        ),
        ({"mask": {"a": 1}}, TypeError, "`mask['a']` must be True or False, got 1."),
        ({"mask": "a"}, TypeError, "`mask` must be True or False, got 'a'."),
    ],
)
def test_rejects(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        nj.add_decoupled_weight_decay(**({"weight_decay": 0.1} | arguments))


def test_adamw_rejects():
    with pytest.raises(TypeError, match=r"`decay_times_rate` must be True or False, got 0\."):
        nj.adamw(decay_times_rate=0)
    with pytest.raises(TypeError, match=r"`schedule` must have a method `cycle_steps`"):
        nj.adamw(normalized=True)


@pytest.mark.parametrize(
    "mask",
    [
        {"a": True},
        {"a": True, "b": True, "c": True},
        {"a": True, "b": {"w": True}},
        {"a": True, "b": None},
        [True, True],
        {},
        lambda params: {"a": True},
    ],
)
def test_rejects_a_mask_of_another_structure(mask):
    params = {"a": jnp.ones(2), "b": jnp.ones(())}
    tx = nj.add_decoupled_weight_decay(0.1, mask=mask)
    with pytest.raises(ValueError, match=r"^`mask` must have the structure of the parameters or"):
        tx.init(params)


def test_rejects_flags_of_a_function_that_are_no_bools():
    tx = nj.add_decoupled_weight_decay(0.1, mask=lambda params: [1.0])
    with pytest.raises(TypeError, match=r"`mask\[0\]` must be True or False, got 1\.0"):
        tx.init([jnp.ones(2)])


def test_needs_params():
    tx = nj.add_decoupled_weight_decay(0.1)
    with pytest.raises(ValueError, match=r"`add_decoupled_weight_decay` needs `params`"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
