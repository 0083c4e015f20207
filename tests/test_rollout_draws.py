"""Tests of what `rollout` starts from and draws: keys, given draws, blocks, memory."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax._core.jaxpr import all_eqns, scan_of
from tests.rollouts import BOWL, FLOAT32_RTOL, KEY


def test_draws_in_place_of_the_keys_are_the_same_run():
    key_draw = jax.random.split(KEY)[1]
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key_draw, jnp.arange(1700))
    draws = jax.vmap(BOWL.draw)(keys)
    as_numpy = jax.tree.map(np.asarray, draws)
    by_step = lambda t: jax.tree.map(lambda z: z[t], draws)  # noqa: E731
    options = {"warmup": 200, "stride": 100}

    @jax.jit
    def runs(key):
        run = functools.partial(nj.rollout, nj.momentum(0.01), BOWL, key, 1700, **options)
        return run(), run(draws=draws), run(draws=as_numpy), run(draws=by_step)

    drawn, *given = runs(KEY)
    for trace in given:
        chex.assert_trees_all_equal(trace, drawn)


@pytest.mark.parametrize("unroll", [3, np.int64(8), 2000])
def test_an_unrolled_loop_is_the_same_run(x64, unroll):
    def run(**options):
        return nj.rollout(nj.momentum(0.01), BOWL, KEY, 130, warmup=20, stride=65, **options)

    program = jax.make_jaxpr(lambda: run(unroll=unroll))()
    scans = [eqn for eqn in all_eqns(program.jaxpr) if eqn.primitive.name == "scan"]
    assert int(unroll) in {scan_of(eqn).unroll for eqn in scans}
    # The roundings of 130 steps in float64, fused otherwise.
    chex.assert_trees_all_close(run(unroll=unroll), run(), rtol=1e-12, atol=1e-12)


def test_a_key_may_be_the_words_of_an_old_one():
    old, new = (nj.rollout(optax.sgd(0.1), BOWL, key, 3) for key in (jax.random.PRNGKey(0), KEY))
    assert old.mean_loss == new.mean_loss


def test_draws_depend_on_neither_blocks_nor_length():
    @jax.jit
    def curves(key):
        run = functools.partial(nj.rollout, optax.sgd(0.01), BOWL, key)
        return [run(n, stride=k).loss_curve for n, k in [(2400, 100), (1200, 100), (2400, 1200)]]

    curve, shorter, coarser = curves(KEY)
    assert curve.shape == (24,)
    chex.assert_trees_all_close(shorter, curve[:12], rtol=FLOAT32_RTOL)
    chex.assert_trees_all_close(coarser, curve.reshape(2, 12).mean(1), rtol=FLOAT32_RTOL)


@pytest.mark.parametrize("steps", [np.int64(8), jnp.asarray(8)])
def test_integers_of_any_kind_shape_the_run(x64, steps):
    half, quarter = steps // 2, steps // 4
    run = functools.partial(nj.rollout, optax.sgd(0.1), BOWL)
    run_both = jax.jit(
        lambda key: [run(key, steps, stride=half, warmup=quarter), run(key, 8, stride=4, warmup=2)]
    )
    chex.assert_trees_all_equal(*run_both(KEY))


def test_many_seeds_one_seed_and_none():
    run = jax.vmap(lambda key: nj.rollout(optax.sgd(0.01), BOWL, key, 50, stride=10, warmup=5))
    keys = jax.random.split(KEY, 3)
    many, one, none = jax.jit(lambda keys: [run(keys), run(keys[2:]), run(keys[:0])])(keys)
    assert len(set(many.mean_loss.tolist())) == 3
    chex.assert_trees_all_close(one, jax.tree.map(lambda x: x[2:], many), rtol=1e-5)
    assert one.mean_loss.shape == (1,)
    assert none.loss_curve.shape == (0, 5)


@pytest.mark.parametrize("start", [1.0, np.ones(()), jnp.ones(())])
def test_starts_from_given_parameters_and_world(start):
    initial = {"w": np.zeros(3), "b": start}, {"steps": 50.0}
    trace = nj.rollout(nj.momentum(0.0), BOWL, KEY, 10, initial=initial, stride=1)
    assert trace.world["steps"] == 60.0
    np.testing.assert_array_equal(trace.params["w"], 0.0)
    draws = {"noise": jnp.zeros((10, 3))}
    without_key = nj.rollout(nj.momentum(0.0), BOWL, None, 10, initial=initial, draws=draws)
    expected = np.mean(1 + 3.5 * (np.arange(50, 60) / 10) ** 2)
    np.testing.assert_allclose(without_key.mean_loss, expected, rtol=FLOAT32_RTOL)


def test_problems_without_chance_or_world_and_with_keys_in_it():
    problem = nj.Problem(
        init=lambda key: (jnp.ones(2), key),
        draw=lambda key: None,
        observe=lambda draws, world: (draws, world),
        loss=lambda params, batch: jnp.sum(params**2),
    )
    trace = nj.rollout(optax.sgd(0.25), problem, KEY, 103)
    np.testing.assert_array_equal(trace.params, 0.5**103)
    assert trace.world == jax.random.split(KEY)[0]


def test_randomness_is_drawn_in_blocks_and_once_for_all_rates():
    problem = nj.drifting_regression(dim=3)

    def run(learning_rate):
        return nj.rollout(nj.momentum(learning_rate), problem, KEY, 2500).mean_loss

    program = str(jax.make_jaxpr(jax.vmap(run))(jnp.ones(17)))
    shapes = re.findall(r":u32\[([\d,]*)\] = random_bits", program)
    # Of the start (parameters and weights), of the full blocks, of the rest.
    assert sorted(shapes) == ["1000,7", "500,7", "7"]


def test_memory_does_not_grow_with_steps():
    tx = nj.nested_momentum(0.01)

    def size(steps, **options):
        run = jax.jit(lambda key: nj.rollout(tx, BOWL, key, steps, **options))
        return run.lower(KEY).compile().memory_analysis().temp_size_in_bytes

    few, many = size(2000), size(200_000)
    assert few > 0
    assert many < 1.05 * few
    assert size(200_000, stride=1000) < 1.1 * few
