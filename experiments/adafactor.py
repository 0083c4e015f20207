"""Adafactor's gauges: whether the second moment is stale, what clipping does of it, what it saves.

Shazeer & Stern (2018) take the root mean square of an update as the gauge of a second moment that
lags behind: 1 is healthy, above 1 is stale. It is followed over trainings of a small network on
real images, for their schedules of beta2 and constant ones, with and without clipping, with
ramp-up and decay of the step; and through a change of labels half-way, which leaves every second
moment stale. And the state is weighed, as arrays and by XLA, against Adam's.

    python -m experiments adafactor            # about 3 minutes on 2 CPU cores
    python -m experiments adafactor --quick    # half a minute: fewer and shorter runs

Expected: a constant beta2 of .999 without correction begins with updates 31.62 times those of a
schedule, which clipping takes back; schedules stay below 2 until the labels change, when 1 - t^-.5
rises to 5, the paper's 1 - t^-.8 to 11 and .999 to 16. Without clipping .999 diverges at a cap of
.3. Of a matrix of 4096 x 4096 Adam holds 128 MiB and Adafactor 32 KiB.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments import _adafactor_runs, _cli, _command, _data


@dataclasses.dataclass(frozen=True)
class Config:
    """Adafactor: stale second moments, clipping, and the memory of the state."""

    data: str = "digits"
    """digits, fashion-mnist, or a folder of idx files."""
    download: bool = False
    """Fetch Fashion-MNIST where it is not on this machine."""
    hidden: _cli.Integer = 64
    """Width of the hidden layer."""
    batch_size: _cli.Integer = 32
    """Examples a step."""
    steps: _cli.Integer = 2_000
    """Steps of each run, a multiple of 100."""
    caps: _cli.Integer = 5
    """Number of caps of the relative step, at ratios of the root of 10 from 0.00316; at least 2."""
    seeds: _cli.Integer = 5
    """Runs of each kind, at least 2."""
    seed: _cli.Integer = 0
    """What all randomness starts from."""
    quick: bool = False
    """Shorter and fewer runs, where these options are at their defaults."""
    device: Annotated[str, _cli.word("auto", "cpu", "gpu")] = "auto"
    """Where to run."""
    out: _cli.Folder = Path("results/adafactor")
    """Folder for results, figures and report."""


QUICK = {"hidden": 32, "steps": 500, "caps": 2, "seeds": 3}


def main(config: Annotated[Config, _cli.OPTIONS]) -> None:
    """Follow Adafactor's gauges through trainings, and weigh its state."""
    with _command.begun(config, check, load=_data.asked, quick=QUICK) as run:
        results = _adafactor_runs.simulate(run.config, run.images)
        from experiments import _adafactor_report, _sections

        _sections.store(run.config.out, run.made(), results)
        _adafactor_report.write(run.config.out)


def check(config: Config) -> None:
    """Raise for the first option out of range or of the wrong kind."""
    _command.check_counts(config, 1, "hidden", "batch_size", "steps")
    _command.check_counts(config, 2, "caps", "seeds")
    _command.check_multiple(config, 100, "steps")
    _command.check_seed(config)
