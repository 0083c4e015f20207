"""Adam's promises against what it does: how far it steps, what it takes for a signal, its regret.

Kingma & Ba (2015) bound its step, read its ratio of moments as a signal-to-noise ratio, correct its
bias against early instability, and prove that its regret vanishes; Reddi, Kale & Kumar (2018) show
that it need not. Here each of these is a number.

    python -m experiments adam            # about 2 minutes on 2 CPU cores
    python -m experiments adam --quick    # half a minute: shorter games, fewer seeds

Expected: a lone gradient makes a step of 3.1623 times the rate and growing ones 7.2703, the tight
bound; alternating gradients leave 1/19 of the rate. In [-1, 1], where -1 is best, Adam ends at
+.995 in the game of period 101 and at +.999 in that of period 3, AMSGrad at -.9998 and -.999.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import _adam_runs, _cli, _command


@dataclasses.dataclass(frozen=True)
class Config:
    """Adam: step bounds, signal to noise, bias, counter-examples, regret."""

    silence: _cli.Integer = 20_000
    """Most steps before the gradient that makes the largest step."""
    dim: _cli.Integer = 500
    """Coordinates of a stream of gradients, each with noise of its own."""
    signal_steps: _cli.Integer = 3_000
    """Steps down a stream of gradients."""
    early_steps: _cli.Integer = 30_000
    """Steps down a constant gradient, with and without bias correction."""
    training_steps: _cli.Integer = 3_000
    """Steps on the noisy quadratic."""
    game_steps: _cli.Integer = 300_000
    """Steps of the counter-examples, a multiple of 1000."""
    short_game_steps: _cli.Integer = 20_000
    """Steps of the one of period 3, a multiple of 1000."""
    online_dim: _cli.Integer = 20
    """Coordinates of the other online problems."""
    regret_steps: _cli.Integer = 100_000
    """Steps of the games whose rates are tuned, a multiple of 1000."""
    rates: _cli.Integer = 13
    """Number of rates from 0.001 to 10 to choose from, at least 2."""
    seeds: _cli.Integer = 16
    """Runs of each kind that are reported, at least 2."""
    tuning_seeds: _cli.Integer = 8
    """Runs of each kind that rates are tuned on, apart from the reported ones."""
    seed: _cli.Integer = 0
    """What all randomness starts from."""
    quick: bool = False
    """Shorter and fewer runs, where these options are at their defaults."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    out: _cli.Folder = Path("results/adam")
    """Folder for results, figures and report."""


QUICK = {
    "dim": 100,
    "early_steps": 10_000,
    "training_steps": 1_000,
    "regret_steps": 10_000,
    "rates": 7,
    "seeds": 6,
    "tuning_seeds": 3,
}


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Measure Adam's steps, signal-to-noise ratio, bias and regret."""
    with _command.begun(config, check, quick=QUICK) as run:
        results = _adam_runs.simulate(run.config)
        from experiments import _adam_report, _sections

        _sections.store(run.config.out, run.made(), results)
        _adam_report.write(run.config.out)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    lengths = ("silence", "signal_steps", "early_steps", "training_steps")
    games = ("game_steps", "short_game_steps", "regret_steps")
    _command.check_counts(config, 1, *lengths, *games, "dim", "online_dim", "tuning_seeds")
    _command.check_counts(config, 2, "rates", "seeds")
    _command.check_multiple(config, _adam_runs.WINDOWS, *games)
    _command.check_seed(config)
