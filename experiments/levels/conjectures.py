"""The two conjectures that close the published experiment, answered from theory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nested_jax as nj
from experiments import lab
from experiments.levels import figures
from experiments.levels.config import Config
from nested_jax import theory

SHOWN = (1, 2, 3, 6, 10, 19)
"""Model levels whose responses are drawn."""
STEPS, EARLY = 600, 20
"""Steps that are drawn, and after which the answer looks."""
BODY = """
The published experiment closed with two conjectures about why more model levels do worse.

*Amplification*: each level amplifies the error. This is right in a precise sense. The gradient
depends on the parameters, so the levels close a loop. Each level delays it more, and from some
number of levels on the delayed correction comes so late that errors grow: a linear instability.
The largest number of levels below follows from the transfer function of the cascade, the learning
rate and the number of inputs. The [stability report](../stability/report.html) tests it with runs.

*New gradients vanish*: a new gradient hardly reaches the parameters. The figure shows which share
of a gradient that changes at step 0 is in the update after t steps. Nothing is lost: each curve
reaches 1. With more levels, it takes longer.
"""


class Cascades(NamedTuple):
    """What theory says of the cascades.

    Attributes:
        stable: The largest number of levels up to which the mean square of the error settles.
        shares: The share of a new gradient in the update after 1, 2, ... steps, by model levels.
    """

    stable: int
    shares: dict[int, np.ndarray]


def cascades(config: Config, growth: np.ndarray) -> Cascades:
    """Return what theory says, given the growth of the mean square by model levels."""
    most = config.model_levels
    shown = [m for m in SHOWN if m <= most]

    def response(level):
        decays = nj.nested_decays(level, decay=config.decay, max_levels=most)
        return theory.step_response(theory.cascade(decays), STEPS)

    shares = np.asarray(jax.jit(jax.vmap(response))(jnp.asarray(shown)))
    grows = growth > 0
    stable = int(grows.argmax()) if grows.any() else most
    return Cascades(stable, dict(zip(shown, shares, strict=True)))


def amplification(config: Config, stable: int) -> str:
    """Answer the first conjecture."""
    if stable >= config.model_levels:
        return "Amplification: no, theory finds all of these levels stable."
    return (
        "Amplification: yes, as a linear instability: theory has the error settle with up to "
        f"{stable} levels and grow with more."
    )


def vanishing(shares: dict[int, np.ndarray]) -> str:
    """Answer the second conjecture."""
    shown = [m for m in shares if m > 1]
    if not shown:
        return "New gradients vanish: no, with one level they act at once."
    parts = ", ".join(f"{100 * shares[m][EARLY - 1]:.2g} % with {m}" for m in shown[:3])
    return (
        f"New gradients vanish: they are late, not lost. After {EARLY} steps, the update contains "
        f"{parts} levels; in the end, all of it."
    )


def answer(config: Config, found: Cascades) -> str:
    """Answer both."""
    return f"{amplification(config, found.stable)} {vanishing(found.shares)}"


def section(config: Config, found: Cascades) -> lab.Section:
    """Return the section on both."""
    caption = "Share of a new gradient in the update, after a change of the gradient at step 0."
    return lab.Section(
        title="Why do more levels do worse?",
        answer=answer(config, found),
        body=BODY,
        figures={"responses": (figures.draw_responses(found.shares), caption)},
    )
