"""Tests of what `rollout` makes of the losses: windows, means, divergence, sums."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from tests.rollouts import FLOAT32_RTOL, KEY, SCRIPT, scripted


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
    # The mean leaves out the steps of the warm-up and keeps every later one unchanged.
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
