"""Tests of `rollout`: against the oracle, against scripted losses, against theory."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax._core.jaxpr import all_eqns, scan_of
from nested_jax.problems import DriftingRegressionDraws, DriftingRegressionWorld
from tests import oracles

FLOAT64_TOLERANCE = 1e-12  # 1200 steps that contract, a dozen roundings each.
FLOAT32_RTOL = 8 * np.finfo(np.float32).eps
STANDARD_ERRORS = 5  # One sample in two million is further off.
KEY = jax.random.key(0)

# The losses are the draws, whatever the optimizer does.
SCRIPT = nj.Problem(
    init=lambda key: (jnp.zeros(()), None),
    draw=jax.random.uniform,
    observe=lambda draws, world: (draws, world),
    loss=lambda params, batch: batch + 0 * params,
)


def scripted(losses, **options):
    return nj.rollout(optax.sgd(0.1), SCRIPT, KEY, len(losses), draws=losses, **options)


def observe_quadratic(draws, world):
    return {"target": draws["noise"] + world["steps"] / 10, "at": world["steps"]}, {
        "steps": world["steps"] + 1
    }


# No regression: a bowl whose bottom moves, with parameters, draws and world that are trees.
BOWL = nj.Problem(
    init=lambda key: (
        {"w": jax.random.uniform(key, (3,)), "b": jnp.ones(())},
        {"steps": jnp.zeros(())},
    ),
    draw=lambda key: {"noise": jax.random.uniform(key, (3,))},
    observe=observe_quadratic,
    loss=lambda params, batch: (
        jnp.sum(jnp.array([0.5, 1.0, 2.0]) * (params["w"] - batch["target"]) ** 2)
        + params["b"] ** 2
    ),
)


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


@pytest.mark.parametrize(
    ("steps", "stride"),
    [
        *[(1, 1), (7, None), (1000, 1), (1000, None), (1001, None), (1001, 7), (1300, 650)],
        *[(2000, 1000), (2345, 5), (3000, 1500)],
    ],
)
def test_windows_and_means_are_those_of_the_losses(steps, stride):
    losses = np.random.default_rng(steps).exponential(size=steps)
    warmups = jnp.array([0, steps // 3, steps - 1])
    run = jax.jit(jax.vmap(lambda warmup: scripted(losses, warmup=warmup, stride=stride)))
    trace = run(warmups)
    for warmup, loss in zip(warmups, trace.mean_loss, strict=True):
        np.testing.assert_allclose(loss, losses[int(warmup) :].mean(), rtol=FLOAT32_RTOL)
    if stride is None:
        assert trace.loss_curve is None
    else:
        expected = losses.reshape(-1, stride).mean(1)
        np.testing.assert_allclose(trace.loss_curve[0], expected, rtol=FLOAT32_RTOL)
    assert trace.records is None
    np.testing.assert_array_equal(trace.diverged_at, -1)


INF, NAN = math.inf, math.nan


def test_first_step_beyond_the_bound():
    cases = [  # {step: loss} among losses of 1, bound, first step beyond.
        ({}, INF, -1),
        ({}, 1.0, -1),
        ({}, 0.999, 0),
        ({5: 3.0, 9: 4.0}, 3.0, 9),
        ({5: 3.0, 9: 4.0}, INF, -1),
        ({0: INF}, INF, 0),
        ({999: NAN}, INF, 999),
        ({1000: INF, 1001: NAN}, 1e30, 1000),
        ({2099: NAN}, INF, 2099),
        ({7: -INF}, INF, 7),
        ({3: -5.0}, 2.0, -1),
        ({1500: 3.0, 1999: INF}, 2.0, 1500),
    ]
    script = np.ones((len(cases), 2100))
    for row, (changes, _, _) in zip(script, cases, strict=True):
        row[list(changes)] = list(changes.values())
    bounds = jnp.array([bound for _, bound, _ in cases])
    run = jax.jit(jax.vmap(lambda losses, bound: scripted(losses, bound=bound, warmup=10)))
    trace = run(jnp.asarray(script), bounds)
    np.testing.assert_array_equal(trace.diverged_at, [first for _, _, first in cases])
    np.testing.assert_array_equal(trace.diverged, [first >= 0 for _, _, first in cases])
    # What happened before the end of the warm-up is in no mean; later it is kept as it is.
    np.testing.assert_allclose(trace.mean_loss, script[:, 10:].mean(1), rtol=FLOAT32_RTOL)


def test_losses_are_taken_before_the_update():
    problem = SCRIPT._replace(
        init=lambda key: (jnp.ones(()), None), loss=lambda params, batch: params**2
    )
    trace = nj.rollout(optax.sgd(0.25), problem, KEY, 6, stride=1)
    np.testing.assert_array_equal(trace.loss_curve, 0.25 ** np.arange(6))
    assert trace.params == 0.5**6


def test_sums_in_float64_are_plain(x64):
    losses = np.random.default_rng(0).uniform(size=100)
    expected = np.cumsum(losses)[-1] / 100  # One by one, where `np.sum` adds pairs.
    assert scripted(jnp.asarray(losses)).mean_loss == expected


def test_bias_of_long_sums_stays_small_in_float32():
    # Added up one by one, 100,000 tenths are off by 1e-3 of their sum.
    trace = nj.rollout(optax.sgd(0.0), SCRIPT, KEY, 100_000, draws=lambda t: jnp.float32(0.1))
    np.testing.assert_allclose(trace.mean_loss, 0.1, rtol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_losses_are_float32_or_wider(x64, dtype):
    losses = jnp.full(3000, 0.1, dtype)
    problem = SCRIPT._replace(init=lambda key: (jnp.zeros((), dtype), None))
    trace = nj.rollout(optax.sgd(0.1), problem, KEY, 3000, draws=losses, stride=1000, warmup=5)
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert (trace.mean_loss.dtype, trace.loss_curve.dtype, trace.params.dtype) == (
        wide,
        wide,
        dtype,
    )
    np.testing.assert_allclose(trace.mean_loss, float(losses[0]), rtol=2e-6)
    assert (trace.diverged_at.dtype, trace.diverged.dtype) == (jnp.int32, jnp.bool)


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


RULES = [
    ({"steps": 0}, ValueError, "`steps` must be an integer of at least 1, got 0."),
    ({"steps": 2.0}, TypeError, "`steps` must be an integer of at least 1, got 2.0."),
    ({"steps": 2**31}, ValueError, "`steps` must be less than 2147483648, got 2147483648."),
    ({"warmup": -1}, ValueError, "`warmup` must be an integer of at least 0, got -1."),
    ({"warmup": 0.5}, TypeError, "`warmup` must be an integer of at least 0, got 0.5."),
    ({"warmup": 10}, ValueError, "`warmup` must be less than `steps` = 10, got 10."),
    ({"bound": "1"}, TypeError, "`bound` must be a number, got '1'."),
    ({"unroll": 0}, ValueError, "`unroll` must be an integer of at least 1, got 0."),
    ({"stride": 0}, ValueError, "`stride` must be an integer of at least 1, got 0."),
    ({"stride": 3}, ValueError, "`stride` must divide `steps` = 10, got 3."),
    ({"stride": 20}, ValueError, "`stride` must divide `steps` = 10, got 20."),
    ({"record": 1, "stride": 5}, TypeError, "`record` must be callable, got 1."),
    ({"record": len}, ValueError, "`record` needs a `stride`, got None."),
    ({"bound": NAN}, ValueError, "`bound` must not be NaN, got nan."),
    *(
        ({"key": key}, TypeError, "`key` must be a JAX key such as jax.random.key(0), got ")
        for key in (0, jax.random.split(KEY), np.ones(2), np.zeros((2, 2), np.uint32))
    ),
    *(
        ({"initial": start}, TypeError, "`initial` must be a pair of parameters and world, got ")
        for start in (np.ones(2), (np.ones(2),))
    ),
    ({"key": None}, ValueError, "`key` must be given unless `initial` and `draws` both are, got "),
    (
        {"key": None, "draws": np.ones(10)},
        ValueError,
        "`key` must be given unless `initial` and `draws` both are, got None.",
    ),
    (
        {"draws": {"a": np.ones(10), "b": np.ones((9, 2))}},
        ValueError,
        "`draws` must have a leading axis of `steps` = 10, got shape (9, 2).",
    ),
    (
        {"draws": [1.0]},
        ValueError,
        "`draws` must have a leading axis of `steps` = 10, got shape ()",
    ),
    ({"tx": "sgd"}, TypeError, "`tx` must have `init` and `update`, got 'sgd'."),
    ({"problem": None}, TypeError, "`problem` must be a nested_jax.Problem, got None."),
    (
        {"problem": SCRIPT._replace(loss=lambda params, batch: params * jnp.ones(3))},
        ValueError,
        "`problem.loss` must return a floating scalar, got ShapeDtypeStruct(shape=(3,), dtype=floa",
    ),
    (
        {"problem": SCRIPT._replace(loss=lambda params, batch: (params, batch))},
        ValueError,
        "`problem.loss` must return a floating scalar, got (ShapeDtypeStruct(",
    ),
    (
        {"problem": SCRIPT._replace(loss=lambda params, batch: 1)},
        ValueError,
        "`problem.loss` must return a floating scalar, got ShapeDtypeStruct(shape=(), dtype=int32",
    ),
]


@pytest.mark.parametrize(("options", "error", "message"), RULES)
def test_rejects(options, error, message):
    arguments = {"tx": optax.sgd(0.1), "problem": SCRIPT, "key": KEY, "steps": 10} | options
    with pytest.raises(error, match="^" + re.escape(message)):
        nj.rollout(**arguments)


@pytest.mark.parametrize("name", ["steps", "stride"])
def test_what_shapes_the_run_is_not_traced(name):
    def run(n):
        options = {"steps": 10} | {name: n}
        return nj.rollout(optax.sgd(0.1), SCRIPT, KEY, **options)

    with pytest.raises(TypeError, match=f"`{name}` must be a Python integer, known when tracing"):
        jax.jit(run)(5)
