"""Tests of the axes of a compiled program: short ones are left out, others may be one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax._core.jaxpr import all_eqns
from nested_jax.sweeps.engine._axes import grouped, over_points
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._tracing import Carried, program_of

LENGTHS = [*itertools.product([1, 3], repeat=3)]
RTOL = 1e-6  # Five operations in float32.


def run(rate, draw_a, draw_b, seed):
    """Use each axis alone and all together; the axis in the middle has two columns."""
    noise = jax.random.normal(jax.random.key(seed), (2,))
    return {"sum": rate + 10 * draw_a - draw_b, "noise": noise * rate * draw_b}


def grid(lengths):
    rates, draws, seeds = lengths
    draw = nj.zipped(draw_a=[0.5, 0.25, 2.0][:draws], draw_b=[3.0, 5.0, 7.0][:draws])
    return nj.Grid(rate=[0.1, 0.2, 0.3][:rates], draw=draw, seed=range(seeds))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_each_result_is_that_of_its_point(lengths):
    whole = grid(lengths)
    results = nj.sweep(run, whole, layout="vmap")
    assert results["sum"].shape == lengths
    assert results.noise.shape == (*lengths, 2)
    for at, point in zip(np.ndindex(*lengths), whole.points(), strict=True):
        expected = run(**point)
        for name, values in expected.items():
            np.testing.assert_allclose(results[name].values[at], values, rtol=RTOL)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_state_between_stages_has_axes_of_one_point_too(lengths):
    def staged(rate, draw_a, draw_b, seed):
        return nj.Stages(
            lambda: run(rate, draw_a, draw_b, seed),
            lambda carry, stage: jax.tree.map(lambda x: x + rate * (stage + 1), carry),
            lambda carry: carry,
            stages=3,
        )

    whole = grid(lengths)
    stop = nj.sweeps.halving("sum", factor=2, over="seed")
    results = nj.sweep(staged, whole, stop=stop, chunk=lengths[2], layout="vmap")
    for at, point in zip(np.ndindex(*lengths), whole.points(), strict=True):
        done = int(results.stopped_at[at])
        added = point["rate"] * sum(range(1, done + 1))
        for name, values in run(**point).items():
            np.testing.assert_allclose(results[name].values[at], values + added, rtol=RTOL)


def multiply(a, b):
    return {"x": jnp.full((5, 5), a) @ jnp.full((5, 5), b)}


def share(a, b):
    """Share the product along `a`, 250 of 255 operations."""
    return {"x": jnp.full((5, 5), b) @ jnp.full((5, 5), b) @ jnp.full((5,), a)}


@pytest.mark.parametrize(
    ("run", "lengths", "ranks"),
    [
        (multiply, (1, 1), [2]),
        (multiply, (1, 3), [3]),
        (multiply, (3, 1), [3]),
        (multiply, (3, 3), [3]),
        (share, (3, 3), [3, 3]),
    ],
)
def test_the_program_has_as_few_axes_as_share_the_work(run, lengths, ranks):
    columns = tuple({name: jnp.ones(n)} for name, n in zip("ab", lengths, strict=True))
    bound = Partial(run)
    traced = evaluate.trace((), None, program_of((), bound, columns), bound, columns)
    dots = [e for e in all_eqns(traced.jaxpr.jaxpr) if "dot" in e.primitive.name]
    assert [eqn.outvars[0].aval.ndim for eqn in dots] == ranks


@pytest.mark.parametrize(
    ("lengths", "work", "groups"),
    [
        ([], {}, []),
        ([1, 1], {0b11: 9.0}, []),
        ([3, 2, 4], {0b111: 9.0}, [[0, 1, 2]]),
        ([3, 1, 4], {0b111: 9.0}, [[0, 2]]),
        # All draws are made anew at each rate and decay.
        ([3, 2, 4], {0b111: 9.0, 0b100: 9.0}, [[0, 1], [2]]),
        ([3, 4, 2], {0b111: 9.0, 0b010: 9.0}, [[0, 2], [1]]),
        # Two factors, each of its own axis.
        ([3, 2], {0b01: 9.0, 0b10: 9.0, 0b11: 1.0}, [[0], [1]]),
        # What is the same for all points is never repeated.
        ([3, 2], {0b00: 1e9, 0b11: 1.0}, [[0, 1]]),
        # 5 % of the work may be done again, no more.
        ([100, 100], {0b01: 5.0, 0b11: 100.0}, [[0, 1]]),
        ([100, 100], {0b01: 5.1, 0b11: 100.0}, [[0], [1]]),
    ],
)
def test_axes_are_joined_that_share_no_work(lengths, work, groups):
    assert grouped(lengths, work) == groups


@pytest.mark.parametrize(
    "groups", [[[0], [1], [3]], [[0, 1, 3]], [[0, 3], [1]], [[1], [0, 3]], [[3], [0], [1]]]
)
def test_every_grouping_evaluates_the_same_points(groups):
    lengths = 2, 3, 1, 4
    values = [np.arange(1.0, n + 1) * 10**i for i, n in enumerate(lengths)]
    carried = np.arange(2.0 * np.prod(lengths)).reshape(*lengths, 2)
    columns = (
        {"a": values[0]},
        {"b": values[1], "c": -values[1]},
        {"d": values[2]},
        {"e": values[3]},
    )

    def point(first, second, third, fourth, state):
        total = first["a"] + second["b"] * second["c"] + third["d"] + fourth["e"]
        return {"total": total, "state": state.leaves[0] + total}

    found = over_points(point, (*columns, Carried((jnp.asarray(carried),))), groups)
    a, b, d, e = np.meshgrid(*values, indexing="ij")
    np.testing.assert_array_equal(found["total"], a - b * b + d + e)
    np.testing.assert_array_equal(found["state"], carried + (a - b * b + d + e)[..., None])
