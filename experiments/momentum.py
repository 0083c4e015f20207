"""Momentum turns a condition number into its root, and what it does where there is no such number.

Gradient descent, heavy ball and Nesterov's method on quadratics of condition number 10 ... 10^4,
each at its best constants, against the rates of theory; the velocity they reach down a slope; what
becomes of the learning rate when momentum is introduced; and four surfaces on which descent is slow
or lost, with the curvature along the way.

    python -m experiments momentum            # about a minute on 2 CPU cores
    python -m experiments momentum --quick    # half of that: shorter runs, fewer of them

Expected: measured factors a step agree with (k-1)/(k+1), (r-1)/(r+1), 1-1/r and 1-2/sqrt(3k+1), r
the root of the condition number k, to 4 digits. On the regression, all runs of decay .9 and more
diverge if the rate is kept, and none if it is multiplied by 1 - decay.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import _cli, _command, _momentum_runs
from nested_jax._core import checks as _checks


@dataclasses.dataclass(frozen=True)
class Config:
    """Momentum against Nesterov against gradient descent."""

    max_condition: _cli.Real = 1e4
    """Quadratics have condition numbers from 10 to this, at equal ratios."""
    conditions: _cli.Integer = 7
    """Number of condition numbers, at least 2."""
    dim: _cli.Integer = 10
    """Dimension of the quadratics, at least 2."""
    steps: _cli.Integer = 80_000
    """Steps on a quadratic, a multiple of 10 and at least four times `--max-condition`."""
    velocity_steps: _cli.Integer = 1000
    """Steps down a constant slope."""
    learning_rate: _cli.Real = 0.01
    """Step size on the regression without momentum."""
    regression_steps: _cli.Integer = 10_000
    """Steps on the regression, a multiple of 50."""
    seeds: _cli.Integer = 20
    """Runs on the regression for each decay, at least 2."""
    decay: _cli.Real = 0.9
    """Decay of momentum on the four surfaces, in [0, 1)."""
    surface_steps: _cli.Integer = 500
    """Steps on each of the four surfaces."""
    learning_rates: _cli.Integer = 24
    """Learning rates that are tried on each surface, at least 2."""
    starts: _cli.Integer = 30
    """Runs on each surface that begin about the first."""
    seed: _cli.Integer = 0
    """What all randomness starts from."""
    quick: bool = False
    """Shorter and fewer runs, where these options are at their defaults."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    out: _cli.Folder = Path("results/momentum")
    """Folder for results, figures and report."""


QUICK = {
    "max_condition": 1e3,
    "conditions": 3,
    "steps": 8_000,
    "regression_steps": 3_000,
    "seeds": 6,
    "learning_rates": 12,
    "starts": 10,
}


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Race momentum, Nesterov and gradient descent on quadratics and four hard surfaces."""
    with _command.begun(config, check, quick=QUICK) as run:
        results = _momentum_runs.simulate(run.config)
        from experiments import _momentum_report

        _momentum_report.write(run.config.out, run.made(), results)
        _momentum_report.show(results)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    steps = ("steps", "velocity_steps", "regression_steps", "surface_steps")
    _command.check_counts(config, 1, *steps, "starts")
    _command.check_counts(config, 2, "conditions", "dim", "seeds", "learning_rates")
    _command.check_multiple(config, _momentum_runs.STRIDE, "steps")
    _command.check_multiple(config, _momentum_runs.WINDOWS, "regression_steps")
    _checks.check_positive("--max-condition", config.max_condition)
    if config.max_condition <= 10:
        raise ValueError(f"`--max-condition` must be above 10, got {config.max_condition}.")
    if config.steps < 4 * config.max_condition:
        raise ValueError(
            "`--steps` must be at least four times `--max-condition` = "
            f"{config.max_condition:g}, or gradient descent shows no rate, got {config.steps}."
        )
    _checks.check_positive("--learning-rate", config.learning_rate)
    _checks.check_unit_interval("--decay", config.decay)
    _command.check_seed(config)
