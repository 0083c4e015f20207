"""Tests of `with_metrics` against what NumPy makes of the same gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import Metrics, metrics_of, with_metrics
from nested_jax.transforms import WithMetricsState
from tests import oracles

# Float32 numbers of a few dozen roundings, next to float64 ones.
RTOL = 50 * np.finfo(np.float32).eps

RATE, DECAY = 0.25, 0.125
STEPS = 6


def halving(step):
    return 0.5**step


def gradients_of(steps, scale=1.0):
    rng = np.random.default_rng(3)
    return [
        {"b": scale * rng.normal(size=2), "w": scale * rng.normal(size=(3, 4))}
        for _ in range(steps)
    ]


def as_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


PARAMS = as_jax(gradients_of(1)[0])


def measured(tx, gradients, params=PARAMS):
    """Return updates and metrics of a run, a list over time of each; the parameters stay."""
    tx = optax.with_extra_args_support(tx)
    state, updates, metrics = tx.init(params), [], []
    step = jax.jit(tx.update)
    for gradient in gradients:
        update, state = step(as_jax(gradient), state, params)
        updates.append(update)
        metrics.append(metrics_of(state))
    return updates, metrics


def flat(tree):
    return np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(tree)])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=RTOL)


def test_norm_and_step_are_those_of_all_entries():
    gradients = gradients_of(STEPS)
    updates, metrics = measured(with_metrics(nj.momentum(RATE)), gradients)
    for gradient, update, metric in zip(gradients, updates, metrics, strict=True):
        close(metric.gradient_norm, np.linalg.norm(flat(gradient)))
        close(metric.step_rms, np.sqrt(np.mean(flat(update) ** 2)))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_signal_to_noise_is_that_of_the_paper(amsgrad):
    gradients = gradients_of(STEPS)
    _, metrics = measured(with_metrics(nj.adam(RATE, amsgrad=amsgrad)), gradients)
    directions = oracles.by_name(oracles.adam_directions, gradients, eps=0.0)
    for metric, direction in zip(metrics, directions, strict=True):
        close(metric.signal_to_noise, np.mean(np.abs(flat(direction))))


@pytest.mark.parametrize(("signs", "expected"), [((1, 1), 1.0), ((1, -1), 0.0)])
def test_constant_gradients_are_signal_and_alternating_ones_noise(signs, expected):
    tx = with_metrics(nj.scale_by_adam(b1=0.99, b2=0.99))
    state = tx.init(PARAMS)
    gradients = {s: jax.tree.map(lambda p, s=s: s * p, PARAMS) for s in signs}

    def two_steps(_, state):
        for sign in signs:
            state = tx.update(gradients[sign], state)[1]
        return state

    state = jax.lax.fori_loop(0, 500, two_steps, state)
    # After an even number of steps the alternating mean is off 0 by (1 - b1) / 2.
    np.testing.assert_allclose(metrics_of(state).signal_to_noise, expected, atol=0.006)


def test_entries_without_signal_or_noise_count_as_no_signal():
    gradient = {"b": np.zeros(2), "w": np.ones((3, 4))}
    _, metrics = measured(with_metrics(nj.scale_by_adam()), [gradient])
    close(metrics[0].signal_to_noise, 12 / 14)


def test_a_nan_is_not_hidden():
    gradient = {"b": np.array([0.0, np.nan]), "w": np.ones((3, 4))}
    _, metrics = measured(with_metrics(nj.adafactor(b1=0.9)), [gradient])
    assert np.isnan([metrics[0].gradient_norm, metrics[0].step_rms, metrics[0].update_rms]).all()
    _, metrics = measured(with_metrics(nj.adam()), [gradient])
    assert np.isnan(metrics[0].signal_to_noise)


def test_clipping_is_of_the_leaf_that_needs_it_most():
    gradient = {"b": np.array([0.5, -0.5]), "w": np.full((3, 4), -8.0)}
    tx = with_metrics(optax.chain(nj.clip_by_block_rms(2.0), nj.scale_by_learning_rate(RATE)))
    _, (metrics,) = measured(tx, [gradient])
    close(metrics.update_rms, 8.0)
    close(metrics.clip_factor, 0.25)


OPTIMIZERS = {  # an optimizer, its rate and its decay at step t = 0, 1, ...
    "momentum": (nj.momentum(RATE, schedule=halving), lambda t: RATE * 0.5**t, None),
    "nesterov": (nj.nesterov(lambda t: RATE / (1.0 + t)), lambda t: RATE / (1 + t), None),
    "adamw": (
        nj.adamw(RATE, weight_decay=DECAY, schedule=halving),
        lambda t: RATE * 0.5**t,
        lambda t: DECAY * 0.5**t,
    ),
    "adafactor": (
        nj.adafactor(1.0, weight_decay=DECAY),
        lambda t: 1 / np.sqrt(t + 1),
        lambda t: DECAY,
    ),
    "adafactor of steps": (
        nj.adafactor(RATE, b1=0.9, momentum_of="step", schedule=halving),
        lambda t: min(RATE, 1 / np.sqrt(t + 1)) * 0.5**t,
        lambda t: 0.0,
    ),
    "optax.adam": (optax.adam(RATE), None, None),
    "injected": (
        optax.inject_hyperparams(optax.adamw)(lambda t: RATE * halving(t)),
        lambda t: RATE * 0.5**t,
        None,
    ),
    "injected here": (
        optax.inject_hyperparams(nj.momentum)(RATE, schedule=None),
        lambda t: RATE,
        None,
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rate_and_decay_are_those_in_force(name):
    tx, rate, decay = OPTIMIZERS[name]
    _, metrics = measured(with_metrics(tx), gradients_of(STEPS))
    for t, metric in enumerate(metrics):
        close(metric.rate, rate(t) if rate else np.nan)
        close(metric.decay, decay(t) if decay else np.nan)


def test_a_rate_set_in_the_state_is_the_one_reported():
    tx = with_metrics(optax.inject_hyperparams(optax.sgd)(learning_rate=RATE))
    state = tx.init(PARAMS)
    state.inner.hyperparams["learning_rate"] = jnp.float32(0.5)
    _, state = tx.update(PARAMS, state, PARAMS)
    assert metrics_of(state).rate == 0.5


def test_what_an_optimizer_has_not_is_nan_and_so_is_all_before_the_first_update():
    tx = with_metrics(optax.sgd(RATE))
    state = tx.init(PARAMS)
    assert np.isnan(metrics_of(state)).all()
    known = ~np.isnan(metrics_of(tx.update(PARAMS, state)[1]))
    assert dict(zip(Metrics._fields, known, strict=True)) == {
        "gradient_norm": True,
        "update_rms": False,
        "clip_factor": False,
        "step_rms": True,
        "signal_to_noise": False,
        "rate": False,
        "decay": False,
    }


def test_of_several_transforms_the_extreme_one_is_reported():
    def group(rate, decay, threshold):
        return optax.chain(
            nj.scale_by_adam(eps=0.0),
            nj.clip_by_block_rms(threshold),
            nj.scale_by_learning_rate(rate),
            nj.add_decoupled_weight_decay(decay),
        )

    groups = {"b": group(RATE, 2 * DECAY, 0.5), "w": group(2 * RATE, DECAY, 0.25)}
    gradients = gradients_of(2)
    updates, metrics = measured(
        with_metrics(optax.partition(groups, {"b": "b", "w": "w"})), gradients
    )
    directions = oracles.by_name(oracles.adam_directions, gradients, eps=0.0)[-1]
    rms = {name: oracles.rms(u) for name, u in directions.items()}
    expected = Metrics(
        gradient_norm=np.linalg.norm(flat(gradients[-1])),
        update_rms=max(rms.values()),
        clip_factor=min(0.5 / rms["b"], 0.25 / rms["w"]),
        step_rms=np.sqrt(np.mean(flat(updates[-1]) ** 2)),
        signal_to_noise=np.mean(np.abs(flat(directions))),
        rate=2 * RATE,
        decay=2 * DECAY,
    )
    jax.tree.map(close, metrics[-1], expected)


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.identity(), tx),
    "masked": lambda tx: optax.masked(tx, {"b": True, "w": True}),
    "partition": lambda tx: optax.partition({"all": tx}, {"b": "all", "w": "all"}),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_measures_inside_and_around_every_wrapper(name):
    gradients, wrap = gradients_of(3), WRAPPERS[name]
    plain = nj.adafactor(RATE, weight_decay=DECAY)
    updates, expected = measured(with_metrics(plain), gradients)
    for tx in (wrap(with_metrics(plain)), with_metrics(wrap(plain))):
        actual_updates, actual = measured(tx, gradients)
        jax.tree.map(close, actual_updates, updates)
        jax.tree.map(close, actual, expected)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "nesterov"])
def test_updates_are_unchanged(name):
    tx = OPTIMIZERS[name][0]
    gradients = gradients_of(STEPS)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for gradient, actual in zip(gradients, measured(with_metrics(tx), gradients)[0], strict=True):
        expected, state = update(as_jax(gradient), state, PARAMS)
        jax.tree.map(close, actual, expected)


def test_extra_arguments_are_handed_on():
    tx = with_metrics(optax.polyak_sgd())
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.float32(0.5))
    assert metrics_of(state).step_rms > 0


def test_sixteen_bit_entries_are_squared_in_float32():
    large = jnp.full(4, 300, jnp.float16)  # Whose squares float16 does not hold.
    tx = with_metrics(nj.scale_by_learning_rate(1.0))
    _, state = tx.update(large, tx.init(large))
    assert metrics_of(state).gradient_norm == 600
    assert metrics_of(state).step_rms == 300


def test_metrics_are_float32_in_every_precision(x64):
    params = jnp.ones(3, jnp.float64)
    tx = with_metrics(nj.adamw(RATE))
    state = tx.init(params)
    for _ in range(2):
        assert {x.dtype for x in metrics_of(state)} == {jnp.dtype("float32")}
        assert not any(x.weak_type for x in metrics_of(state))
        _, state = tx.update(params, state, params)


def test_norms_of_nothing_have_a_derivative():
    tx = with_metrics(nj.momentum(RATE))

    def norms(gradient):
        metrics = metrics_of(tx.update(gradient, tx.init(gradient))[1])
        return metrics.gradient_norm + metrics.step_rms

    np.testing.assert_array_equal(jax.grad(norms)(jnp.zeros(3)), np.zeros(3))


def test_without_entries_there_is_no_mean():
    tx = with_metrics(nj.adam())
    metrics = metrics_of(tx.update({}, tx.init({}))[1])
    assert metrics.gradient_norm == 0
    assert np.isnan([metrics.step_rms, metrics.signal_to_noise]).all()


def test_rollout_records_metrics_and_vmaps_over_rates():
    problem = nj.drifting_regression(dim=3)

    def run(learning_rate):
        tx = with_metrics(nj.adamw(learning_rate, weight_decay=DECAY, schedule=lambda t: 0.9**t))
        return nj.rollout(
            tx,
            problem,
            jax.random.key(0),
            12,
            stride=4,
            record=lambda params, opt_state: metrics_of(opt_state),
        )

    rates = jnp.array([0.1, 0.2])
    traces = jax.jit(jax.vmap(run))(rates)
    assert {x.shape for x in traces.records} == {(2, 3)}
    multipliers = 0.9 ** np.array([3, 7, 11])  # At the end of each window of four steps.
    close(traces.records.rate, np.multiply.outer(rates, multipliers))
    close(traces.records.decay, np.broadcast_to(DECAY * multipliers, (2, 3)))
    assert (np.diff(traces.records.step_rms, axis=0) > 0).all()
    jax.tree.map(
        np.testing.assert_array_equal,
        metrics_of(traces.opt_state),
        jax.tree.map(lambda x: x[:, -1], traces.records),
    )


@pytest.mark.parametrize("tx", [None, 0.1, optax.adam])
def test_rejects_what_is_no_transformation(tx):
    with pytest.raises(
        TypeError, match=re.escape(f"`tx` must have `init` and `update`, got {tx!r}")
    ):
        with_metrics(tx)


def test_rejects_a_state_with_none_or_two_metrics():
    plain, once = nj.momentum(RATE), with_metrics(nj.momentum(RATE))
    with pytest.raises(ValueError, match="`state` must hold one Metrics, got 0"):
        metrics_of(plain.init(PARAMS))
    with pytest.raises(ValueError, match="`state` must hold one Metrics, got 2"):
        metrics_of(optax.chain(once, once).init(PARAMS))


def test_state_is_that_of_the_optimizer_and_the_metrics():
    state = with_metrics(nj.momentum(RATE)).init(PARAMS)
    assert isinstance(state, WithMetricsState)
    plain = nj.momentum(RATE).init(PARAMS)
    assert jax.tree.structure(state.inner) == jax.tree.structure(plain)
