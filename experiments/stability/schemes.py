"""The schemes: what can be done with the momentum levels."""

from typing import Any, NamedTuple

import optax

import nested_jax as nj
from experiments.stability.config import Config


class Scheme(NamedTuple):
    """What is done with the levels.

    Attributes:
        label: Its name in the report.
        readout: "last", "zero_lag" or "mean", or "debiased": the last level, bias-corrected.
        matched: Whether the decays are such that the total delay is that of one level. Otherwise
            all decays are equal.
    """

    label: str
    readout: str = "last"
    matched: bool = False


SCHEMES = {
    "equal": Scheme("equal decays"),
    "matched": Scheme("matched delay", matched=True),
    "debiased": Scheme("equal, bias-corrected", "debiased"),
    "zero_lag": Scheme("equal, no lag (DEMA, TEMA, …)", "zero_lag"),
    "mean": Scheme("equal, mean of the levels", "mean"),
    "rescaled": Scheme("equal, stable rate"),
    "tuned_equal": Scheme("equal decays, tuned rate"),
    "tuned_matched": Scheme("matched delay, tuned rate", matched=True),
    "tuned_zero_lag": Scheme("no lag, tuned rate", "zero_lag"),
}
PROBED = ("equal", "matched", "zero_lag", "mean")
"""Schemes whose largest stable rate is measured. A bias correction fades and does not change it."""
FIXED = (*PROBED, "debiased")
"""Schemes with the given learning rate; the others choose their own."""
TUNED = ("tuned_equal", "tuned_matched", "tuned_zero_lag")


def momentum(
    config: Config, readout: str, matched: bool, level: Any
) -> optax.GradientTransformation:
    """Return the cascade of `level` levels with equal decays or, if `matched`, equal delay."""
    decays = nj.matched_delay_decays if matched else nj.nested_decays
    debias = readout == "debiased"
    return nj.scale_by_nested_momentum(
        decays(level, decay=config.decay, max_levels=config.model_levels),
        debias=debias,
        readout="last" if debias else readout,
    )
