"""The compared methods, with one time scale and with two, and the ranges over which they are tuned.

A sum of gradients grows to rate / (1 − decay) times a constant gradient, an average to rate times
it. Rates are therefore tuned over a range for each kind of step and each task.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import nested_jax as nj
from experiments.lab.tuning import NONE, Method, Range
from experiments.timescales.config import STRIDE

MEMORY = Range(1e-3, 3.0, complement=True)
"""1 − decay: averages over up to 1,000 steps, and decay 0 in one of seven trials."""
SHARE = Range(1e-3, 1.0)
UNTUNED: Mapping[str, Range] = MappingProxyType({})
SYNC_SHARE = 0.5
"""Of the way to the fast weights, the step of Lookahead's slow weights: the paper's."""


class Scales(NamedTuple):
    """A method in this comparison.

    Attributes:
        label: Its name.
        make: Its hyperparameters -> the transform.
        step: The kind of its step, which names its range of rates in `RATES`.
        tuned: The ranges of its other hyperparameters.
        fixed: The values of those that are not tuned.
        base: The method with one time scale that it extends; "" if it has one itself.
        needs_inputs: Whether it reads the inputs of a linear model.
    """

    label: str
    make: Callable[..., optax.GradientTransformation]
    step: str
    tuned: Mapping[str, Range] = UNTUNED
    fixed: Mapping[str, float] = NONE
    base: str = ""
    needs_inputs: bool = False

    def on(self, task: str) -> Method:
        """Return the method with the ranges of a task."""
        rates = {"learning_rate": RATES[task][self.step]}
        return Method(self.label, self.make, rates | dict(self.tuned), self.fixed)


def _stepped(tx: optax.GradientTransformation, learning_rate: Any) -> Any:
    return optax.chain(tx, nj.scale_by_learning_rate(learning_rate))


def _momentum(learning_rate: Any, decay: Any) -> Any:
    return nj.momentum(learning_rate, decay=decay)


def _nested(learning_rate: Any, decay: Any, period: Any) -> Any:
    """Return the mean of the gradient, its average and a slow average of that, by periods."""
    periods = [jnp.asarray(jnp.round(period), int), 1]
    tx = nj.scale_by_nested_momentum([decay, decay], periods=periods, readout="mean")
    return _stepped(tx, learning_rate)


def _aggmo(learning_rate: Any, decay: Any) -> Any:
    """Return AggMo with the paper's decays 1 − a^i, a = 1 − `decay`."""
    a = 1 - decay
    return _stepped(nj.scale_by_aggmo([0.0, 1 - a, 1 - a**2]), learning_rate)


def _qhm(learning_rate: Any, decay: Any, direct: Any) -> Any:
    return _stepped(nj.scale_by_qhm(decay, nu=1 - direct), learning_rate)


def _delta_momentum(learning_rate: Any, decay: Any, erasure: Any) -> Any:
    return _stepped(nj.scale_by_delta_momentum(decay, erasure=erasure), learning_rate)


def _delta_descent(learning_rate: Any) -> Any:
    return nj.delta_gradient_descent(learning_rate, inputs=lambda batch: batch.features)


def _lookahead(learning_rate: Any, decay: Any) -> Any:
    """Return optax's Lookahead as a transform of the fast weights; its state has the slow ones."""
    fast = nj.momentum(learning_rate, decay=decay)
    tx: Any = optax.lookahead(fast, sync_period=STRIDE, slow_step_size=SYNC_SHARE)

    def init(params: Any) -> Any:
        return params, tx.init(optax.LookaheadParams.init_synced(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        slow, inner = state
        both, inner = tx.update(updates, inner, optax.LookaheadParams(params, slow))
        return both.fast, (optax.apply_updates(slow, both.slow), inner)

    return optax.GradientTransformation(init, update)


def _adam(learning_rate: Any, b1: Any) -> Any:
    return nj.adam(learning_rate, b1=b1)


def _ademamix(learning_rate: Any, b1: Any, b3: Any, alpha: Any) -> Any:
    return optax.contrib.ademamix(learning_rate, b1=b1, b3=b3, alpha=alpha)


def _muon(learning_rate: Any, b1: Any) -> Any:
    return optax.contrib.muon(learning_rate, beta=b1, adam_b1=b1)


def _m3(learning_rate: Any, b1: Any, slow_weight: Any, period: Any) -> Any:
    period = jnp.asarray(jnp.round(period), int)
    return nj.m3(learning_rate, b1=b1, slow_weight=slow_weight, period=period)


DECAY = {"decay": MEMORY}
FIRST = {"b1": MEMORY}
PERIOD = {"period": Range(1.0, 64.0)}
METHODS: Mapping[str, Scales] = {
    "sgd": Scales("SGD", _momentum, "sum", fixed={"decay": 0.0}),
    "momentum": Scales("Momentum", _momentum, "sum", DECAY),
    "adam": Scales("Adam", _adam, "adaptive", FIRST),
    "muon": Scales("Muon", _muon, "matrix", FIRST),
    "delta_descent": Scales(
        "Delta gradient descent", _delta_descent, "sum", base="sgd", needs_inputs=True
    ),
    "delta_momentum": Scales(
        "Delta momentum", _delta_momentum, "sum", DECAY | {"erasure": SHARE}, base="momentum"
    ),
    "nested": Scales(
        "Nested momentum with periods", _nested, "average", DECAY | PERIOD, base="momentum"
    ),
    "aggmo": Scales("AggMo", _aggmo, "sum", DECAY, base="momentum"),
    "qhm": Scales("QHM", _qhm, "average", DECAY | {"direct": SHARE}, base="momentum"),
    "lookahead": Scales("Lookahead", _lookahead, "sum", DECAY, base="momentum"),
    "ademamix": Scales(
        "AdEMAMix",
        _ademamix,
        "adaptive",
        FIRST | {"b3": MEMORY, "alpha": Range(0.1, 10.0)},
        base="adam",
    ),
    "m3": Scales(
        "M3", _m3, "matrix", FIRST | {"slow_weight": Range(0.01, 1.0)} | PERIOD, base="muon"
    ),
}
RATES: Mapping[str, Mapping[str, Range]] = {
    "drift": {
        "sum": Range(3e-4, 0.1),
        "average": Range(3e-4, 0.1),
        "adaptive": Range(1e-3, 1.0),
        "matrix": Range(1e-3, 1.0),
    },
    # The largest curvature is 1.
    "quadratics": {
        "sum": Range(0.01, 4.0),
        "average": Range(0.1, 400.0),
        "adaptive": Range(1e-4, 1.0),
        "matrix": Range(1e-4, 1.0),
    },
    "language": {
        "sum": Range(0.003, 3.0),
        "average": Range(0.03, 30.0),
        "adaptive": Range(3e-4, 0.1),
        "matrix": Range(1e-3, 0.3),
    },
}


def compared(task: str) -> dict[str, Method]:
    """Return the methods of a task, with their ranges, by name.

    Only drift has the inputs of a linear model, which delta gradient descent reads.
    """
    return {
        name: one.on(task)
        for name, one in METHODS.items()
        if task == "drift" or not one.needs_inputs
    }


def extended(task: str) -> dict[str, str]:
    """Return the method with one time scale that each other method of a task extends."""
    return {name: METHODS[name].base for name in compared(task) if METHODS[name].base}
