"""Tests of axes of one point, which are left out of the compiled program."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import nested_jax as nj
from nested_jax._core.jaxpr import all_eqns
from nested_jax.sweeps.engine._evaluation import evaluate
from nested_jax.sweeps.engine._tracing import program_of

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


def test_an_axis_of_one_point_is_not_in_the_program():
    def multiply(a, b):
        return {"x": jnp.full((5, 5), a) @ jnp.full((5, 5), b)}

    def ranks(lengths):
        columns = tuple({name: jnp.ones(n)} for name, n in zip("ab", lengths, strict=True))
        run = Partial(multiply)
        traced = evaluate.trace((), None, program_of((), run, columns), run, columns)
        dots = [e for e in all_eqns(traced.jaxpr.jaxpr) if "dot" in e.primitive.name]
        return [eqn.outvars[0].aval.ndim for eqn in dots]

    assert [ranks(lengths) for lengths in [(1, 1), (1, 3), (3, 1), (3, 3)]] == [[2], [3], [3], [4]]
