"""Options of the momentum experiment."""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import lab

STRIDE = 10
"""Steps between two records of a quadratic's error."""
WINDOWS = 50
"""Windows of the regression's loss curve."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options."""

    max_condition: lab.Positive = 1e4
    """Quadratics have condition numbers from 10 to this, at equal ratios."""
    conditions: lab.Several = 7
    """Number of condition numbers, at least 2."""
    dim: lab.Several = 10
    """Dimension of the quadratics, at least 2."""
    steps: Annotated[int, lab.count(multiple=STRIDE)] = 80_000
    """Steps on a quadratic, a multiple of 10 and at least four times `--max-condition`."""
    velocity_steps: lab.Count = 1000
    """Steps down a constant slope."""
    learning_rate: lab.Positive = 0.01
    """Learning rate on the regression without momentum."""
    regression_steps: Annotated[int, lab.count(multiple=WINDOWS)] = 10_000
    """Steps on the regression, a multiple of 50."""
    seeds: lab.Several = 20
    """Runs on the regression for each decay, at least 2."""
    decay: lab.UnitInterval = 0.9
    """Decay of momentum on the four surfaces."""
    surface_steps: lab.Count = 500
    """Steps on each of the four surfaces."""
    learning_rates: lab.Several = 24
    """Learning rates to try on each surface, at least 2."""
    starts: lab.Count = 30
    """Runs on each surface from random starts around the first."""
    mitigation_steps: lab.Count = 2500
    """Steps on each surface with a mitigation of its bad conditioning."""
    mitigation_starts: Annotated[int, lab.count(12, multiple=2)] = 40
    """Random starts on each surface with a mitigation: half to choose the learning rate, half to
    count steps. Even; with less than 12, six in each half, a median has no 95 % interval."""
    escape_steps: lab.Count = 1000
    """Steps to leave a local minimum in."""
    escape_runs: lab.Several = 200
    """Runs from the local minimum for each batch size, at least 2."""
    seed: lab.Seed = 0
    quick: lab.Quick = False
    device: lab.Device = "auto"
    out: lab.Folder = Path("results/momentum")


QUICK = {
    "max_condition": 100.0,
    "conditions": 2,
    "steps": 1_000,
    "velocity_steps": 500,
    "regression_steps": 2_000,
    "seeds": 4,
    "surface_steps": 200,
    "learning_rates": 6,
    "starts": 4,
    "mitigation_steps": 200,
    "mitigation_starts": 12,
    "escape_steps": 500,
    "escape_runs": 20,
}


def check(config: Config) -> None:
    """Raise for the first rule between options that is broken."""
    if config.max_condition <= 10:
        raise ValueError(f"`--max-condition` must be above 10, got {config.max_condition}.")
    if config.steps < 4 * config.max_condition:
        raise ValueError(
            "`--steps` must be at least four times `--max-condition` = "
            f"{config.max_condition:g}, or gradient descent shows no rate, got {config.steps}."
        )
