"""Tests of what is recognised as linear and time-invariant, and of what is refused, and why."""

import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import theory

# Rounding, in units of the epsilon of the dtype; measured: at most 5.
ROUNDING = 16
# Above it a test is failed: half of the digits.
ALLOWED = np.finfo(np.float64).eps ** 0.5


def cosine(step):
    return jnp.cos(jnp.minimum(step, 100_000) * (jnp.pi / 100_000))


def looking_ahead(step):
    return step / (step + 3.0)


def delay_by_two():
    """Return a transform one part of whose state reaches the output through another only."""

    def update(updates, state, params=None):
        return state[0], (state[1], updates)

    return optax.GradientTransformation(lambda params: (jnp.zeros_like(params),) * 2, update)


def offset_of_0():
    """Return a transform whose state reaches the output but is reached by no input."""

    def update(updates, state, params=None):
        return updates + state, state

    return optax.GradientTransformation(jnp.zeros_like, update)


LINEAR = {
    "scale_by_nested_momentum": nj.scale_by_nested_momentum([0.9, 0.5, 0.0]),
    "scale_by_nested_momentum[deep]": nj.scale_by_nested_momentum([0.95] * 18),
    "scale_by_nested_momentum[none]": nj.scale_by_nested_momentum([]),
    "scale_by_nested_momentum[zero_lag]": nj.scale_by_nested_momentum(
        [0.9, 0.9], readout="zero_lag"
    ),
    "scale_by_nested_momentum[mean]": nj.scale_by_nested_momentum([0.9, 0.8], readout="mean"),
    "scale_by_accumulated_momentum": nj.scale_by_accumulated_momentum(0.99),
    "scale_by_aggmo": nj.scale_by_aggmo(),
    "scale_by_qhm": nj.scale_by_qhm(0.9),
    "scale_by_learning_rate": nj.scale_by_learning_rate(0.3),
    "scale_by_learning_rate[schedule]": nj.scale_by_learning_rate(
        lambda step: 0.3, schedule=lambda step: 0.5
    ),
    "scale_by_relative_step[absolute]": nj.scale_by_relative_step(
        0.1, relative_step=False, scale_by_parameter=False
    ),
    "scale_by_nesterov_momentum": nj.scale_by_nesterov_momentum(0.1, decay=0.9),
    "momentum": nj.momentum(0.1, decay=0.9),
    "nested_momentum": nj.nested_momentum(0.1, levels=4, decay=0.9, max_levels=7),
    "nesterov": nj.nesterov(0.1, decay=0.9),
    "with_metrics": nj.with_metrics(nj.momentum(0.1)),
    "optax.identity": optax.identity(),
    "optax.set_to_zero": optax.set_to_zero(),
    "optax.scale": optax.scale(-2.0),
    "optax.trace": optax.trace(0.9),
    "optax.trace[nesterov]": optax.trace(0.9, nesterov=True),
    "optax.trace[endless]": optax.trace(1.0),
    "optax.trace[growing]": optax.trace(1.7),
    "optax.ema": optax.ema(0.9, debias=False),
    "optax.sgd": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "optax.chain": optax.chain(optax.ema(0.9, debias=False), optax.trace(0.5), optax.scale(3.0)),
    "optax.masked": optax.masked(optax.trace(0.9), True),
    "optax.apply_if_finite": optax.apply_if_finite(optax.trace(0.9), 3),
    "optax.inject_hyperparams": optax.inject_hyperparams(nj.momentum)(0.1, decay=0.9),
    "optax.MultiSteps": optax.MultiSteps(optax.trace(0.9), 1).gradient_transformation(),
    "test.delay": delay_by_two(),
    "test.offset": offset_of_0(),
}

HOMOGENEITY, SUPERPOSITION, SHIFT, PARAMETERS, ENTRIES = theory.Linearity._fields

