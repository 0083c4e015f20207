"""The contract of `nested_jax.testing`, kept by every transform."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nested_jax as nj
from nested_jax import schedules, testing
from nested_jax.testing import CHECKS, Case, check_contract

RATES = {"learning_rate": (0.1, 0.3)}
DECAY = {"decay": (0.9, 0.999)}
BETAS = {"b1": (0.9, 0.99), "b2": (0.99, 0.999)}
EPS = {"eps": (1e-8, 0.1)}
M3 = BETAS | EPS | {"b3": (0.9, 0.5), "slow_weight": (0.5, 1.0), "period": (1, 2)}
DELTA = {"decay": (0.9, 0.999), "erasure": (1.0, 0.5)}
WEIGHT_DECAY = {"weight_decay": (0.01, 0.1)}
# Squares beyond float32 make a row of infinities, of which the factors are 0 / 0.
NO_SQUARES = {"huge": "any"}


def fading(factor):
    return lambda step: factor**step


def cascade(outer, inner, **options):
    return nj.scale_by_nested_momentum([outer, inner], **options)


def falling_adamw(total_steps, floor, **hyperparams):
    schedule = schedules.cosine(total_steps, floor=floor)
    return nj.adamw(normalized=True, schedule=schedule, **hyperparams)


def with_unit_inputs(learning_rate):
    """Return delta gradient descent on inputs of 1, whatever the parameters are."""
    tx = nj.delta_gradient_descent(learning_rate, inputs=lambda batch: batch)

    def update(updates, state, params=None, **extra_args):
        ones = jax.tree.map(lambda p: jnp.ones(jnp.shape(p)[-1:]), params)
        return tx.update(updates, state, params, **extra_args | {"batch": ones})

    return optax.GradientTransformationExtraArgs(tx.init, update)


def of_matrices(**arguments):
    """Return M3 for the matrices of a tree and the identity for other leaves, which it refuses."""
    links = {2: nj.scale_by_m3(ns_steps=2, **arguments)}
    links |= dict.fromkeys((0, 1, 3), nj.scale_by_accumulated_momentum(0.0))
    return optax.partition(links, lambda tree: jax.tree.map(jnp.ndim, tree))


# The public name, and in brackets which of its programs it is.
CASES = [
    Case(
        "scale_by_nested_momentum",
        cascade,
        {"outer": (0.9, 0.999), "inner": (0.5, 0.99)},
    ),
    Case(
        "scale_by_nested_momentum[debias]",
        functools.partial(nj.scale_by_nested_momentum, debias=True),
        {"decays": (np.array([0.5, 0.9]), np.array([0.99, 0.999]))},
    ),
    Case(
        "scale_by_nested_momentum[zero_lag]",
        functools.partial(cascade, readout="zero_lag"),
        {"outer": (0.9, 0.999), "inner": (0.5, 0.99)},
    ),
    Case(
        "scale_by_nested_momentum[mean]",
        functools.partial(cascade, readout="mean", debias=True),
        {"outer": (0.9, 0.999), "inner": (0.5, 0.99)},
    ),
    Case(
        "scale_by_nested_momentum[periods]",
        lambda outer, inner, period: cascade(outer, inner, periods=[period, 2]),
        {"outer": (0.9, 0.999), "inner": (0.5, 0.99), "period": (1, 3)},
    ),
    Case(
        "scale_by_nested_momentum[periods, debias]",
        lambda outer, inner, period: cascade(outer, inner, periods=[period, 2], debias=True),
        {"outer": (0.9, 0.999), "inner": (0.5, 0.99), "period": (1, 3)},
    ),
    Case("scale_by_accumulated_momentum", nj.scale_by_accumulated_momentum, DECAY),
    Case(
        "scale_by_aggmo",
        nj.scale_by_aggmo,
        {"decays": (np.array([0.0, 0.9, 0.99]), np.array([0.5, 0.9, 0.999]))},
    ),
    Case("scale_by_qhm", nj.scale_by_qhm, {"decay": (0.9, 0.999), "nu": (0.7, 0.2)}),
    Case("scale_by_delta_momentum", nj.scale_by_delta_momentum, DELTA, reach="leaf"),
    Case(
        "scale_by_delta_momentum[vector]",
        functools.partial(nj.scale_by_delta_momentum, reading="vector"),
        DELTA,
        reach="leaf",
    ),
    Case(
        "scale_by_delta_momentum[printed]",
        functools.partial(nj.scale_by_delta_momentum, reading="scalar", normalize=False),
        {"decay": (0.9, 0.999), "erasure": (0.01, 0.1)},
        reach="leaf",
        extremes={"huge": "any"},
    ),
    Case("scale_by_m3", of_matrices, M3, reach="leaf", extremes=NO_SQUARES),
    Case(
        "scale_by_m3[accumulate]",
        functools.partial(of_matrices, reading="accumulate", iteration="cubic"),
        {"b2": (0.9, 0.999), "slow_weight": (0.5, 1.0), "period": (1, 2), "eps": (1e-3, 0.1)},
        reach="leaf",
        extremes=NO_SQUARES,
    ),
    # Each entry of the parameters reaches its row, as the cut of a leaf would show.
    Case(
        "delta_gradient_descent",
        with_unit_inputs,
        RATES,
        needs_params=True,
        reach="leaf",
    ),
    Case("scale_by_learning_rate", nj.scale_by_learning_rate, RATES),
    Case(
        "scale_by_learning_rate[schedule]",
        lambda learning_rate, factor: nj.scale_by_learning_rate(
            learning_rate, schedule=fading(factor)
        ),
        RATES | {"factor": (0.5, 0.999)},
    ),
    Case("scale_by_nesterov_momentum", nj.scale_by_nesterov_momentum, RATES | DECAY),
    Case("scale_by_adam", nj.scale_by_adam, BETAS | EPS),
    Case(
        "scale_by_adam[amsgrad]",
        functools.partial(nj.scale_by_adam, amsgrad=True, debias=False),
        BETAS | EPS,
    ),
    Case(
        "add_decoupled_weight_decay",
        nj.add_decoupled_weight_decay,
        WEIGHT_DECAY | RATES,
        needs_params=True,
    ),
    Case("clip_by_block_rms", nj.clip_by_block_rms, {"threshold": (0.5, 0.8)}, reach="leaf"),
    Case(
        "scale_by_factored_rms",
        nj.scale_by_factored_rms,
        {"decay_rate": (0.8, 0.5), "eps": (1e-30, 0.1), "b2_cap": (0.9, 0.2)},
        reach="leaf",
        extremes=NO_SQUARES,
    ),
    Case(
        "scale_by_factored_rms[whole]",
        functools.partial(nj.scale_by_factored_rms, factored=False),
        {"b2": (0.9, 0.999), "eps": (1e-30, 0.1)},
    ),
    Case(
        "scale_by_relative_step",
        nj.scale_by_relative_step,
        RATES | {"eps": (1e-3, 3.0)},
        needs_params=True,
        reach="leaf",
    ),
    Case(
        "scale_by_relative_step[absolute]",
        functools.partial(nj.scale_by_relative_step, relative_step=False, scale_by_parameter=False),
        RATES,
    ),
    Case("momentum", nj.momentum, RATES | DECAY),
    Case(
        "nested_momentum",
        functools.partial(nj.nested_momentum, max_levels=4),
        RATES | DECAY | {"levels": (2, 4)},
    ),
    Case(
        "m3",
        functools.partial(nj.m3, ns_steps=2),
        RATES | M3,
        reach="leaf",
        extremes=NO_SQUARES,
    ),
    Case("nesterov", nj.nesterov, RATES | DECAY),
    Case("adam", nj.adam, RATES | BETAS | EPS),
    Case("adamw", nj.adamw, RATES | WEIGHT_DECAY | BETAS | EPS, needs_params=True),
    Case(
        "adamw[normalized]",
        falling_adamw,
        RATES | WEIGHT_DECAY | {"total_steps": (600, 4), "floor": (0.1, 0.5)},
        needs_params=True,
    ),
    Case(
        "adafactor",
        nj.adafactor,
        RATES
        | {"decay_rate": (0.8, 0.5), "clip_threshold": (1.0, 0.5)}
        | {"eps1": (1e-30, 0.1), "eps2": (1e-3, 3.0)},
        needs_params=True,
        reach="leaf",
        extremes=NO_SQUARES,
    ),
    Case(
        "adafactor[momentum]",
        functools.partial(nj.adafactor, momentum_of="step", relative_step=False),
        RATES | WEIGHT_DECAY | {"b1": (0.9, 0.999), "b2": (0.9, 0.999)},
        needs_params=True,
        reach="leaf",
        extremes=NO_SQUARES,
    ),
    Case(
        "factored_adamw",
        functools.partial(nj.factored_adamw, normalized=False, schedule=None),
        RATES | WEIGHT_DECAY | {"b1": (0.9, 0.999)},
        needs_params=True,
        reach="leaf",
        extremes=NO_SQUARES,
    ),
    Case(
        "with_metrics",
        lambda **hyperparams: nj.with_metrics(nj.adamw(**hyperparams)),
        RATES | WEIGHT_DECAY | BETAS,
        needs_params=True,
    ),
]


def name_of(thing):
    return getattr(thing, "name", None) or thing.__name__


@pytest.mark.parametrize("check", CHECKS, ids=name_of)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_keeps_the_contract(case, check):
    check(case)


def test_every_public_transform_has_a_case():
    public = {
        name: value
        for module in (nj, nj.transforms)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    transforms = {  # Some annotations are strings, of modules that are not imported.
        name
        for name, function in public.items()
        if "GradientTransformation" in str(inspect.signature(function).return_annotation)
    }
    assert transforms == {case.name.partition("[")[0] for case in CASES}


def test_every_check_is_part_of_the_contract():
    public = {value for name, value in vars(testing).items() if name.startswith("check_")}
    assert public == {*CHECKS, check_contract}


def test_a_stateless_transform_keeps_the_contract():
    check_contract(Case("optax.identity", optax.identity))


@pytest.mark.parametrize(
    "make",
    [
        optax.set_to_zero,
        optax.scale_by_sign,
        optax.scale_by_lion,
        optax.scale_by_adam,
        functools.partial(optax.clip, 1.0),
    ],
    ids=["zero", "sign", "lion", "adam", "clip"],
)
def test_what_takes_steps_or_has_kinks_is_precise(make):
    testing.check_precision(Case("optax", make))


@pytest.mark.parametrize(
    "make",
    [
        optax.scale_by_adam,
        functools.partial(optax.scale_by_schedule, lambda count: (count % 16 == 15) * 1.0),
        functools.partial(optax.scale_by_schedule, lambda count: (count % 100) / 100),
        functools.partial(optax.scale_by_schedule, optax.cosine_decay_schedule(0.1, 100)),
        lambda: optax.MultiSteps(optax.scale_by_adam(), 4).gradient_transformation(),
    ],
    ids=["adam", "every 16", "period 100", "cosine", "turns over at 4"],
)
def test_counters_that_end_or_turn_over_are_well(make):
    testing.check_counters(Case("optax", make))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reach": "row"}, "`reach` must be one of 'entry', 'leaf', 'tree', got 'row'."),
        ({"extremes": {"big": "any"}}, "`extremes` must be one of 'zero', 'tiny', 'large', "),
        ({"extremes": {"nan": "bad"}}, "`extremes['nan']` must be one of 'finite', 'seen', 'any'"),
    ],
)
def test_rejects_a_case_that_says_nothing_known(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Case("mine", optax.scale, **options)
