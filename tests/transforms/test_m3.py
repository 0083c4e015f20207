"""Tests of `scale_by_m3` and `m3`: both readings, Muon, and what the printed form does."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.transforms._matrices import ITERATIONS, orthogonalized
from tests import oracles
from tests.trajectories import assert_agree, given_gradients, given_params, run

STEPS = 12
# Of float64: the quintic multiplies the small singular values, and their errors, by 3.4445**5.
TOLERANCE = 1e-11
# The quintic multiplies roundings of float32 by as much, 500.
FLOAT32_ATOL = 1e-3
POINTS = {
    "b1": np.array([0.9, 0.95, 0.0, 0.9]),
    "b2": np.array([0.999, 0.9, 0.99, 0.0]),
    "b3": np.array([0.9, 0.5, 0.99, 0.0]),
    "slow_weight": np.array([1.0, 0.1, 0.5, 0.0]),
    "period": np.array([4, 1, 5, 100]),
    "eps": np.array([1e-8, 1e-3, 0.1, 1e-8]),
}


def gradients(silent=False):
    """Return matrices of two shapes and of complex entries, one tree with a leading axis."""
    rng = np.random.default_rng(0)
    tall, wide, imaginary = (rng.normal(size=(STEPS, *s)) for s in ((6, 4), (3, 5), (3, 5)))
    tall[3] *= 50.0
    tall[5] = 0.0
    if silent:
        tall[:, 2, 1] = 0.0
    return {"tall": tall, "wide": wide, "complex": wide + 1j * imaginary}


def directions(inputs, state=False, **arguments):
    """Return all directions of `scale_by_m3`, or all its states."""
    tx = nj.scale_by_m3(**arguments)
    inputs = jax.tree.map(jnp.asarray, inputs)

    def step(carry, g):
        u, carry = tx.update(g, carry)
        return carry, carry if state else u

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda x: x[0], inputs)), inputs)[1]


@pytest.mark.parametrize(("reading", "iteration"), [("ema", "quintic"), ("accumulate", "cubic")])
def test_one_program_agrees_with_the_oracle_at_every_point(x64, reading, iteration):
    options = {"reading": reading, "iteration": iteration, "ns_steps": 5}
    every = jax.jit(jax.vmap(lambda point: directions(gradients(), **options, **point)))
    points = POINTS | ({"eps": POINTS["eps"] + 1e-3} if reading == "accumulate" else {})
    found = every(points)
    for i in range(4):
        point = {name: column[i] for name, column in points.items()}
        for name, given in gradients().items():
            expected = oracles.m3_directions(
                given, **point, coefficients=ITERATIONS[iteration], steps=5, reading=reading
            )
            scale = TOLERANCE * np.abs(expected).max()
            np.testing.assert_allclose(found[name][i], expected, rtol=0, atol=scale)
    every({name: column[::-1] for name, column in points.items()})
    assert every._cache_size() == 1


def test_without_slow_memory_and_division_it_is_muon(x64):
    """Gradients of one magnitude are not divided; optax's factor for wide matrices is 1 here."""
    signs = np.sign(gradients()["tall"]) + (gradients()["tall"] == 0)
    axes = {"a": optax.contrib.MuonDimensionNumbers()}
    muon = optax.contrib.scale_by_muon(
        beta=0.9, eps=0.0, nesterov=False, weight_dimension_numbers=axes
    )
    params = {"a": np.zeros((6, 4))}
    trees = [{"a": g} for g in signs]
    found = run(nj.scale_by_m3(0.9, slow_weight=0.0), params, trees)
    assert_agree(found, run(muon, params, trees), TOLERANCE)