REFUSED = {
    "scale_by_nested_momentum[debias]": (nj.scale_by_nested_momentum([0.9], debias=True), {SHIFT}),
    "scale_by_learning_rate[late]": (
        nj.scale_by_learning_rate(0.1, schedule=nj.step_drop(30_000)),
        {SHIFT},
    ),
    "scale_by_learning_rate[slow]": (nj.scale_by_learning_rate(0.1, schedule=cosine), {SHIFT}),
    "momentum[cosine]": (nj.momentum(0.1, schedule=nj.cosine(1000)), {SHIFT}),
    "momentum[restarts]": (nj.momentum(0.1, schedule=nj.warm_restarts(100)), {SHIFT}),
    "scale_by_nesterov_momentum[schedule]": (
        nj.scale_by_nesterov_momentum(0.1, decay=looking_ahead),
        {SHIFT},
    ),
    "scale_by_nested_momentum[periods]": (
        nj.scale_by_nested_momentum([0.9], periods=[3]),
        {SHIFT},
    ),
    "scale_by_delta_momentum": (nj.scale_by_delta_momentum(), {ENTRIES}),
    "scale_by_delta_momentum[printed]": (
        nj.scale_by_delta_momentum(normalize=False),
        {HOMOGENEITY, SUPERPOSITION, ENTRIES},
    ),
    "scale_by_adam": (nj.scale_by_adam(), {HOMOGENEITY, SUPERPOSITION, SHIFT}),
    "m3": (nj.m3(0.1), {HOMOGENEITY, SUPERPOSITION, SHIFT, ENTRIES}),
    "adam": (nj.adam(), {HOMOGENEITY, SUPERPOSITION, SHIFT}),
    "adamw": (nj.adamw(), {HOMOGENEITY, SUPERPOSITION, SHIFT, PARAMETERS}),
    "add_decoupled_weight_decay": (nj.add_decoupled_weight_decay(0.1), {PARAMETERS}),
    "clip_by_block_rms": (nj.clip_by_block_rms(1.0), {HOMOGENEITY, SUPERPOSITION, ENTRIES}),
    "scale_by_factored_rms": (
        nj.scale_by_factored_rms(),
        {HOMOGENEITY, SUPERPOSITION, SHIFT, ENTRIES},
    ),
    "scale_by_relative_step": (nj.scale_by_relative_step(), {SHIFT, PARAMETERS}),
    "adafactor": (nj.adafactor(), set(theory.Linearity._fields)),
    "factored_adamw": (
        nj.factored_adamw(0.1, weight_decay=0.1, normalized=False, schedule=None),
        None,
    ),
    "with_metrics[adam]": (nj.with_metrics(nj.adam()), {HOMOGENEITY, SUPERPOSITION, SHIFT}),
    "optax.adam": (optax.adam(0.1), {HOMOGENEITY, SUPERPOSITION, SHIFT}),
    "optax.rmsprop": (optax.rmsprop(0.1), None),
    "optax.adafactor": (optax.adafactor(0.1), None),
    "optax.ema": (optax.ema(0.9), {SHIFT}),
    "optax.clip": (optax.clip(1.0), {HOMOGENEITY, SUPERPOSITION}),
    "optax.clip[large]": (optax.clip(1e6), {HOMOGENEITY}),
    "optax.chain[clip]": (optax.chain(optax.clip(1.0), optax.trace(0.9)), {HOMOGENEITY}),
    "optax.clip_by_global_norm": (
        optax.clip_by_global_norm(1.0),
        {HOMOGENEITY, SUPERPOSITION, ENTRIES},
    ),
    "optax.scale_by_sign": (optax.scale_by_sign(), {HOMOGENEITY, SUPERPOSITION}),
    "optax.sgd[schedule]": (optax.sgd(optax.exponential_decay(0.1, 100, 0.5)), {SHIFT}),
    "optax.sgd[late]": (optax.sgd(optax.piecewise_constant_schedule(0.1, {900: 0.1})), {SHIFT}),
    "optax.add_decayed_weights": (optax.add_decayed_weights(0.1), {PARAMETERS}),
    "optax.centralize": (optax.centralize(), {ENTRIES}),
    "optax.chain[centralize]": (optax.chain(optax.centralize(), optax.trace(0.9)), {ENTRIES}),
    "optax.apply_every": (optax.apply_every(2), {SHIFT}),
    "optax.MultiSteps": (
        optax.MultiSteps(optax.trace(0.9), 2).gradient_transformation(),
        {SHIFT},
    ),
    # Its output is 0 in all of a run from the start.
    "optax.MultiSteps[1000]": (
        optax.MultiSteps(optax.sgd(0.1), 1000).gradient_transformation(),
        {SHIFT},
    ),
    "optax.keep_params_nonnegative": (optax.keep_params_nonnegative(), None),
    "optax.add_noise": (optax.add_noise(0.1, 0.5, jax.random.key(0)), {HOMOGENEITY}),
}


def failed(errors):
    return {name for name, error in errors._asdict().items() if not error <= ALLOWED}


