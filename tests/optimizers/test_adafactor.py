"""Tests of `adafactor` and `factored_adamw`: every option against the paper, and optax's."""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests import oracles
from tests.trajectories import assert_agree, distance, given_gradients, given_params, run

OPTAX_TOLERANCE = 1e-6  # optax forms 1 - t^-c in float32, whatever the parameters are.
ROUNDINGS = 4  # 22 steps round the parameters to 16 bits each, at random: sqrt(22) halves.
MASK = {"matrix": True, "vector": False, "scalar": True, "tensor": False}


def halved(step):
    return 0.5 ** (step // 7)


class Sawtooth(NamedTuple):
    """A schedule whose cycles have 7 steps, but `first` in the first."""

    first: int = 7

    def __call__(self, step):
        """Return the multiplier."""
        return 1 - 0.1 * (step % 7)

    def cycle_steps(self, step):
        """Return the steps in the cycle that `step` lies in."""
        return self.first + (7 - self.first) * (step >= 7)


def with_tensor(tree, seed):
    """Add an array whose two largest axes are not its last ones."""
    return tree | {"tensor": np.random.default_rng(seed).normal(size=(4, 3, 2))}


def assert_is_the_oracle(ours, oracle, *args, jit=True, **options):
    params = with_tensor(given_params(), 10)
    gradients = [with_tensor(g, 11 + step) for step, g in enumerate(given_gradients())]
    expected = oracle(params, gradients, *args, **options)
    assert_agree(run(ours(*args, **options), params, gradients, jit=jit), expected)


# The rate is capped at 0.3, and so by 1 / sqrt(t) from t = 12 on.
OPTIONS = [
    {},
    {"b1": 0.9},
    {"b1": 0.9, "momentum_of": "step"},
    {"b1": 0.9, "momentum_of": "step", "schedule": Sawtooth(), "weight_decay": 0.1},
    {"b1": 0.9, "momentum_of": "update", "schedule": Sawtooth(), "weight_decay": 0.1},
    {"b1": 0.9, "momentum_of": "step", "relative_step": False},
    {"decay_rate": 0.5},
    {"decay_rate": 1.0},
    {"b2": 0.9},
    {"b2_cap": 0.5},
    {"clip_threshold": None},
    {"clip_threshold": 0.5},
    {"relative_step": False},
    {"warmup_init": True},
    {"scale_by_parameter": False},
    {"scale_by_parameter": False, "relative_step": False},
    {"eps1": 1e-2},
    {"eps2": 1.0},
    {"factored": False},
    {"min_dim_size_to_factor": 5},
    {"factored_dims": "last"},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "mask": MASK},
    {"weight_decay": 0.1, "schedule": Sawtooth()},
    {"weight_decay": 0.1, "schedule": Sawtooth(25), "normalized": True},
    {"schedule": Sawtooth()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_agrees_with_the_oracle(x64, options):
    assert_is_the_oracle(nj.adafactor, oracles.adafactor, 0.3, **options)


@pytest.mark.parametrize("learning_rate", [None, halved], ids=["the paper's cap", "a function"])
@pytest.mark.parametrize("warmup_init", [False, True])
def test_agrees_with_the_oracle_for_other_caps(x64, learning_rate, warmup_init):
    options = {"warmup_init": warmup_init, "b1": 0.9}
    assert_is_the_oracle(nj.adafactor, oracles.adafactor, learning_rate, **options)


def test_agrees_with_the_oracle_without_a_jit(x64):
    options = {"b1": 0.9, "weight_decay": 0.1, "schedule": Sawtooth()}
    assert_is_the_oracle(nj.adafactor, oracles.adafactor, halved, jit=False, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": Sawtooth(25)},
        {"schedule": Sawtooth(25), "b1": 0.0},
        {"schedule": Sawtooth(25), "mask": MASK, "momentum_of": "step"},
        {"normalized": False},
        {"normalized": False, "schedule": Sawtooth(), "b2_cap": 0.9, "clip_threshold": None},
        {"normalized": False, "factored": False, "relative_step": False, "warmup_init": False},
        {"normalized": False, "decay_rate": 0.5, "eps1": 1e-2, "eps2": 1.0},
        {"normalized": False, "b2": 0.9, "scale_by_parameter": False},
        {"normalized": False, "min_dim_size_to_factor": 5, "warmup_init": True},
        {"normalized": False, "factored_dims": "last"},
    ],
    ids=str,
)
def test_factored_adamw_agrees_with_the_oracle(x64, options):
    assert_is_the_oracle(
        functools.partial(nj.factored_adamw, schedule=None),
        oracles.factored_adamw,
        0.3,
        weight_decay=0.2,
        **options,
    )


def test_defaults_of_factored_adamw(x64):
    params, gradients = given_params(), given_gradients()
    expected = oracles.factored_adamw(params, gradients, 1e-2, 0.025, schedule=Sawtooth())
    assert_agree(run(nj.factored_adamw(schedule=Sawtooth()), params, gradients), expected)


@pytest.mark.parametrize("momentum_of", ["update", "step"])
def test_momentum_of_decay_0_is_none(x64, momentum_of):
    params, gradients = given_params(), given_gradients()
    schedule = Sawtooth()
    with_buffer = nj.adafactor(0.3, b1=0.0, momentum_of=momentum_of, schedule=schedule)
    without = nj.adafactor(0.3, momentum_of=momentum_of, schedule=schedule)
    expected = run(without, params, gradients)
    assert_agree(run(with_buffer, params, gradients), expected)


def test_a_fall_of_the_rate_acts_at_once_on_the_momentum_of_updates():
    def fall(step):
        return jnp.where(step < 10, 0.1, 0.0)

    for momentum_of, still in (("update", True), ("step", False)):
        options = {"relative_step": False, "b1": 0.9, "momentum_of": momentum_of}
        thetas = run(nj.adafactor(fall, **options), given_params(), given_gradients())
        assert (distance(thetas[10], thetas[19]) == 0) == still


def test_is_optax_with_the_papers_rate(x64):
    params, gradients = given_params(), given_gradients()
    theirs = optax.adafactor(
        lambda step: jnp.minimum(0.3, (step + 1.0) ** -0.5), min_dim_size_to_factor=2
    )
    assert_agree(
        run(nj.adafactor(0.3), params, gradients),
        run(theirs, params, gradients),
        OPTAX_TOLERANCE,
    )


def test_is_optax_with_momentum_of_steps_and_weight_decay(x64):
    params, gradients = given_params(), given_gradients()
    mask = {name: MASK[name] for name in params}
    options = {"min_dim_size_to_factor": 5, "clipping_threshold": 0.7, "eps": 1e-10}
    theirs = optax.adafactor(
        0.1, momentum=0.9, weight_decay_rate=0.01, weight_decay_mask=mask, **options
    )
    ours = nj.adafactor(
        0.1,
        b1=0.9,
        momentum_of="step",
        relative_step=False,
        min_dim_size_to_factor=5,
        clip_threshold=0.7,
        eps1=1e-10,
        weight_decay=0.01,
        mask=mask,
    )
    expected = run(theirs, params, gradients)
    assert_agree(run(ours, params, gradients), expected, OPTAX_TOLERANCE)


def test_memory_is_sublinear_without_momentum():
    params = {"kernel": jnp.zeros((300, 200)), "bias": jnp.zeros(200)}
    sizes = {
        b1: sum(x.size for x in jax.tree.leaves(nj.adafactor(b1=b1).init(params)))
        for b1 in (None, 0.0, 0.9)
    }
    assert sizes[None] < 300 + 200 + 200 + 10
    assert sizes[0.0] == sizes[0.9] == sizes[None] + 300 * 200 + 200


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bit_parameters(dtype):
    params, gradients = given_params(), given_gradients()
    zeros = [jax.tree.map(np.zeros_like, params)] * 2
    gradients = zeros + gradients
    thetas = run(nj.adafactor(b1=0.9), params, gradients, dtype=dtype)
    np.testing.assert_array_equal(thetas[1]["matrix"], jnp.asarray(params["matrix"], dtype))
    wide = jax.tree.map(lambda x: x.astype(np.float64), thetas)
    expected = oracles.adafactor(params, gradients, b1=0.9)
    assert distance(wide, expected) < ROUNDINGS * jnp.finfo(dtype).eps


def test_numbers_are_hyperparameters(x64):
    params, gradients = given_params(), given_gradients(8)
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *gradients)
    first, second = {"learning_rate": 0.3, "weight_decay": 0.1, "b1": 0.9, "decay_rate": 0.8}, {}
    first |= {"b2_cap": 0.99, "clip_threshold": 1.0, "eps1": 1e-30, "eps2": 1e-3}
    second = {"learning_rate": 0.1, "weight_decay": 0.2, "b1": 0.5, "decay_rate": 0.5}
    second |= {"b2_cap": 0.4, "clip_threshold": 0.5, "eps1": 1e-2, "eps2": 1.0}
    rows = [first, *(first | {name: second[name]} for name in first)]
    traces = 0

    @jax.jit
    @jax.vmap
    def solve(numbers):
        nonlocal traces
        traces += 1
        tx = nj.factored_adamw(**numbers, schedule=Sawtooth())

        def step(carry, gradient):
            updates, state = tx.update(gradient, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        start = jax.tree.map(jnp.asarray, params)
        return jax.lax.scan(step, (start, tx.init(start)), stacked)[0][0]

    together = solve(jax.tree.map(lambda *x: jnp.array(x), *rows))
    assert traces == 1
    for i, row in enumerate(rows):
        expected = oracles.factored_adamw(params, gradients, **row, schedule=Sawtooth())[-1]
        assert_agree(jax.tree.map(lambda x, i=i: np.asarray(x[i]), together), expected)


@pytest.mark.parametrize("factory", [nj.adafactor, nj.factored_adamw])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be non-negative"),
        (
            {"learning_rate": None, "relative_step": False},
            ValueError,
            "`learning_rate` must be given without `relative_step`, got None.",
        ),
        ({"b1": 1.0}, ValueError, "`b1` must lie in [0, 1), got 1."),
        ({"decay_rate": -0.8}, ValueError, "`decay_rate` must be positive and finite, got -0.8."),
        ({"b2": -0.5}, ValueError, "`b2` must lie in [0, 1), got -0.5."),
        ({"b2_cap": 2.0}, ValueError, "`b2_cap` must lie in [0, 1], got 2."),
        (
            {"clip_threshold": 0.0},
            ValueError,
            "`clip_threshold` must be positive and finite, got 0.",
        ),
        ({"relative_step": "no"}, TypeError, "`relative_step` must be True or False, got 'no'."),
        ({"warmup_init": 1}, TypeError, "`warmup_init` must be True or False, got 1."),
        ({"scale_by_parameter": 1}, TypeError, "`scale_by_parameter` must be True or False, got 1"),
        ({"eps1": 0.0}, ValueError, "`eps1` must be positive and finite, got 0."),
        ({"eps2": -1.0}, ValueError, "`eps2` must be non-negative and finite, got -1."),
        ({"factored": 1}, TypeError, "`factored` must be True or False, got 1."),
        ({"min_dim_size_to_factor": 0}, ValueError, "`min_dim_size_to_factor` must be an integer"),
        ({"factored_dims": "all"}, ValueError, "`factored_dims` must be one of"),
        (
            {"momentum_of": "gradient"},
            ValueError,
            "`momentum_of` must be one of 'update', 'step', got 'gradient'.",
        ),
        ({"weight_decay": -0.1}, ValueError, "`weight_decay` must be non-negative and finite"),
        ({"normalized": 1}, TypeError, "`normalized` must be True or False, got 1."),
        ({"normalized": True}, TypeError, "`schedule` must have a method `cycle_steps`"),
        ({"mask": {"w": 1}}, TypeError, "`mask['w']` must be True or False, got 1."),
        ({"schedule": 0.5}, TypeError, "`schedule` must be callable, got 0.5."),
        ({"schedule": 0.5, "b1": 0.9, "momentum_of": "step"}, TypeError, "`schedule` must be call"),
    ],
    ids=str,
)
def test_rejects(factory, options, error, message):
    if "normalized" not in options:
        options = {"normalized": False} | options
    options = {"schedule": None} | options
    with pytest.raises(error, match=re.escape(message)):
        factory(**options)


def test_factored_adamw_needs_a_schedule_that_knows_its_cycle():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'schedule'"):
        nj.factored_adamw()
    for schedule in (None, halved):
        with pytest.raises(TypeError, match="`schedule` must have a method `cycle_steps`"):
            nj.factored_adamw(schedule=schedule)


@pytest.mark.parametrize("scale_by_parameter", [False, True])
def test_needs_params(scale_by_parameter):
    tx = nj.adafactor(scale_by_parameter=scale_by_parameter)
    with pytest.raises(ValueError, match="needs `params` in `update`, got None"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