@pytest.mark.parametrize(("iteration", "low", "high"), [("quintic", 0.68, 1.21), ("cubic", 0, 1)])
def test_singular_values_of_newton_schulz(iteration, low, high):
    """Of diagonal matrices, whose entries are their singular values, down to 0.004 of the norm."""
    x = np.diag(np.geomspace(1e-2, 2, 20)).astype(np.float32)
    values = np.diag(orthogonalized(jnp.asarray(x), steps=5, iteration=iteration))
    assert low < values.min() < values.max() < high + FLOAT32_ATOL


def test_the_optimizer_steps_matrices_by_m3_and_the_rest_by_adam(x64):
    params, trees = given_params(), given_gradients(STEPS)
    adam = {"b1": 0.9, "b2": 0.99, "eps": 1e-3, "schedule": lambda step: 0.9**step}
    found = run(nj.m3(0.1, period=3, **adam), params, trees)
    numbers = (0.9, 0.99, 0.9, 0.5, 3, 1e-3, ITERATIONS["quintic"], 5, "ema")
    steps = oracles.m3_directions([g["matrix"] for g in trees], *numbers)
    rates = 0.1 * 0.9 ** np.arange(STEPS)[:, None, None]
    expected = params["matrix"] - np.cumsum(rates * steps, axis=0)
    assert_agree([theta["matrix"] for theta in found], list(expected), TOLERANCE)
    rest = [{name: tree[name] for name in ("vector", "scalar")} for tree in (params, *trees)]
    expected = run(nj.adam(0.1, **adam), rest[0], rest[1:])
    assert_agree([{name: theta[name] for name in rest[0]} for theta in found], expected)


def test_no_step_exceeds_the_bound(x64):
    """The cubic leaves singular values of at most 1, and the division only damps."""
    found = directions(gradients(silent=True), iteration="cubic", slow_weight=0.5, period=2)
    for u in found.values():
        assert np.abs(u).max() <= 1.5 + TOLERANCE


@functools.partial(jax.jit, static_argnames="state")
def printed(b1, b2, b3, eps, state=False):
    numbers = {"b1": b1, "b2": b2, "b3": b3, "eps": eps, "period": 4}
    return directions(
        {"tall": gradients(silent=True)["tall"]}, state, reading="accumulate", **numbers
    )


def test_two_decays_of_the_printed_form_change_nothing_and_one_rescales(x64):
    start = printed(0.9, 0.81, 0.9, 0.0)["tall"]
    loud = np.isfinite(start)  # Without eps the silent entry is divided by almost 0.
    loud[:, 2, 1] = False
    for changed, factor in (
        ((0.5, 0.81, 0.9, 0.0), 1.0),
        ((0.9, 0.81, 0.1, 0.0), 1.0),
        ((0.9, 0.25, 0.9, 0.0), 0.9 / 0.5),
    ):
        np.testing.assert_allclose(
            printed(*changed)["tall"][loud], factor * start[loud], rtol=1e-9
        )  # Relative to single entries, small ones included.