def test_every_public_transform_is_listed():
    public = {
        name
        for name, value in vars(nj).items()
        if inspect.isfunction(value)
        and "GradientTransformation" in str(inspect.signature(value).return_annotation)
    }
    listed = {name.partition("[")[0] for name in LINEAR | REFUSED if "." not in name}
    assert public - listed == {"delta_gradient_descent", "scale_by_m3"}
    # It refuses the scalar of these tests.
    with pytest.raises(TypeError, match="`scale_by_m3` takes matrices only"):
        theory.linearity(nj.scale_by_m3())
    # It reads the inputs, which no test of linearity has.
    with pytest.raises(TypeError, match="`delta_gradient_descent` needs `batch` in `update`"):
        theory.linearity(nj.delta_gradient_descent(0.1, inputs=lambda batch: batch))
    assert listed <= public


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LINEAR)
def test_linear_transforms_fail_by_rounding_only(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        errors = theory.linearity(LINEAR[name])
        assert {error.dtype for error in errors} == {np.dtype(dtype)}
        assert max(errors) <= ROUNDING * np.finfo(dtype).eps


@pytest.mark.parametrize("name", REFUSED)
def test_refused_transforms_fail_the_tests_they_should(x64, name):
    tx, expected = REFUSED[name]
    actual = failed(theory.linearity(tx))
    assert actual
    # What comes with other failures may fail more: noise fails everything.
    assert expected is None or expected <= actual
    if name not in ("optax.add_noise", "optax.chain[clip]"):
        assert expected is None or expected == actual
    with pytest.raises(ValueError, match="`tx` must be linear and time-invariant, got one that"):
        theory.state_space(tx)


@pytest.mark.parametrize(
    "name", ["adam", "adafactor", "optax.clip", "optax.ema", "optax.sgd[late]"]
)
def test_float32_sees_what_float64_does(name):
    with pytest.raises(ValueError, match="`tx` must be linear and time-invariant, got one that"):
        theory.state_space(REFUSED[name][0])


def test_digits_that_cancel_are_not_taken_for_nonlinearity(x64):
    # The weights of the levels add up to 2^18 in magnitude.
    errors = theory.linearity(nj.scale_by_nested_momentum([0.5] * 18, readout="zero_lag"))
    assert 1e-13 < max(errors) < ALLOWED / 100


def test_errors_in_closed_form(x64):
    # Clipped at 1, the input 1e8 u leaves as 1: all of the output is missing but for 1e-8.
    errors = theory.linearity(optax.clip(1e-9))
    assert float(errors.homogeneity) == pytest.approx(1.0, abs=1e-7)
    assert float(errors.shift) == 0
    # A rate that falls by half a step has halved after a delay of one, and so on.
    errors = theory.linearity(nj.scale_by_learning_rate(1.0, schedule=lambda step: 0.5**step))
    assert float(errors.shift) == pytest.approx(1.0)
    assert float(errors.homogeneity) <= 1e-15
    # Decay acts on parameters of 1 by 0.1; the input is below 1.5.
    error = float(theory.linearity(optax.add_decayed_weights(0.1)).parameters)
    assert 0.1 / 1.6 <= error <= 0.1


def test_the_message_names_the_tests_that_failed_and_by_how_much(x64):
    message = (
        "`tx` must be linear and time-invariant, got one that fails the shift test by 0.9 of the "
        "largest output (a delayed input must give the delayed output)."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        theory.state_space(optax.ema(0.9))
    with pytest.raises(ValueError, match=r"homogeneity test by .*, the superposition test by "):
        theory.state_space(nj.adam())
    with pytest.raises(ValueError, match=r"fails the parameters test by 0\.06"):
        theory.state_space(optax.add_decayed_weights(0.1))


def test_nan_fails():
    tx = optax.stateless(lambda updates, params: updates * math.nan)
    with pytest.raises(ValueError, match="fails the homogeneity test by nan"):
        theory.state_space(tx)


def test_works_under_vmap(x64):
    errors = jax.jit(jax.vmap(lambda clip: theory.linearity(optax.clip(clip))))(
        jnp.array([1.0, jnp.inf])
    )
    assert errors.homogeneity[0] > 0.9
    assert errors.homogeneity[1] <= 1e-15


def test_rejects_what_is_no_transform():
    with pytest.raises(TypeError, match=r"`tx` must have `init` and `update`, got 0\.9\."):
        theory.linearity(0.9)
