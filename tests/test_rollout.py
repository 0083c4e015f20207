"""Tests of `rollout` against the oracle, against theory, and against a loop of steps."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld
from tests import oracles
from tests.rollouts import BOWL, KEY, SCRIPT, scripted

FLOAT64_TOLERANCE = 1e-12  # 1200 steps that contract, a dozen roundings each.
STANDARD_ERRORS = 5  # One sample in two million is further off.


def by_hand(tx, problem, key, steps):
    """Return the losses and the parameters after each step, one compiled step after the other."""
    tx = optax.with_extra_args_support(tx)
    key_init, key_draw = jax.random.split(key)
    params, world = problem.init(key_init)
    state = tx.init(params)

    @jax.jit
    def step(params, state, world, t):
        batch, world = problem.observe(problem.draw(jax.random.fold_in(key_draw, t)), world)
        loss, gradient = jax.value_and_grad(problem.loss)(params, batch)
        update, state = tx.update(gradient, state, params, value=loss)
        return loss, optax.apply_updates(params, update), state, world

    losses, path = [], []
    for t in range(steps):
        loss, params, state, world = step(params, state, world, t)
        losses.append(loss)
        path.append(params)
    return np.array(losses), path, state, world


def normals(levels, steps, dim=4):
    """Return what a drifting regression is made of: model, weights, drift, inputs, noise."""
    rng = np.random.default_rng(levels)
    shapes = [(dim + 1,), (levels, dim), (steps, dim), (steps, dim), (steps,)]
    return [rng.normal(size=shape) for shape in shapes]


def replay(tx, levels, chance, as_function=False, **options):
    model, data, *draws = (jnp.asarray(z) for z in chance)
    draws = DriftingRegressionDraws(*draws)
    steps = len(draws.noise)
    initial = 2 * model, DriftingRegressionWorld(tuple(data))
    problem = nj.drifting_regression(
        draws.inputs.shape[1], data_levels=levels, decay=0.9, noise_std=0.3
    )
    if as_function:
        tree, draws = draws, lambda t: jax.tree.map(lambda z: z[t], tree)
    return nj.rollout(tx, problem, None, steps, initial=initial, draws=draws, **options)


@pytest.mark.parametrize(
    ("model_levels", "data_levels", "as_function"), [(1, 1, False), (2, 3, True), (4, 2, False)]
)
def test_replays_the_oracle(x64, model_levels, data_levels, as_function):
    decays, chance = [0.8] * (model_levels - 1), normals(data_levels, 1200)
    options = {"data_decay": 0.9, "noise_std": 0.3, "warmup": 150}
    losses, mean = oracles.drifting_regression(*chance, decays=decays, **options)
    tx = nj.nested_momentum(0.01, decays=decays)
    trace = replay(tx, data_levels, chance, as_function, warmup=150, stride=1)
    assert np.max(np.abs(trace.loss_curve - losses)) < FLOAT64_TOLERANCE * np.max(losses)
    np.testing.assert_allclose(trace.mean_loss, mean, rtol=FLOAT64_TOLERANCE)
    assert not trace.diverged


def test_replays_a_divergence_of_the_oracle(x64):
    decays, chance = [0.95] * 8, normals(1, 1200)
    options = {"data_decay": 0.9, "noise_std": 0.3, "learning_rate": 0.5}
    losses, mean = oracles.drifting_regression(*chance, decays=decays, **options)
    assert mean > 1e20
    trace = replay(nj.nested_momentum(0.5, decays=decays), 1, chance, bound=1e6)
    # Errors grow as the losses do.
    np.testing.assert_allclose(trace.mean_loss, mean, rtol=10 * FLOAT64_TOLERANCE)
    assert trace.diverged_at == np.flatnonzero(losses > 1e6)[0]


@pytest.mark.parametrize("levels", [1, 3])
def test_padding_does_not_change_when_a_run_overflows(levels):
    """It may change inf to NaN (0 * inf), which is beyond any bound just as well."""
    problem, keys = nj.drifting_regression(dim=4), jax.random.split(KEY, 8)

    def run(max_levels, key):
        tx = nj.nested_momentum(1.0, levels=levels, decay=0.9, max_levels=max_levels)
        return nj.rollout(tx, problem, key, 900)

    both = jax.jit(jax.vmap(lambda key: [run(levels, key), run(levels + 2, key)]))
    short, padded = both(keys)
    assert np.all(short.diverged)
    np.testing.assert_array_equal(padded.diverged_at, short.diverged_at)
    assert not np.isfinite([short.mean_loss, padded.mean_loss]).any()


def test_a_random_walk_is_followed_as_theory_says():
    """SGD of rate a, walk of variance q, noise s^2: the error is (a^2 s^2 + q) / (a (2 - a))."""
    rate, walk, noise, seeds = 0.3, 0.2, 0.5, 200

    def observe(draws, world):
        world = world + walk * draws[0]
        return world + noise * draws[1], world

    problem = nj.Problem(
        init=lambda key: (jnp.zeros(()), jnp.zeros(())),
        draw=lambda key: jax.random.normal(key, (2,)),
        observe=observe,
        loss=lambda params, batch: 0.5 * (params - batch) ** 2,
    )
    run = jax.jit(
        jax.vmap(lambda k: nj.rollout(optax.sgd(rate), problem, k, 2500, warmup=100).mean_loss)
    )
    # The loss is half the square of the error and the noise, which are independent.
    errors = 2 * np.asarray(run(jax.random.split(KEY, seeds)), np.float64) - noise**2
    expected = (rate**2 * noise**2 + walk**2) / (rate * (2 - rate))
    standard_error = errors.std(ddof=1) / math.sqrt(seeds)
    assert standard_error < 0.01 * expected
    assert abs(errors.mean() - expected) < STANDARD_ERRORS * standard_error


class WithAndWithoutJit(chex.TestCase):
    """A rollout is one function of its key."""

    @chex.variants(with_jit=True, without_jit=True)
    def test_is_the_loop_of_steps(self):
        """Loss, curve, records, parameters, state and world are those of a loop."""
        tx = nj.adam(0.1)
        losses, path, state, world = by_hand(tx, BOWL, KEY, 30)
        record = lambda params, opt_state: (params["w"], opt_state[0].mu)  # noqa: E731

        @self.variant
        def run(key):
            return nj.rollout(tx, BOWL, key, 30, warmup=7, stride=5, record=record)

        trace = run(KEY)
        close = functools.partial(chex.assert_trees_all_close, rtol=1e-5)
        close(trace.mean_loss, losses[7:].mean())
        close(trace.loss_curve, losses.reshape(6, 5).mean(1))
        close(trace.params, path[-1])
        close(trace.opt_state, state)
        close(trace.world, world)
        close(trace.records[0], np.array([params["w"] for params in path[4::5]]))
        close(jax.tree.map(lambda x: x[-1], trace.records[1]), state[0].mu)


@pytest.mark.parametrize(
    "tx",
    [
        nj.nested_momentum(0.05, levels=3),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, cooldown=1)),
        optax.MultiSteps(optax.sgd(0.05), 3),
        optax.adafactor(0.1),
        optax.add_noise(0.1, 0.5, jax.random.key(1)),
    ],
    ids=["nested", "plateau", "multi", "adafactor", "noise"],
)
def test_runs_any_optimizer(tx):
    losses, path, _, _ = by_hand(tx, BOWL, KEY, 20)
    trace = jax.jit(lambda key: nj.rollout(tx, BOWL, key, 20))(KEY)
    np.testing.assert_allclose(trace.mean_loss, losses.mean(), rtol=1e-5)
    chex.assert_trees_all_close(trace.params, path[-1], rtol=1e-4)


def test_the_plateau_hears_of_the_loss():
    tx = optax.chain(optax.sgd(0.0), optax.contrib.reduce_on_plateau(patience=5, factor=0.5))
    assert scripted(jnp.ones(20)).opt_state is not None
    trace = nj.rollout(tx, SCRIPT, KEY, 20, draws=jnp.ones(20))
    assert trace.opt_state[1].scale == 0.5**3


def test_a_transform_reads_the_batch():
    """Normalized LMS is the recurrence written out; in a chain, other links ignore the batch."""

    def divide(updates, state, params=None, *, batch, **extra_args):
        return updates / jnp.sum(batch.features**2), state

    normalized = optax.GradientTransformationExtraArgs(optax.init_empty_state, divide)
    tx = optax.chain(normalized, optax.trace(0.5), optax.scale(-0.05))
    model, data, drift, inputs, noise = normals(1, 40)
    trace = replay(tx, 1, (model, data, drift, inputs, noise), stride=1)
    w, true, momentum, losses = 2 * model, data[0], 0.0, []
    for delta, x, epsilon in zip(drift, inputs, noise, strict=True):
        true, features = 0.9 * true + 0.1 * delta, np.append(x, 1.0)
        error = w @ features - (true @ x + 0.3 * epsilon)
        momentum = 0.5 * momentum + 2 * error * features / (features @ features)
        losses.append(error**2)
        w = w - 0.05 * momentum
    np.testing.assert_allclose(trace.loss_curve, losses, rtol=1e-4, atol=1e-5)  # In float32.
