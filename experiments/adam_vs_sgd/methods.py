"""The optimizers that are compared: what each has that can be tuned."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import nested_jax as nj
from experiments.adam_vs_sgd.config import Config


class Settings(NamedTuple):
    """What an optimizer is made of; all but `levels` may be traced."""

    rate: Any
    momentum: Any
    levels: int
    weight_decay: Any


class Method(NamedTuple):
    """An optimizer in the comparison.

    Attributes:
        title: Its name in the report.
        make: Returns the optimizer.
        momentum: Returns what a momentum sets, in words; None if the method has none.
        penalised: Whether L2 is added to its gradients; otherwise its weights decay.
    """

    title: str
    make: Callable[[Settings], optax.GradientTransformation]
    momentum: Callable[[float], str] | None = "{:g}".format
    penalised: bool = True


def _mean_square_decay(momentum: Any) -> Any:
    """Return RMSProp's decay: 0.95, 0.99, 0.997 for momenta of 0.5, 0.9, 0.97."""
    return 1 - (1 - momentum) / 10


def _matrices(params: Any) -> Any:
    """Return which parameters are penalised or decay: weights, but not biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


METHODS = {
    "sgd": Method("SGD", lambda s: nj.scale_by_learning_rate(s.rate), None),
    "momentum": Method("momentum", lambda s: nj.momentum(s.rate, decay=s.momentum)),
    "nesterov": Method("Nesterov", lambda s: nj.nesterov(s.rate, decay=s.momentum)),
    "nested": Method(
        "nested, equal",
        lambda s: nj.nested_momentum(s.rate, levels=s.levels, decay=s.momentum),
    ),
    "nested_matched": Method(
        "nested, matched",
        lambda s: nj.nested_momentum(
            s.rate, decays=nj.matched_delay_decays(s.levels, decay=s.momentum)
        ),
    ),
    "adagrad": Method("AdaGrad", lambda s: optax.adagrad(s.rate), None),
    "rmsprop": Method(
        "RMSProp",
        lambda s: optax.rmsprop(s.rate, _mean_square_decay(s.momentum)),
        lambda momentum: f"β₂ {_mean_square_decay(momentum):g}",
    ),
    "adam": Method("Adam", lambda s: nj.adam(s.rate, b1=s.momentum)),
    "adamw": Method(
        "AdamW",
        lambda s: nj.adamw(
            s.rate,
            weight_decay=s.weight_decay,
            b1=s.momentum,
            decay_times_rate=True,
            mask=_matrices,
        ),
        penalised=False,
    ),
    "adafactor": Method("Adafactor", lambda s: nj.adafactor(s.rate, b1=s.momentum)),
}
PAIR = ("sgd", "adam")
"""Those of the notes."""
FEW = ("sgd", "momentum", "adam")


def compared(config: Config) -> list[str]:
    """Return the methods that are compared."""
    return [*(METHODS if config.methods == "all" else FEW)]


def build(config: Config, method: str, rate: Any, momentum: Any, share: Any = 1.0) -> Any:
    """Return a method's optimizer, with `share` of its penalty or weight decay."""
    chosen = METHODS[method]
    tx = chosen.make(Settings(rate, momentum, config.levels, config.weight_decay * share))
    if not chosen.penalised:
        return tx
    # Only the penalty's gradient: losses are reported without it, so that they can be compared.
    return optax.chain(optax.add_decayed_weights(config.penalty * share, _matrices), tx)
