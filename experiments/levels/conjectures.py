"""The two conjectures that close the published experiment, answered from theory."""

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


def stable_levels(config: Config) -> int:
    """Return the largest number of levels up to which the mean square of the error settles."""
    for m in range(1, config.model_levels + 1):
        system = theory.cascade(nj.nested_decays(m, decay=config.decay))
        if float(theory.mean_square_growth(system, config.dim, config.learning_rate)) > 0:
            return m - 1
    return config.model_levels


def responses(config: Config) -> dict[int, np.ndarray]:
    """Return the share of a new gradient in the update after 1, 2, ... steps, by model levels."""
    return {
        m: np.asarray(theory.step_response(_cascade(config, m), STEPS))
        for m in SHOWN
        if m <= config.model_levels
    }


def _cascade(config: Config, levels: int) -> theory.StateSpace:
    return theory.cascade(nj.nested_decays(levels, decay=config.decay))


def amplification(config: Config) -> str:
    """Answer the first conjecture."""
    stable = stable_levels(config)
    if stable >= config.model_levels:
        return "Amplification: no, theory finds all of these levels stable."
    return (
        "Amplification: yes, as a linear instability: theory has the error settle with up to "
        f"{stable} levels and grow with more."
    )


def vanishing(config: Config, shares: dict[int, np.ndarray]) -> str:
    """Answer the second conjecture."""
    shown = [m for m in shares if m > 1]
    if not shown:
        return "New gradients vanish: no, with one level they act at once."
    parts = ", ".join(f"{100 * shares[m][EARLY - 1]:.2g} % with {m}" for m in shown[:3])
    return (
        f"New gradients vanish: they are late, not lost. After {EARLY} steps, the update contains "
        f"{parts} levels; in the end, all of it."
    )


def section(config: Config) -> lab.Section:
    """Return the section on both."""
    shares = responses(config)
    caption = "Share of a new gradient in the update, after a change of the gradient at step 0."
    return lab.Section(
        title="Why do more levels do worse?",
        answer=f"{amplification(config)} {vanishing(config, shares)}",
        body=BODY,
        figures={"responses": (figures.draw_responses(shares), caption)},
    )
