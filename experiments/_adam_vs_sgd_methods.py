"""The optimizers that are compared: what each has that can be tuned."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import optax

import nested_jax as nj

if TYPE_CHECKING:
    from experiments.adam_vs_sgd import Config


class Method(NamedTuple):
    """An optimizer in the comparison.

    Attributes:
        title: What it is called in the report.
        make: (rate, momentum, levels, weight decay) -> optimizer.
        momentum: What the axis `momentum` stands for, given its value; None if for nothing.
        penalised: Whether L2 is added to its gradients; otherwise it decays by itself.
    """

    title: str
    make: Callable[[Any, Any, int, Any], optax.GradientTransformation]
    momentum: Callable[[float], str] | None = "{:g}".format
    penalised: bool = True


def _mean_square_decay(momentum):
    """Return RMSProp's constant: .95, .99, .997 for momenta of .5, .9, .97."""
    return 1 - (1 - momentum) / 10


METHODS = {
    "sgd": Method("SGD", lambda rate, rho, levels, decay: nj.scale_by_learning_rate(rate), None),
    "momentum": Method("momentum", lambda rate, rho, levels, decay: nj.momentum(rate, decay=rho)),
    "nesterov": Method("Nesterov", lambda rate, rho, levels, decay: nj.nesterov(rate, decay=rho)),
    "nested": Method(
        "nested, equal",
        lambda rate, rho, levels, decay: nj.nested_momentum(rate, levels=levels, decay=rho),
    ),
    "nested_matched": Method(
        "nested, matched",
        lambda rate, rho, levels, decay: nj.nested_momentum(
            rate, decays=nj.matched_delay_decays(levels, decay=rho)
        ),
    ),
    "adagrad": Method("AdaGrad", lambda rate, rho, levels, decay: optax.adagrad(rate), None),
    "rmsprop": Method(
        "RMSProp",
        lambda rate, rho, levels, decay: optax.rmsprop(rate, _mean_square_decay(rho)),
        lambda rho: f"β₂ {_mean_square_decay(rho):g}",
    ),
    "adam": Method("Adam", lambda rate, rho, levels, decay: nj.adam(rate, b1=rho)),
    "adamw": Method(
        "AdamW",
        lambda rate, rho, levels, decay: nj.adamw(
            rate, weight_decay=decay, b1=rho, decay_times_rate=True, mask=matrices
        ),
        penalised=False,
    ),
    "adafactor": Method("Adafactor", lambda rate, rho, levels, decay: nj.adafactor(rate, b1=rho)),
}
PAIR = ("sgd", "adam")
"""Those of the notes."""


def matrices(params: Any) -> Any:
    """Return which parameters are penalised or decay: not biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def optimizer(config: "Config", method: str, rate: Any, momentum: Any, share: Any = 1.0) -> Any:
    """Return a method's optimizer, with `share` of its penalty or weight decay."""
    chosen = METHODS[method]
    tx = chosen.make(rate, momentum, config.levels, config.weight_decay * share)
    if not chosen.penalised:
        return tx
    # The penalty's gradient: losses are reported without it, so that they can be compared.
    return optax.chain(optax.add_decayed_weights(config.penalty * share, matrices), tx)
