"""The compared methods: how to make each, and over which ranges it is tuned."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

import nested_jax as nj
from experiments.lab.tuning import Method, Range
from experiments.tracking.methods import autostep, normalized_lms, recursive_least_squares

LEVELS = 3
"""Nested momentum has room for this many levels."""


def _leaky(tx, learning_rate, leak):
    """Follow the rate's scale by a pull of `leak` toward 0, which the rate does not multiply."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, p: u - leak * p, updates, params), state

    pull = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    return optax.chain(tx, nj.scale_by_learning_rate(learning_rate), pull)


def _nested(learning_rate, leak, levels, decay, matched):
    """Nested momentum of 1 to 3 levels, with equal decays or the mean delay of one average."""
    levels = jnp.asarray(levels, int)
    equal = nj.nested_decays(levels, decay=decay, max_levels=LEVELS)
    alike = nj.matched_delay_decays(levels, decay=decay, max_levels=LEVELS)
    decays = jnp.where(matched > 0, alike, equal)
    return _leaky(nj.scale_by_nested_momentum(decays), learning_rate, leak)


def _nesterov(learning_rate, decay):
    return nj.nesterov(learning_rate, decay=decay)


def _adam(learning_rate, b1, b2, weight_decay):
    return nj.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay)


def _rmsprop(learning_rate, decay):
    return optax.rmsprop(learning_rate, decay=decay)


def _adafactor(learning_rate, b2, weight_decay):
    return nj.adafactor(
        learning_rate,
        b2=b2,
        weight_decay=weight_decay,
        relative_step=False,
        scale_by_parameter=False,
    )


def _ademamix(learning_rate, b2, b3, alpha):
    return optax.contrib.ademamix(learning_rate, b2=b2, b3=b3, alpha=alpha)


RATE = Range(3e-4, 0.1)
"""Of SGD, whose mean square diverges at 0.084 with 10 inputs."""
STEP = Range(1e-3, 1.0)
"""Of methods whose step does not depend on the gradient's scale."""
MEMORY = Range(3e-3, 3.0, complement=True)
"""1 − decay: averages over up to 330 steps, and a sixth of the trials without memory."""
LEAK = Range(1e-4, 0.3)
SGD = {"levels": 1, "decay": 0.0, "matched": 0}

METHODS: Mapping[str, Method] = {
    "sgd": Method("SGD", _nested, {"learning_rate": RATE}, SGD | {"leak": 0.0}),
    "leaky_sgd": Method(
        "SGD with weight decay", _nested, {"learning_rate": RATE, "leak": LEAK}, SGD
    ),
    "nested_2": Method(
        "2 equal momentum levels",
        _nested,
        {"learning_rate": RATE, "decay": MEMORY, "leak": LEAK},
        {"levels": 2, "matched": 0},
    ),
    "matched_3": Method(
        "3 matched momentum levels",
        _nested,
        {"learning_rate": RATE, "decay": MEMORY, "leak": LEAK},
        {"levels": 3, "matched": 1},
    ),
    "nesterov": Method("Nesterov", _nesterov, {"learning_rate": RATE, "decay": MEMORY}),
    "adam": Method(
        "Adam with β₁ = 0.9",
        _adam,
        {"learning_rate": STEP, "b2": MEMORY},
        {"b1": 0.9, "weight_decay": 0.0},
    ),
    "adam_0": Method(
        "Adam with β₁ = 0",
        _adam,
        {"learning_rate": STEP, "b2": MEMORY},
        {"b1": 0.0, "weight_decay": 0.0},
    ),
    "adamw": Method(
        "AdamW with β₁ = 0",
        _adam,
        {"learning_rate": STEP, "b2": MEMORY, "weight_decay": LEAK},
        {"b1": 0.0},
    ),
    "rmsprop": Method("RMSProp", _rmsprop, {"learning_rate": STEP, "decay": MEMORY}),
    "adafactor": Method(
        "Adafactor",
        _adafactor,
        {"learning_rate": STEP, "b2": MEMORY, "weight_decay": LEAK},
    ),
    "ademamix": Method(
        "AdEMAMix",
        _ademamix,
        {"learning_rate": STEP, "b2": MEMORY, "b3": MEMORY, "alpha": Range(0.1, 10.0)},
    ),
    "nlms": Method("NLMS", normalized_lms, {"rate": Range(0.01, 1.9)}, needs_inputs=True),
    "rls": Method(
        "RLS with forgetting",
        recursive_least_squares,
        {"forgetting": Range(1e-3, 0.3, complement=True)},
        needs_inputs=True,
    ),
    "autostep": Method(
        "Autostep",
        autostep,
        {"rate": Range(1e-3, 0.1), "meta_rate": Range(1e-4, 0.1)},
        needs_inputs=True,
    ),
}