def test_the_slow_memory_of_the_printed_form_is_the_fast_one_sampled(x64):
    states = printed(0.9, 0.999, 0.3, 1e-8, state=True)
    ends = slice(3, None, 4)
    np.testing.assert_array_equal(states.phase, np.arange(1, STEPS + 1) % 4)
    assert states.phase.dtype == np.int32  # A float would stop to count.
    slow, fast = states.slow["tall"][ends] / 0.3, states.fast["tall"][ends] / 0.9
    np.testing.assert_allclose(slow, fast, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_silent_entry_of_the_printed_form_takes_huge_steps(x64):
    """Newton-Schulz fills the entry in, and it is divided by `eps` alone."""
    for eps, expected in ((1e-6, 2e5), (1e-8, 2e7)):
        last = np.abs(printed(0.95, 0.999, 0.9, eps)["tall"][-1])
        assert 0.5 < last[2, 1] / expected < 2
        last[2, 1] = 0.0
        assert last.max() < 1
    default = directions({"tall": gradients(silent=True)["tall"]}, period=4)["tall"]
    assert np.abs(default[:, 2, 1]).max() < 1


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_the_direction_does_not_depend_on_the_scale(scale):
    """In float32, and for eps = 0, where the squares of 1e-30 are 0 and nothing is divided."""
    g = np.sign(gradients()["wide"]).astype(np.float32)
    found = directions({"a": scale * g}, eps=0.0, period=5)["a"]
    expected = directions({"a": g}, eps=0.0, period=5)["a"]
    np.testing.assert_allclose(found, expected, atol=FLOAT32_ATOL)


def test_newton_schulz_runs_for_the_slow_memory_at_block_ends_only():
    """One matrix: once for the fast memory in each step, once in the branch of a block's end."""
    tx = nj.scale_by_m3()
    state = jax.eval_shape(tx.init, jnp.ones((3, 5)))
    program = jax.make_jaxpr(tx.update)(jnp.ones((3, 5)), state)
    (branch,) = (eqn for eqn in program.eqns if eqn.primitive.name == "cond")
    kept, changed = branch.params["branches"]
    assert not kept.eqns
    for part in (changed, program):
        assert [eqn.params.get("name") for eqn in part.eqns].count("orthogonalized") == 1


@pytest.mark.parametrize("reading", ["ema", "accumulate"])
def test_its_derivative_is_finite_at_a_zero_gradient(reading):
    tx = nj.scale_by_m3(reading=reading, ns_steps=1)
    slope = jax.grad(lambda g: jnp.sum(tx.update(g, tx.init(g))[0]))(jnp.zeros((2, 3)))
    assert np.isfinite(slope).all()


def test_a_memory_of_nan_is_seen_before_the_first_block_ends():
    for name, value in (("b3", 1.5), ("period", 0)):
        found = jax.vmap(
            lambda x, name=name: directions({"a": jnp.ones((1, 2, 2))}, ns_steps=1, **{name: x})
        )(jnp.array([value]))
        assert np.isnan(found["a"]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"b1": 1.0}, ValueError, "`b1` must lie in [0, 1), got 1.0."),
        ({"b2": 1.5}, ValueError, "`b2` must lie in [0, 1), got 1.5."),
        ({"b3": -0.1}, ValueError, "`b3` must lie in [0, 1), got -0.1."),
        ({"slow_weight": -1.0}, ValueError, "`slow_weight` must be non-negative and finite"),
        ({"eps": -1.0}, ValueError, "`eps` must be non-negative and finite, got -1.0."),
        ({"period": 0}, ValueError, "`period` must be an integer of at least 1, got 0."),
        ({"period": 2**40}, ValueError, "`period` must be less than 2147483648, got 10995116277"),
        ({"period": 1.5}, TypeError, "`period` must be an integer of at least 1, got 1.5."),
        ({"ns_steps": 0}, ValueError, "`ns_steps` must be an integer of at least 1, got 0."),
        ({"iteration": "septic"}, ValueError, "`iteration` must be one of 'quintic', 'cubic'"),
        ({"reading": "sum"}, ValueError, "`reading` must be one of 'ema', 'accumulate'"),
    ],
)
def test_rejects(arguments, error, message):
    for factory in (nj.scale_by_m3, functools.partial(nj.m3, 0.1)):
        with pytest.raises(error, match=re.escape(message)):
            factory(**arguments)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_rejects_leaves_that_are_not_matrices(shape):
    message = "`scale_by_m3` takes matrices only, and `m3` gives other leaves to Adam, got shape "
    with pytest.raises(ValueError, match=re.escape(f"{message}{shape} at ['a'].")):
        nj.scale_by_m3().init({"a": jnp.zeros(shape), "b": jnp.zeros((2, 2))})
    params = {"a": jnp.ones(shape)}
    tx = nj.m3(0.1)
    first = tx.update(params, tx.init(params))[0]["a"]
    np.testing.assert_allclose(first, np.full(shape, -0.1), rtol=1e-5)  # The sign, of Adam.
